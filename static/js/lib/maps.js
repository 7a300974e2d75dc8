// @ts-check
// Raw maps -> pixels: the same arithmetic as cbam/render.py, so that page and PNG show the same.

import { one } from "./dom.js";
import { t } from "./words.js";

/**
 * The API's MAP: value = min + byte / 255 * (max - min).
 * @typedef {{shape: [number, number], dtype: string, min: number, max: number, data: string}} MapMessage
 *
 * The same, read.
 * @typedef {{rows: number, columns: number, values: Float32Array, min: number, max: number, mean: number}} RawMap
 *
 * The part of the photo that a model saw, in pixels of the photo.
 * @typedef {{x0: number, y0: number, x1: number, y1: number}} View
 *
 * The photo's width and height.
 * @typedef {[number, number]} Size
 *
 * @typedef {readonly number[]} Colour red, green, blue and, where asked for, alpha: 0..255
 */

/**
 * @param {MapMessage} message
 * @returns {RawMap}
 */
export function readMap({ shape: [rows, columns], min, max, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const values = Float32Array.from(bytes, (byte) => min + (byte / 255) * (max - min));
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { rows, columns, values, min, max, mean };
}

/**
 * width x height values, bilinear with cell centres (align_corners=False), clamped at the edges.
 * @param {RawMap} map
 * @param {number} width
 * @param {number} height
 */
export function enlarged({ rows, columns, values }, width, height) {
  const across = cells(width, columns);
  const down = cells(height, rows);
  const result = new Float32Array(width * height);
  for (let y = 0, at = 0; y < height; y++) {
    const [top, bottom, v] = down[y];
    for (let x = 0; x < width; x++, at++) {
      const [left, right, u] = across[x];
      const above = values[top * columns + left] * (1 - u) + values[top * columns + right] * u;
      const below = values[bottom * columns + left] * (1 - u) + values[bottom * columns + right] * u;
      result[at] = above * (1 - v) + below * v;
    }
  }
  return result;
}

/**
 * For each pixel along one side: the two cells it lies between, and how far along.
 * @param {number} pixels
 * @param {number} count
 * @returns {[number, number, number][]}
 */
function cells(pixels, count) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const position = Math.min(Math.max(((pixel + 0.5) * count) / pixels - 0.5, 0), count - 1);
    const cell = Math.floor(position);
    return [cell, Math.min(cell + 1, count - 1), position - cell];
  });
}

/**
 * A canvas of width x height; `pixel(i)` gives the colour of pixel i, with its alpha.
 * @param {number} width
 * @param {number} height
 * @param {(i: number) => Colour} pixel
 */
export function painted(width, height, pixel) {
  const canvas = new OffscreenCanvas(width, height);
  const context = pencil(canvas);
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(pixel(i), 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * A map in colour, from 0 to `top`, width x height. Colder is more transparent unless `opaque`, as in
 * cbam/render.py.
 * @param {RawMap} map
 * @param {number} width
 * @param {number} height
 * @param {{top: number, name: string, opaque: boolean}} how `name`: a colour map's
 */
export function coloured(map, width, height, { top, name, opaque }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = pencil(canvas);
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer); // one write a pixel: a repaint must not wait
  const table = packed(name, opaque);
  const values = enlarged(map, width, height);
  const scale = 255 / top;
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = table[Math.round(Math.min(Math.max(values[i] * scale, 0), 255))];
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * 256 colours with their alpha, as they lie in an image's memory.
 * @param {string} name
 * @param {boolean} opaque
 */
function packed(name, opaque) {
  const bytes = new Uint8ClampedArray(4 * 256);
  for (const [level, colour] of colours(name).entries()) {
    bytes.set([...colour, opaque ? 255 : 255 * Math.sqrt(level / 255)], 4 * level);
  }
  return new Uint32Array(bytes.buffer);
}

/** @typedef {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} Pencil */

/**
 * What draws on a canvas.
 * @param {HTMLCanvasElement | OffscreenCanvas} canvas
 * @returns {Pencil}
 */
export function pencil(canvas) {
  const context = canvas.getContext("2d");
  if (!context || !("fillRect" in context)) throw new Error(t("failed.cannot-draw"));
  return context;
}

/** @type {Map<string, Colour[]>} */
const tables = new Map();

/**
 * 256 colours of one of the server's colour maps.
 * @param {string} name such as "inferno"
 */
export function colours(name) {
  const sent = one(document, "#colour-maps", HTMLScriptElement);
  const known = tables.get(name) ?? table(JSON.parse(sent.text)[name]);
  tables.set(name, known);
  return known;
}

/**
 * @param {Colour[]} stops
 * @returns {Colour[]}
 */
function table(stops) {
  return Array.from({ length: 256 }, (_, level) => {
    const position = (level / 255) * (stops.length - 1);
    const stop = Math.min(Math.floor(position), stops.length - 2);
    return stops[stop].map((from, i) => from + (stops[stop + 1][i] - from) * (position - stop));
  });
}

/**
 * A colour of the style sheet.
 * @param {string} name such as "--change-more"
 * @returns {Colour}
 */
export function role(name) {
  const context = pencil(new OffscreenCanvas(1, 1));
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

/**
 * Where a map is hottest, in words: "upper left", "centre".
 * @param {RawMap} map
 */
export function hottest({ rows, columns, values }) {
  const at = values.indexOf(Math.max(...values));
  return placed(((at % columns) + 0.5) / columns, (Math.floor(at / columns) + 0.5) / rows);
}

/**
 * A place on a picture in words: "upper left", "centre".
 * @param {number} across 0..1
 * @param {number} down 0..1
 */
export function placed(across, down) {
  const third = (/** @type {number} */ share) => Math.min(2, Math.floor(share * 3));
  const row = ["upper-", "", "lower-"][third(down)];
  const column = ["left", "centre", "right"][third(across)];
  return t(`place.${row}${column}`);
}

/**
 * The smallest share of the cells, 0..1, that holds half of a map's heat.
 * @param {RawMap} map
 */
export function halfShare({ values }) {
  const falling = values.slice().sort().reverse();
  const half = falling.reduce((sum, value) => sum + value, 0) / 2;
  let count = 0;
  for (let sum = 0; sum < half; count++) sum += falling[count];
  return count / values.length;
}

/**
 * The mean of a map over the whole photo inside a box and outside it; a cell counts by its share.
 * @param {RawMap} map
 * @param {View} box in pixels of the photo
 * @param {Size} size
 */
export function inside({ rows, columns, values }, { x0, y0, x1, y1 }, [width, height]) {
  /** @type {(cell: number, from: number, to: number) => number} */
  const covered = (cell, from, to) => Math.max(0, Math.min(cell + 1, to) - Math.max(cell, from));
  let [within, share, whole] = [0, 0, 0];
  values.forEach((value, at) => {
    const down = covered(Math.floor(at / columns), (y0 / height) * rows, (y1 / height) * rows);
    const part = down * covered(at % columns, (x0 / width) * columns, (x1 / width) * columns);
    within += part * value;
    share += part;
    whole += value;
  });
  return { inside: within / share, outside: (whole - within) / (values.length - share) };
}
