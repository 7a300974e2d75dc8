// Raw maps -> pixels: the same arithmetic as cbam/render.py, so that page and PNG show the same.

/** The API's MAP -> {rows, columns, values, min, max, mean}; value = min + byte / 255 * (max - min). */
export function readMap({ shape: [rows, columns], min, max, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const values = Float32Array.from(bytes, (byte) => min + (byte / 255) * (max - min));
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { rows, columns, values, min, max, mean };
}

/** width x height values, bilinear with cell centres (align_corners=False), clamped at the edges. */
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

/** For each pixel along one side: the two cells it lies between, and how far along. */
function cells(pixels, count) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const position = Math.min(Math.max(((pixel + 0.5) * count) / pixels - 0.5, 0), count - 1);
    const cell = Math.floor(position);
    return [cell, Math.min(cell + 1, count - 1), position - cell];
  });
}

/** A canvas of width x height; `pixel(i)` gives the [red, green, blue, alpha] of pixel i, 0..255. */
export function painted(width, height, pixel) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(pixel(i), 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** 256 colours [red, green, blue] of one of the server's colour maps ("inferno", "viridis"). */
export function colours(name) {
  tables[name] ??= table(JSON.parse(document.getElementById("colour-maps").textContent)[name]);
  return tables[name];
}

const tables = {};

function table(stops) {
  return Array.from({ length: 256 }, (_, level) => {
    const position = (level / 255) * (stops.length - 1);
    const stop = Math.min(Math.floor(position), stops.length - 2);
    return stops[stop].map((from, i) => from + (stops[stop + 1][i] - from) * (position - stop));
  });
}

/** A colour of the style sheet ("--change-more") as [red, green, blue]. */
export function role(name) {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

/** Where a map is hottest, in words: "upper left", "centre". */
export function hottest({ rows, columns, values }) {
  const at = values.indexOf(Math.max(...values));
  const third = (cell, count) => Math.min(2, Math.floor(((cell + 0.5) / count) * 3));
  const row = ["upper", "", "lower"][third(Math.floor(at / columns), rows)];
  const column = ["left", "centre", "right"][third(at % columns, columns)];
  return `${row} ${column}`.trim();
}

/** The smallest share of the cells, 0..1, that holds half of a map's heat. */
export function halfShare({ values }) {
  const falling = values.slice().sort().reverse();
  const half = falling.reduce((sum, value) => sum + value, 0) / 2;
  let count = 0;
  for (let sum = 0; sum < half; count++) sum += falling[count];
  return count / values.length;
}

/** The photo's element once it can be drawn. */
export async function photo(id) {
  const image = document.getElementById(id);
  await image.decode();
  return image;
}
