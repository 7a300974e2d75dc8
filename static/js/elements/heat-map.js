// @ts-check
// <heat-map data-maps='[{label, map: MAP}, …]' data-view='{x0, y0, x1, y1}' data-size='[width, height]'
//           data-name="CBAM-ResNet-18" data-photo="id of the <img>" data-longest="800">server's picture</heat-map>
//
// Paints the heat map of one class on the view of the photo. `view` and `size` are in pixels of the
// original photo, `longest` the canvas's longer side. element.show(Shown) changes what is seen; element.mark(place) points at one cell.

import { contour } from "../lib/contour.js";
import { json } from "../lib/dom.js";
import { coloured, enlarged, hottest, painted, pencil, readMap, role } from "../lib/maps.js";
import { greyed, photo } from "../lib/photo.js";
import { t } from "../lib/words.js";

/** @import { MapMessage, Pencil, RawMap, Size, View } from "../lib/maps.js" */

/**
 * What is seen; what is left out stays as it is.
 * @typedef {object} Shown
 * @property {string} [target] a label among data-maps (the first one)
 * @property {string} [view] "overlay", "map", "photo" or "difference"
 * @property {number} [opacity] of the hottest cell, 0..1
 * @property {string} [colours] a colour map's name
 * @property {number | undefined} [top] the raw value painted hottest (the map's own maximum)
 * @property {number} [contour] a line around what is above this share of `top`, 0..1; 0: none
 * @property {HeatMap} [reference] the one that "difference" subtracts
 * @property {Part} [part] what part of the photo is in sight
 *
 * The part of the photo around its upper left corner (x, y), enlarged `zoom` times.
 * @typedef {{x: number, y: number, zoom: number}} Part x, y: shares of the photo's sides
 *
 * A place on the photo, as shares of its sides.
 * @typedef {{x: number, y: number}} Place
 *
 * @typedef {[number, number, number, number]} Box x, y, width, height in pixels of the canvas
 */

const LONGEST_PX = 800;
const LAYER_PX = 256; // longest side of a painted map: it is smooth, so the canvas enlarges it unseen
const CONTOUR_PX = 96;
/** @type {Part} */
export const WHOLE = { x: 0, y: 0, zoom: 1 };

export class HeatMap extends HTMLElement {
  /** @type {Shown & {view: string, opacity: number, colours: string, contour: number, part: Part}} */
  #shown = { view: "overlay", opacity: 0.7, colours: "inferno", contour: 0, part: WHOLE };
  /** @type {Map<string, RawMap> | undefined} */
  #maps;
  #canvas = document.createElement("canvas");
  #glass = glass();
  /** @type {OffscreenCanvas | undefined} */
  #photo;
  /** @type {Map<string, OffscreenCanvas>} what was painted before: a slider then only composes */
  #layers = new Map();

  /** label -> raw map, read once. */
  get maps() {
    const sent = /** @returns {{label: string, map: MapMessage}[]} */ () => json(this, "maps");
    this.#maps ??= new Map(sent().map(({ label, map }) => [label, readMap(map)]));
    return this.#maps;
  }

  /**
   * The raw map of a class; without a label, of the one that is shown.
   * @param {string} [label]
   */
  map(label = this.#target) {
    const map = this.maps.get(label);
    if (!map) throw new RangeError(`There is no map for "${label}".`);
    return map;
  }

