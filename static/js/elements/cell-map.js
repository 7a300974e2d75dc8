// @ts-check
// <cell-map>: the cells of one map as they are, none blurred. element.show(Cells) says what is drawn.
//
// Says "cell-choice" (detail: row and column) for the cell under the pointer and, while it has the
// keyboard, for the one that the arrow keys reach: only where `choose` is set.

import { colours, pencil, role } from "../lib/maps.js";

/** @import { Colour, RawMap } from "../lib/maps.js" */

/**
 * What is seen.
 * @typedef {object} Cells
 * @property {RawMap} map
 * @property {string} label
 * @property {number} [low] painted as the lowest; with `signed` the ends are -high and high
 * @property {number} [high] painted as the highest (the map's own)
 * @property {boolean} [signed] one colour above 0, another below
 * @property {ArrayLike<number>} [shut] cells to cross out, where it is not 0
 * @property {boolean} [choose] whether a cell can be chosen
 *
 * @typedef {{row: number, column: number}} Cell
 */

const LONGEST_PX = 448;

export class CellMap extends HTMLElement {
  #canvas = document.createElement("canvas");
  #frame = document.createElement("span");
  /** @type {Cells | undefined} */
  #cells;
  /** @type {Cell} */
  #cell = { row: 0, column: 0 };

  connectedCallback() {
    this.#frame.className = "cell-frame";
    this.#frame.hidden = true;
    this.replaceChildren(this.#canvas, this.#frame);
    this.addEventListener("pointermove", (event) => this.#point(event));
    this.addEventListener("pointerdown", (event) => this.#point(event));
    this.addEventListener("keydown", (event) => this.#press(event));
    this.#paint();
  }

  /** @param {Cells} cells */
  show(cells) {
    this.#cells = cells;
    if (this.isConnected) this.#paint();
  }

  /**
   * A frame of `size` x `size` cells around a cell; 0: none.
   * @param {Cell} cell
   * @param {number} size
   */
  frame({ row, column }, size) {
    this.#cell = { row, column };
    this.#frame.hidden = size === 0;
    if (!this.#cells || size === 0) return;
    const { rows, columns } = this.#cells.map;
    const half = Math.floor(size / 2);
    /** @type {(at: number, count: number) => [string, string]} */
    const span = (at, count) => {
      const first = Math.max(0, at - half);
      const behind = Math.min(count, at + half + 1);
      return [`${(100 * first) / count}%`, `${(100 * (behind - first)) / count}%`];
    };
    const [left, width] = span(column, columns);
    const [top, height] = span(row, rows);
    Object.assign(this.#frame.style, { left, top, width, height });
  }

  /** @param {PointerEvent} event */
  #point(event) {
    if (!this.#cells?.choose) return;
    const { rows, columns } = this.#cells.map;
    const box = this.#canvas.getBoundingClientRect();
    /** @type {(share: number, count: number) => number} */
    const at = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
    this.#choose(at((event.clientY - box.top) / box.height, rows), at((event.clientX - box.left) / box.width, columns));
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    /** @type {Record<string, [number, number]>} */
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!this.#cells?.choose || !step) return;
    event.preventDefault();
    event.stopPropagation(); // the view has arrow keys, too
    const { rows, columns } = this.#cells.map;
    const row = Math.min(Math.max(this.#cell.row + step[0], 0), rows - 1);
    const column = Math.min(Math.max(this.#cell.column + step[1], 0), columns - 1);
    this.#choose(row, column);
  }

  /**
   * @param {number} row
   * @param {number} column
   */
  #choose(row, column) {
    if (row === this.#cell.row && column === this.#cell.column) return;
    this.#cell = { row, column };
    this.dispatchEvent(new CustomEvent("cell-choice", { detail: this.#cell, bubbles: true }));
  }

  #paint() {
    const cells = this.#cells;
    if (!cells) return;
    const { map, label, choose } = cells;
    const { rows, columns } = map;
    const side = Math.max(1, Math.floor(LONGEST_PX / Math.max(rows, columns)));
    Object.assign(this.#canvas, { width: columns * side, height: rows * side });
    this.style.aspectRatio = `${columns} / ${rows}`;
    this.#canvas.setAttribute("role", "img");
    this.#canvas.setAttribute("aria-label", label);
    if (choose) {
      this.tabIndex = 0;
      this.setAttribute("role", "group");
      this.setAttribute("aria-label", label);
    }
    const context = pencil(this.#canvas);
    const colour = this.#colours(cells);
    for (let row = 0, at = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, at++) {
        context.fillStyle = `rgb(${colour(map.values[at]).join(" ")})`;
        context.fillRect(column * side, row * side, side, side);
      }
    }
    if (cells.shut) this.#cross(context, cells.shut, side);
  }

  /**
   * @param {Cells} cells
   * @returns {(value: number) => Colour}
   */
  #colours({ map, low = map.min, high = map.max, signed = false }) {
    if (!signed) {
      const table = colours("viridis");
      const spread = high - low || 1;
      return (value) => table[Math.round(Math.min(Math.max((value - low) / spread, 0), 1) * 255)].map(Math.round);
    }
    const [above, below, none] = [role("--change-more"), role("--change-less"), role("--background")];
    const top = high || 1;
    return (value) => {
      const share = Math.sqrt(Math.min(Math.abs(value) / top, 1)); // small values are seen, too
      const end = value > 0 ? above : below;
      return none.map((from, i) => Math.round(from + (end[i] - from) * share));
    };
  }

  /**
   * @param {import("../lib/maps.js").Pencil} context
   * @param {ArrayLike<number>} shut
   * @param {number} side
   */
  #cross(context, shut, side) {
    const { columns } = /** @type {Cells} */ (this.#cells).map;
    context.strokeStyle = `rgb(${role("--text").join(" ")})`;
    context.lineWidth = Math.max(1, side / 14);
    context.beginPath();
    for (let at = 0; at < shut.length; at++) {
      if (!shut[at]) continue;
      const [x, y] = [(at % columns) * side, Math.floor(at / columns) * side];
      context.moveTo(x, y + side);
      context.lineTo(x + side, y);
    }
    context.stroke();
  }
}

customElements.define("cell-map", CellMap);
