// @ts-check
// <draw-box data-photo="id of the <img>" data-size='[width, height]' data-help="id of its instructions">
//
// A box that the reader draws on the photo, with the mouse, a finger or the keyboard. `box` is in
// pixels of the photo; "input" is sent whenever it was changed.

import { json, one } from "../lib/dom.js";
import { pencil } from "../lib/maps.js";
import { photo } from "../lib/photo.js";
import { t } from "../lib/words.js";

/** @import { Size, View } from "../lib/maps.js" */

const LONGEST_PX = 640;
const LEAST = 0.02; // of a side: less was a click, not a box
const STEP = 0.02; // of a side, with an arrow key

/** @typedef {[number, number, number, number]} Shares x0, y0, x1, y1 of the photo, 0..1 */

export class DrawBox extends HTMLElement {
  /** @type {Shares | undefined} */
  #shares;
  #board = document.createElement("div");
  #drawn = document.createElement("div");

  connectedCallback() {
    if (this.#board.isConnected) return; // it was only moved
    const picture = document.createElement("canvas");
    picture.setAttribute("aria-hidden", "true");
    this.#drawn.className = "drawn";
    this.#drawn.hidden = true;
    this.#board.className = "board";
    this.#board.tabIndex = 0;
    this.#board.setAttribute("role", "application");
    this.#board.setAttribute("aria-describedby", this.dataset.help ?? "");
    this.#board.append(picture, this.#drawn);
    this.replaceChildren(this.#board);
    this.#name();
    this.#listen();
    this.#draw(picture);
  }

  /**
   * The box in whole pixels of the photo.
   * @returns {View | undefined}
   */
  get box() {
    if (!this.#shares) return undefined;
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const [x0, y0, x1, y1] = this.#shares;
    const { round } = Math;
    return { x0: round(x0 * width), y0: round(y0 * height), x1: round(x1 * width), y1: round(y1 * height) };
  }

  #listen() {
    /** @type {[number, number] | undefined} where the stroke began */
    let start;
    this.#board.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.#board.setPointerCapture(event.pointerId);
      start = this.#place(event);
    });
    this.#board.addEventListener("pointermove", (event) => {
      if (start) this.#set(between(start, this.#place(event)));
    });
    this.#board.addEventListener("pointerup", (event) => {
      if (!start) return;
      const shares = between(start, this.#place(event));
      start = undefined;
      const [x0, y0, x1, y1] = shares;
      if (x1 - x0 < LEAST || y1 - y0 < LEAST) return;
      this.#set(shares);
      this.#say();
    });
    this.#board.addEventListener("pointercancel", () => {
      start = undefined;
    });
    this.#board.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const [across, down] = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key] ?? [0, 0];
    const sets = event.key === "Enter" || event.key === " ";
    if (event.altKey || event.ctrlKey || event.metaKey || (!across && !down && !sets)) return;
    event.preventDefault();
    if (!this.#shares || sets) this.#set([0.25, 0.25, 0.75, 0.75]);
    else if (event.shiftKey) this.#set(stretched(this.#shares, across, down));
    else this.#set(moved(this.#shares, across, down));
    this.#say();
  }

  /**
   * Where on the photo, 0..1.
   * @param {PointerEvent} event
   * @returns {[number, number]}
   */
  #place({ clientX, clientY }) {
    const { left, top, width, height } = this.#board.getBoundingClientRect();
    return [within((clientX - left) / width), within((clientY - top) / height)];
  }

  /** @param {Shares} shares */
  #set(shares) {
    this.#shares = shares;
    const [x0, y0, x1, y1] = shares;
    const percent = (/** @type {number} */ share) => `${share * 100}%`;
    Object.assign(this.#drawn.style, { left: percent(x0), top: percent(y0), width: percent(x1 - x0), height: percent(y1 - y0) });
    this.#drawn.hidden = false;
    this.#name();
  }

  #name() {
    const box = this.box;
    const said = box ? t("box.span", { ...box }) : t("box.none");
    this.#board.setAttribute("aria-label", t("box.label", { said }));
  }

  #say() {
    this.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** @param {HTMLCanvasElement} canvas */
  async #draw(canvas) {
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const scale = Math.min(1, LONGEST_PX / Math.max(width, height));
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    one(this, ".board", HTMLElement).style.aspectRatio = `${width} / ${height}`;
    pencil(canvas).drawImage(await photo(this.dataset.photo ?? ""), 0, 0, canvas.width, canvas.height);
  }
}

/** @param {number} share */
function within(share) {
  return Math.min(Math.max(share, 0), 1);
}

/**
 * @param {[number, number]} one
 * @param {[number, number]} other
 * @returns {Shares}
 */
function between([x, y], [u, v]) {
  return [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
}

/**
 * @param {Shares} shares
 * @param {number} across
 * @param {number} down
 * @returns {Shares}
 */
function moved([x0, y0, x1, y1], across, down) {
  const right = Math.min(Math.max(across, -x0), 1 - x1);
  const low = Math.min(Math.max(down, -y0), 1 - y1);
  return [x0 + right, y0 + low, x1 + right, y1 + low];
}

/**
 * Its right and lower side moved.
 * @param {Shares} shares
 * @param {number} across
 * @param {number} down
 * @returns {Shares}
 */
function stretched([x0, y0, x1, y1], across, down) {
  return [x0, y0, Math.min(Math.max(x1 + across, x0 + LEAST), 1), Math.min(Math.max(y1 + down, y0 + LEAST), 1)];
}

customElements.define("draw-box", DrawBox);