  get #target() {
    return this.#shown.target ?? [...this.maps.keys()][0];
  }

  /** As it is painted; empty before the photo is there. */
  get canvas() {
    return this.#canvas;
  }

  async connectedCallback() {
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const longest = Number(this.dataset.longest ?? LONGEST_PX);
    const scale = Math.min(1, longest / Math.max(width, height));
    this.style.aspectRatio = `${width} / ${height}`; // nothing jumps when the picture comes
    this.#photo = await photo(this.dataset.photo ?? "");
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    this.#canvas.setAttribute("role", "img");
    this.replaceChildren(this.#canvas, this.#glass.svg);
    this.#paint();
    this.dispatchEvent(new CustomEvent("heat-painted", { bubbles: true }));
  }

  /** @param {Shown} changes */
  show(changes) {
    Object.assign(this.#shown, changes);
    this.#paint();
  }

  /**
   * Where on the photo a pointer is; null beside the picture.
   * @param {{clientX: number, clientY: number}} pointer
   * @returns {Place | null}
   */
  place({ clientX, clientY }) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    const scale = Math.min(width / this.#canvas.width, height / this.#canvas.height); // object-fit: contain
    const across = (clientX - left - width / 2) / (scale * this.#canvas.width) + 0.5;
    const down = (clientY - top - height / 2) / (scale * this.#canvas.height) + 0.5;
    if (across < 0 || across >= 1 || down < 0 || down >= 1) return null;
    const { x, y, zoom } = this.#shown.part;
    return { x: x + across / zoom, y: y + down / zoom };
  }

  /**
   * Point at the cell in which a place lies; null, or a place that the model did not see: at none.
   * @param {Place | null} place
   * @returns {{value: number, change: number | null} | null} the cell's raw value, and how much more
   *     than the reference's that is
   */
  mark(place) {
    const cell = place && this.#cell(place);
    this.#glass.cell.toggleAttribute("hidden", !cell);
    if (!cell) return null;
    const [x, y, width, height] = this.#box();
    const map = this.map();
    const [across, down] = [width / map.columns, height / map.rows];
    put(this.#glass.cell, { x: x + cell.column * across, y: y + cell.row * down, width: across, height: down });
    const value = map.values[cell.row * map.columns + cell.column];
    const { reference } = this.#shown;
    const other = reference && reference !== this ? reference.#cell(place) : null;
    if (!reference || !other) return { value, change: null };
    const its = reference.map(this.#target);
    return { value, change: value - its.values[other.row * its.columns + other.column] };
  }

  /**
   * The middle of a cell that lies so many columns and rows from the one at `place`.
   * @param {Place} place
   * @param {number} columns
   * @param {number} rows
   * @returns {Place}
   */
  beside(place, columns, rows) {
    const map = this.map();
    const { x0, y0, x1, y1 } = /** @type {View} */ (json(this, "view"));
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const from = this.#cell(place) ?? { column: Math.floor(map.columns / 2), row: Math.floor(map.rows / 2) };
    const column = Math.min(Math.max(from.column + columns, 0), map.columns - 1);
    const row = Math.min(Math.max(from.row + rows, 0), map.rows - 1);
    return {
      x: (x0 + ((column + 0.5) / map.columns) * (x1 - x0)) / width,
      y: (y0 + ((row + 0.5) / map.rows) * (y1 - y0)) / height,
    };
  }

  /** @param {Place} place */
  #cell({ x, y }) {
    const { x0, y0, x1, y1 } = /** @type {View} */ (json(this, "view"));
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const map = this.map();
    const column = Math.floor(((x * width - x0) / (x1 - x0)) * map.columns);
    const row = Math.floor(((y * height - y0) / (y1 - y0)) * map.rows);
    const isSeen = column >= 0 && column < map.columns && row >= 0 && row < map.rows;
    return isSeen ? { column, row } : null;
  }

  #paint() {
    const picture = this.#photo;
    if (!picture) return; // not here yet; it will be painted then
    const { view, opacity, reference, part } = this.#shown;
    const map = this.map();
    const empty = map.max <= 0;
    const context = pencil(this.#canvas);
    /** @type {(layer: CanvasImageSource, alpha: number, box: Box) => void} */
    const draw = (layer, alpha, box) => {
      context.globalAlpha = alpha;
      context.drawImage(layer, ...box);
      context.globalAlpha = 1;
    };
    const { width, height } = this.#canvas;
    /** @type {Box} */
    const frame = [0, 0, width, height];
    const box = this.#box();

    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(...frame);
    context.setTransform(part.zoom, 0, 0, part.zoom, -part.x * part.zoom * width, -part.y * part.zoom * height);
    draw(picture, 1, frame);
    // The photo loses its colour, so that all colour is heat; the more, the more opaque the map is.
    const fade = (/** @type {number} */ alpha) => draw(greyed(picture), Math.min(0.8, alpha * 1.2), frame);
    if (view === "difference") {
      fade(1);
      if (reference && reference !== this) draw(this.#difference(box, reference), 1, box);
    } else if (view === "overlay" && !empty) {
      fade(opacity);
      draw(this.#heat(box, false), opacity, box);
    } else if (view === "map" && !empty) {
      draw(this.#heat(box, true), 1, box);
    }
    if (view !== "photo") this.#dimOutside(context, box);

    this.#draw(box, empty);
    // What the style sheet writes on it.
    if (empty && view !== "photo" && view !== "difference") this.dataset.empty = t("heat.empty");
    else delete this.dataset.empty;
    this.toggleAttribute("data-zoomed", part.zoom > 1);
    this.#canvas.setAttribute("aria-label", this.#description(map));
  }

  /**
   * What lies over the picture as lines: the view that the model saw, and the contour.
   * @param {Box} box
   * @param {boolean} empty
   */
  #draw([x, y, width, height], empty) {
    const { part, view, contour: share } = this.#shown;
    const { svg, crop, lines } = this.#glass;
    const [across, down] = [this.#canvas.width, this.#canvas.height];
    svg.setAttribute("viewBox", `${part.x * across} ${part.y * down} ${across / part.zoom} ${down / part.zoom}`);
    put(crop, { x, y, width, height });
    crop.toggleAttribute("hidden", (width >= across && height >= down) || view === "photo");
    let path = "";
    if (share > 0 && !empty) {
      const [columns, rows] = shrunk(width, height, CONTOUR_PX);
      const map = this.map();
      path = contour(enlarged(map, columns, rows), columns, rows, share * (this.#shown.top ?? map.max));
      for (const line of lines) {
        line.setAttribute("transform", `translate(${x} ${y}) scale(${width / columns} ${height / rows})`);
      }
    }
    for (const line of lines) line.setAttribute("d", path);
  }

  /**
   * The view in pixels of the canvas.
   * @returns {Box}
   */
  #box() {
    const { x0, y0, x1, y1 } = /** @type {View} */ (json(this, "view"));
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const across = this.#canvas.width / width;
    const down = this.#canvas.height / height;
    const { round } = Math;
    return [round(x0 * across), round(y0 * down), round((x1 - x0) * across), round((y1 - y0) * down)];
  }

  /**
   * The heat in colour; colder is more transparent unless `opaque`.
   * @param {Box} box
   * @param {boolean} opaque
   */
  #heat([, , width, height], opaque) {
    const map = this.map();
    const top = this.#shown.top ?? map.max;
    const name = this.#shown.colours;
    return this.#layer(["heat", this.#target, top, opaque, name], () =>
      coloured(map, ...shrunk(width, height, LAYER_PX), { top, name, opaque }),
    );
  }

  /**
   * This map minus the reference's, both on one scale: more in one colour, less in another.
   * @param {Box} box
   * @param {HeatMap} reference
   */
  #difference([, , width, height], reference) {
    const [own, other] = [this.map(), reference.map(this.#target)];
    return this.#layer(["difference", this.#target], () => {
      const top = Math.max(own.max, other.max) || 1;
      const size = shrunk(width, height, LAYER_PX);
      const [mine, its] = [enlarged(own, ...size), enlarged(other, ...size)];
      const [more, less] = [role("--change-more"), role("--change-less")];
      return painted(...size, (i) => {
        const change = (mine[i] - its[i]) / top;
        return [...(change > 0 ? more : less), 230 * Math.abs(change)];
      });
    });
  }

  /**
   * @param {unknown[]} key
   * @param {() => OffscreenCanvas} paint
   */
  #layer(key, paint) {
    const name = key.join("|");
    const known = this.#layers.get(name) ?? paint();
    if (this.#layers.size > 8) this.#layers.clear();
    this.#layers.set(name, known);
    return known;
  }

  /**
   * What the model did not see, darkened.
   * @param {Pencil} context
   * @param {Box} box
   */
  #dimOutside(context, [x, y, width, height]) {
    const outside = new Path2D();
    outside.rect(0, 0, this.#canvas.width, this.#canvas.height);
    outside.rect(x, y, width, height);
    context.fillStyle = "rgb(0 0 0 / 50%)";
    context.fill(outside, "evenodd");
  }

  /** @param {RawMap} map */
  #description(map) {
    const { view } = this.#shown;
    const whose = t("heat.for", { name: this.dataset.name ?? "", target: this.#target });
    if (view === "photo") return t("heat.photo");
    if (map.max <= 0) return t("heat.nothing", { whose });
    return t(view === "difference" ? "heat.change" : "heat.map", { whose, place: hottest(map) });
  }
}

/**
 * A size of the same shape whose longer side is at most `longest`.
 * @param {number} width
 * @param {number} height
 * @param {number} longest
 * @returns {[number, number]}
 */
function shrunk(width, height, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  return [Math.max(2, Math.round(width * scale)), Math.max(2, Math.round(height * scale))];
}

/** Lines over the picture, which stay thin however large it is. */
function glass() {
  const make = (/** @type {string} */ name, /** @type {string} */ kind) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    made.setAttribute("class", kind);
    return made;
  };
  const svg = make("svg", "glass");
  svg.setAttribute("aria-hidden", "true");
  const lines = [make("path", "contour-edge"), make("path", "contour")];
  const [crop, cell] = [make("rect", "crop"), make("rect", "cell")];
  cell.toggleAttribute("hidden", true);
  svg.append(crop, ...lines, cell);
  return { svg, crop, cell, lines };
}

/**
 * @param {Element} element
 * @param {Record<string, number>} attributes
 */
function put(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
}

customElements.define("heat-map", HeatMap);
