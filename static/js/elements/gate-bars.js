// @ts-check
// <gate-bars data-values="0.41 0.63 …" data-label="Channel gate of …"
//            [data-span="0 1"] [data-base="0"] [data-line="0.5"]>server's picture</gate-bars>
//
// One value per channel as bars between the ends of data-span. They begin at data-base; the dashed line
// is data-line. Says "bar-choice" (detail: its number) when a bar is pressed; `mark` points at one.

const SVG = "http://www.w3.org/2000/svg";

export class GateBars extends HTMLElement {
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
    svg.setAttribute("aria-label", this.dataset.label ?? "");
    const [bars, half, mark] = [1, 2, 3].map(() => document.createElementNS(SVG, "path"));
    svg.append(bars, half, mark);
    this.replaceChildren(svg);
    const values = this.values;
    const base = this.#down(Number(this.dataset.base ?? 0));
    const steps = values.map((value, i) => `V${this.#down(value)}H${i + 1}`);
    bars.setAttribute("d", `M0 ${base}${steps.join("")}V${base}Z`);
    const { line } = this.dataset;
    half.setAttribute("d", line === undefined ? "" : `M0 ${this.#down(Number(line))}H${values.length}`);
    half.setAttribute("class", "half");
    mark.setAttribute("class", "mark");
    this.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const number = Math.floor(((event.clientX - box.left) / box.width) * values.length);
      const detail = Math.min(Math.max(number, 0), values.length - 1);
      this.dispatchEvent(new CustomEvent("bar-choice", { detail, bubbles: true }));
    });
  }

  /** @param {number} number of a bar; -1: none */
  mark(number) {
    this.querySelector(".mark")?.setAttribute("d", number < 0 ? "" : `M${number + 0.5} 0V1`);
  }
}

customElements.define("gate-bars", GateBars);
