// @ts-check
// <swipe-pair hidden> <select name="left"> <select name="right"> <canvas> <input type="range" name="line"> </swipe-pair>
//
// Two heat maps in one picture: the left one up to a line, the right one beyond it. Dragging over the
// picture, or the slider below it, moves the line. It shows them as they are painted in their columns.

import { one } from "../lib/dom.js";
import { pencil } from "../lib/maps.js";
import { t } from "../lib/words.js";

/** @import { HeatMap } from "./heat-map.js" */

/** @type {{left: string, right: string, line: string}} the reader's choices outlive one answer */
let kept = { left: "", right: "", line: "0.5" };

export class SwipePair extends HTMLElement {
  /** @type {HeatMap[]} */
  #maps = [];

  connectedCallback() {
    this.#line.value = kept.line;
    this.addEventListener("input", () => {
      kept = { left: this.#select("left").value, right: this.#select("right").value, line: this.#line.value };
      this.paint();
    });
    const follow = (/** @type {PointerEvent} */ event) => {
      if (!event.buttons) return;
      const { left, width } = this.#canvas.getBoundingClientRect();
      this.#line.value = String((event.clientX - left) / width);
      this.#line.dispatchEvent(new Event("input", { bubbles: true }));
    };
    this.#canvas.addEventListener("pointerdown", (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      follow(event);
    });
    this.#canvas.addEventListener("pointermove", follow);
  }

  get #canvas() {
    return one(this, "canvas", HTMLCanvasElement);
  }

  get #line() {
    return one(this, "[name=line]", HTMLInputElement);
  }

  /** @param {"left" | "right"} side */
  #select(side) {
    return one(this, `[name=${side}]`, HTMLSelectElement);
  }

  /**
   * The maps to choose from: the first and the last at first.
   * @param {HeatMap[]} maps
   */
  offer(maps) {
    this.#maps = maps;
    const names = maps.map(({ dataset }) => dataset.name ?? "");
    for (const [side, usual] of /** @type {const} */ ([["left", 0], ["right", names.length - 1]])) {
      const select = this.#select(side);
      select.replaceChildren(...names.map((name, at) => new Option(names.indexOf(name) < at ? t("swipe.second", { name }) : name, `${at}`)));
      const wanted = kept[side] || String(usual);
      select.value = Number(wanted) < names.length ? wanted : String(usual);
    }
  }

  paint() {
    const [left, right] = /** @type {const} */ (["left", "right"]).map((side) => this.#maps[Number(this.#select(side).value)]);
    if (this.hidden || !left?.canvas.width || !right?.canvas.width) return;
    const { width, height } = left.canvas;
    const canvas = this.#canvas;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = pencil(canvas);
    const at = Math.round(Number(this.#line.value) * width);
    context.drawImage(left.canvas, 0, 0);
    if (at < width) context.drawImage(right.canvas, at, 0, width - at, height, at, 0, width - at, height);
    context.fillStyle = "white";
    context.fillRect(at - 1, 0, 2, height);
    canvas.setAttribute("aria-label", t("swipe.label", { left: left.dataset.name ?? "", right: right.dataset.name ?? "" }));
  }
}

customElements.define("swipe-pair", SwipePair);
