// @ts-check
// <gate-bars data-values="0.41 0.63 …" data-label="Channel gate of …" [sorted]
//            [data-span="0 1"] [data-base="0"] [data-line="0.5"]>server's picture</gate-bars>
//
// One value per channel as bars between the ends of data-span, in channel order or sorted. They begin at
// data-base; the dashed line is data-line.

const SVG = "http://www.w3.org/2000/svg";

class GateBars extends HTMLElement {
  static observedAttributes = ["sorted"];

  get values() {
    return (this.dataset.values ?? "").split(" ").map(Number);
  }

  /**
   * Where a value is drawn: 0 at the top, 1 at the bottom.
   * @param {number} value
   */
  #down(value) {
    const [low, high] = (this.dataset.span ?? "0 1").split(" ").map(Number);
    return high > low ? Math.min(Math.max((high - value) / (high - low), 0), 1) : 1;
  }

  connectedCallback() {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${this.values.length} 1`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", this.dataset.label ?? "Channel gate");
    svg.append(document.createElementNS(SVG, "path"), document.createElementNS(SVG, "path"));
    this.replaceChildren(svg);
    this.#draw();
  }

  attributeChangedCallback() {
    if (this.isConnected) this.#draw();
  }

  #draw() {
    const [bars, half] = this.querySelectorAll("path");
    if (!bars) return; // not connected yet
    const values = this.values;
    if (this.hasAttribute("sorted")) values.sort((a, b) => b - a);
    const base = this.#down(Number(this.dataset.base ?? 0));
    const steps = values.map((value, i) => `V${this.#down(value)}H${i + 1}`);
    bars.setAttribute("d", `M0 ${base}${steps.join("")}V${base}Z`);
    const { line } = this.dataset;
    half.setAttribute("d", line === undefined ? "" : `M0 ${this.#down(Number(line))}H${values.length}`);
    half.setAttribute("class", "half");
  }
}

customElements.define("gate-bars", GateBars);
