// @ts-check
// The line around the places above a level.

/**
 * Marching squares: the line between values below and above `level`, as the data of an SVG path. The
 * value of column x and row y stands at x + 0.5, y + 0.5.
 * @param {Float32Array} values row by row
 * @param {number} columns
 * @param {number} rows
 * @param {number} level
 */
export function contour(values, columns, rows, level) {
  const lines = [];
  for (let y = 0; y + 1 < rows; y++) {
    for (let x = 0; x + 1 < columns; x++) {
      const at = y * columns + x;
      const corners = [values[at], values[at + 1], values[at + columns + 1], values[at + columns]];
      const [a, b, c, d] = corners.map((value) => value > level);
      if (a === b && b === c && c === d) continue;
      /** @type {(from: number, to: number) => number} how far along an edge the level is */
      const along = (from, to) => (level - corners[from]) / (corners[to] - corners[from]);
      const crossings = [];
      if (a !== b) crossings.push([x + along(0, 1), y]);
      if (b !== c) crossings.push([x + 1, y + along(1, 2)]);
      if (c !== d) crossings.push([x + along(3, 2), y + 1]);
      if (d !== a) crossings.push([x, y + along(0, 3)]);
      // Of a saddle, corners a and c are kept apart or joined as their mean says.
      const joined = corners.reduce((sum, value) => sum + value, 0) / 4 > level;
      if (crossings.length === 4 && a !== joined) crossings.unshift(...crossings.splice(3, 1));
      for (let i = 0; i < crossings.length; i += 2) {
        const [[x0, y0], [x1, y1]] = [crossings[i], crossings[i + 1]];
        lines.push(`M${(x0 + 0.5).toFixed(2)} ${(y0 + 0.5).toFixed(2)}L${(x1 + 0.5).toFixed(2)} ${(y1 + 0.5).toFixed(2)}`);
      }
    }
  }
  return lines.join("");
}
