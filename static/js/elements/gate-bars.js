// @ts-check
// <gate-bars data-values="0.41 0.63 …" data-label="Channel gate of …" [sorted]>server's picture</gate-bars>
//
// A channel gate as bars between 0 and 1, in channel order or sorted; the line is 0.5.

const SVG = "http://www.w3.org/2000/svg";

class GateBars extends HTMLElement {
  static observedAttributes = ["sorted"];

  get values() {
    return (this.dataset.values ?? "").split(" ").map(Number);
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
    const steps = values.map((value, i) => `V${1 - value}H${i + 1}`);
    bars.setAttribute("d", `M0 1${steps.join("")}V1Z`);
    half.setAttribute("d", `M0 .5H${values.length}`);
    half.setAttribute("class", "half");
  }
}

customElements.define("gate-bars", GateBars);
