// @ts-check
// <heat-map data-maps='[{label, map: MAP}, …]' data-view='{x0, y0, x1, y1}' data-size='[width, height]'
//           data-name="CBAM-ResNet-18" data-photo="id of the <img>">server's picture</heat-map>
//
// Paints the heat map of one class on the view of the photo. `view` and `size` are in pixels of the
// original photo. element.show(Shown) changes what is seen.

import { json } from "../lib/dom.js";
import { colours, enlarged, hottest, painted, pencil, readMap, role } from "../lib/maps.js";
import { photo } from "../lib/photo.js";

/** @import { MapMessage, Pencil, RawMap, Size, View } from "../lib/maps.js" */

/**
 * What is seen; what is left out stays as it is.
 * @typedef {object} Shown
 * @property {string} [target] a label among data-maps (the first one)
 * @property {string} [view] "overlay", "map", "photo" or "difference"
 * @property {number} [opacity] of the hottest cell, 0..1
 * @property {number | undefined} [top] the raw value painted hottest (the map's own maximum)
 * @property {HeatMap} [reference] the one that "difference" subtracts
 *
 * @typedef {[number, number, number, number]} Box x, y, width, height in pixels of the canvas
 */

const LONGEST_PX = 800;

export class HeatMap extends HTMLElement {
  /** @type {Shown & {view: string, opacity: number}} */
  #shown = { view: "overlay", opacity: 0.7 };
  /** @type {Map<string, RawMap> | undefined} */
  #maps;
  #canvas = document.createElement("canvas");
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

  async connectedCallback() {
    const [width, height] = /** @type {Size} */ (json(this, "size"));
    const scale = Math.min(1, LONGEST_PX / Math.max(width, height));
    this.style.aspectRatio = `${width} / ${height}`; // nothing jumps when the picture comes
    this.#photo = await photo(this.dataset.photo ?? "");
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    this.#canvas.setAttribute("role", "img");
    this.replaceChildren(this.#canvas);
    this.#paint();
  }

  /** @param {Shown} changes */
  show(changes) {
    Object.assign(this.#shown, changes);
    this.#paint();
  }

  #paint() {
    const picture = this.#photo;
    if (!picture) return; // not here yet; it will be painted then
    const { view, opacity, reference } = this.#shown;
    const map = this.map();
    const empty = map.max <= 0;
    const context = pencil(this.#canvas);
    /** @type {(layer: CanvasImageSource, alpha: number, box: Box) => void} */
    const draw = (layer, alpha, box) => {
      context.globalAlpha = alpha;
      context.drawImage(layer, ...box);
      context.globalAlpha = 1;
    };
    /** @type {Box} */
    const frame = [0, 0, this.#canvas.width, this.#canvas.height];
    const box = this.#box();

    context.clearRect(...frame);
    draw(picture, 1, frame);
    if (view === "difference") {
      this.#fade(context, 1);
      if (reference && reference !== this) draw(this.#difference(box, reference), 1, box);
    } else if (view === "overlay" && !empty) {
      this.#fade(context, opacity);
      draw(this.#heat(box, false), opacity, box);
    } else if (view === "map" && !empty) {
      draw(this.#heat(box, true), 1, box);
    }
    if (view !== "photo") this.#dimOutside(context, box);

    this.toggleAttribute("data-empty", empty && view !== "photo" && view !== "difference");
    this.#canvas.setAttribute("aria-label", this.#description(map));
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
   * The heat in colour; colder is more transparent unless `opaque`, as in cbam/render.py.
   * @param {Box} box
   * @param {boolean} opaque
   */
  #heat([, , width, height], opaque) {
    const map = this.map();
    const top = this.#shown.top ?? map.max;
    return this.#layer(["heat", this.#target, top, opaque], () => {
      const values = enlarged(map, width, height);
      const table = colours("inferno");
      return painted(width, height, (i) => {
        const value = Math.min(Math.max(values[i] / top, 0), 1);
        return [...table[Math.round(value * 255)], opaque ? 255 : 255 * Math.sqrt(value)];
      });
    });
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
      const [mine, its] = [enlarged(own, width, height), enlarged(other, width, height)];
      const [more, less] = [role("--change-more"), role("--change-less")];
      return painted(width, height, (i) => {
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
   * Takes colour from the photo, so that all colour is heat; the more, the more opaque the map is.
   * @param {Pencil} context
   * @param {number} opacity
   */
  #fade(context, opacity) {
    context.globalAlpha = Math.min(0.8, opacity * 1.2);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "black";
    context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = 1;
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
    const whose = `${this.dataset.name} for ${this.#target}`;
    if (view === "photo") return "The photo";
    if (map.max <= 0) return `${whose}: no positive evidence`;
    const kind = view === "difference" ? "Change of the heat map" : "Heat map";
    return `${kind} of ${whose}, hottest in the ${hottest(map)}`;
  }
}

customElements.define("heat-map", HeatMap);
