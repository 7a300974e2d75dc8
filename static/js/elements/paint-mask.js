// @ts-check
// <paint-mask data-photo="id of the <img>" data-view='{x0, y0, x1, y1}' data-size='[width, height]' [hidden]>
//
// A spatial gate painted by hand on the view: shut, open, or left to the gate, cell by cell. With the
// mouse or a finger, or with the arrow keys and the space bar. `value` is the text of the grammar,
// "mask:10./..."; "input" is sent after every stroke.

import { all, json, one } from "../lib/dom.js";
import { pencil } from "../lib/maps.js";
import { photo } from "../lib/photo.js";
import { t } from "../lib/words.js";

/** @import { Size, View } from "../lib/maps.js" */

const SIDE = 6; // cells; enough to cover or to spare one thing
const PICTURE_PX = 360;
const BRUSHES = /** @type {const} */ ({ "0": "shut", "1": "open", ".": "own" });

export class PaintMask extends HTMLElement {
  #brush = "0";
  #grid = document.createElement("div");

  connectedCallback() {
    if (this.#grid.childElementCount) return; // it was only moved
    const legend = document.createElement("legend");
    legend.textContent = t("mask.with");
    const brushes = document.createElement("fieldset");
    brushes.className = "brushes";
    brushes.append(legend, ...Object.entries(BRUSHES).map(([value, name]) => this.#radio(value, t(`mask.${name}`))));
    this.#grid.className = "mask";
    this.#grid.setAttribute("role", "grid");
    this.#grid.setAttribute("aria-label", t("mask.cells"));
    this.#grid.replaceChildren(...Array.from({ length: SIDE }, (_, row) => this.#row(row)));
    const picture = document.createElement("canvas");
    picture.setAttribute("aria-hidden", "true");
    const board = document.createElement("div");
    board.className = "board";
    board.append(picture, this.#grid);
    this.replaceChildren(brushes, board);
    this.#listen();
    this.#draw(picture);
  }

  get #cells() {
    return all(this.#grid, "[role=gridcell]", HTMLElement);
  }

  get value() {
    const cells = this.#cells.map((cell) => cell.dataset.cell ?? ".");
    const rows = Array.from({ length: SIDE }, (_, row) => cells.slice(row * SIDE, (row + 1) * SIDE));
    return `mask:${rows.map((row) => row.join("")).join("/")}`;
  }

  /** A mask of the same grid; any other text leaves every cell to the gate. */
  set value(text) {
    const rows = text.replace(/^mask:/, "").split("/");
    const fits = rows.length === SIDE && rows.every((row) => row.length === SIDE);
    this.#cells.forEach((cell, at) => {
      this.#set(cell, fits ? rows[Math.floor(at / SIDE)][at % SIDE] : ".");
    });
  }

  /** Whether anything is painted. */
  get painted() {
    return this.#cells.some((cell) => cell.dataset.cell !== ".");
  }

  /**
   * @param {string} value
   * @param {string} name
   */
  #radio(value, name) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "brush", value, checked: value === this.#brush });
    input.addEventListener("input", (event) => {
      event.stopPropagation(); // no stroke yet
      this.#brush = value;
    });
    label.append(input, ` ${name}`);
    return label;
  }

  /** @param {number} row */
  #row(row) {
    const line = document.createElement("div");
    line.setAttribute("role", "row");
    line.append(
      ...Array.from({ length: SIDE }, (_, column) => {
        const cell = document.createElement("div");
        cell.setAttribute("role", "gridcell");
        cell.tabIndex = row === 0 && column === 0 ? 0 : -1; // one stop for Tab, arrows within
        Object.assign(cell.dataset, { row: row + 1, column: column + 1 });
        this.#set(cell, ".");
        return cell;
      }),
    );
    return line;
  }

  /**
   * @param {HTMLElement} cell
   * @param {string} value
   */
  #set(cell, value) {
    cell.dataset.cell = value;
    const said = BRUSHES[/** @type {keyof typeof BRUSHES} */ (value)] ?? BRUSHES["."];
    const { row = "", column = "" } = cell.dataset;
    cell.setAttribute("aria-label", t("mask.cell", { row, column, said: t(`mask.${said}`) }));
  }

  #listen() {
    let painting = false;
    /** @param {Event} event */
    const cellOf = ({ target }) =>
      target instanceof HTMLElement && target.matches("[role=gridcell]") ? target : undefined;
    this.#grid.addEventListener("pointerdown", (event) => {
      const cell = cellOf(event);
      if (!cell) return;
      this.#grid.setPointerCapture(event.pointerId); // a finger would keep hold of where it began
      painting = true;
      this.#set(cell, this.#brush);
      this.#focus(cell);
    });
    this.#grid.addEventListener("pointermove", (event) => {
      const under = document.elementFromPoint(event.clientX, event.clientY);
      if (painting && under instanceof HTMLElement && this.#cells.includes(under)) this.#set(under, this.#brush);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.#grid.addEventListener(end, () => {
        if (painting) this.#say();
        painting = false;
      });
    }
    this.#grid.addEventListener("keydown", (event) => {
      const cell = cellOf(event);
      if (!cell) return;
      const at = this.#cells.indexOf(cell);
      const [row, column] = [Math.floor(at / SIDE), at % SIDE];
      /** @type {Record<string, [number, number]>} */
      const moves = {
        ArrowUp: [row - 1, column],
        ArrowDown: [row + 1, column],
        ArrowLeft: [row, column - 1],
        ArrowRight: [row, column + 1],
      };
      if (event.key === " ") {
        this.#set(cell, cell.dataset.cell === this.#brush ? "." : this.#brush);
        this.#say();
      } else if (event.key in moves) {
        const [toRow, toColumn] = moves[event.key].map((place) => Math.min(Math.max(place, 0), SIDE - 1));
        this.#focus(this.#cells[toRow * SIDE + toColumn]);
      } else {
        return;
      }
      event.preventDefault(); // the page would scroll
    });
  }

  /** @param {HTMLElement} cell */
  #focus(cell) {
    for (const each of this.#cells) each.tabIndex = each === cell ? 0 : -1;
    cell.focus();
  }

  #say() {
    this.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** @param {HTMLCanvasElement} canvas */
  async #draw(canvas) {
    const { x0, y0, x1, y1 } = /** @type {View} */ (json(this, "view"));
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const scale = PICTURE_PX / Math.max(x1 - x0, y1 - y0);
    canvas.width = Math.max(1, Math.round((x1 - x0) * scale));
    canvas.height = Math.max(1, Math.round((y1 - y0) * scale));
    one(this, ".board", HTMLElement).style.aspectRatio = `${canvas.width} / ${canvas.height}`;
    const picture = await photo(this.dataset.photo ?? "");
    pencil(canvas).drawImage(picture, -x0 * scale, -y0 * scale, width * scale, height * scale);
  }
}

customElements.define("paint-mask", PaintMask);
