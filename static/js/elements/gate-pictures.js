// @ts-check
// Pictures and phrases for gates and channels, made from an answer of /api/v1/features.

import { CellMap } from "./cell-map.js";
import { one } from "../lib/dom.js";
import { readMap } from "../lib/maps.js";
import { of, t } from "../lib/words.js";

/** @import { Channel, Gate, Kind, Values } from "../lib/features.js" */
/** @import { MapMessage } from "../lib/maps.js" */

/**
 * @param {ParentNode} parent
 * @param {string} name
 * @param {string} text
 */
export function fill(parent, name, text) {
  one(parent, `[data-fill=${name}]`, HTMLElement).textContent = signed(text);
}

/**
 * A text with minus signs before its negative numbers.
 * @param {string} text
 */
export function signed(text) {
  return text.replace(/(?<!\w)-(?=\d)/g, "−");
}

/** @param {string} text */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** @param {number} share */
export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

/**
 * @param {number} low
 * @param {number} high
 */
export function span(low, high) {
  const digits = Math.max(Math.abs(low), Math.abs(high)) < 0.1 ? 4 : 2;
  return t("span", { low: low.toFixed(digits), high: high.toFixed(digits) });
}

/** @param {string} text */
export function caption(text) {
  const element = document.createElement("p");
  element.className = "small";
  element.textContent = signed(text);
  return element;
}

/**
 * The numbers of the values, the greatest value's first.
 * @param {number[]} values
 */
export function falling(values) {
  return values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
}

/**
 * @param {number[]} values
 * @param {number[]} order
 * @param {number} low
 * @param {number} high
 * @param {number} base
 * @param {string} label
 * @param {number | null} line
 */
export function bars(values, order, low, high, base, label, line) {
  const element = document.createElement("gate-bars");
  Object.assign(element.dataset, {
    values: order.map((i) => values[i]).join(" "),
    order: order.join(" "),
    span: `${low} ${high}`,
    base: String(base),
    label,
  });
  if (line !== null) element.dataset.line = String(line);
  return element;
}

/**
 * @param {MapMessage} message
 * @param {string} label
 * @param {number} [most] the value painted strongest, of either sign; without it the map's own range
 * @param {ArrayLike<number>} [shut]
 */
export function cells(message, label, most, shut) {
  const element = new CellMap();
  const map = readMap(message);
  const signed = most === undefined ? {} : { signed: true, high: most };
  element.show({ map, label, ...signed, ...(shut ? { shut } : {}) });
  return element;
}

/**
 * The largest absolute value of a channel before the gates and behind them.
 * @param {Channel} channel
 */
export function topOf({ before, after }) {
  return Math.max(...[before, after].flatMap(({ min, max }) => [Math.abs(min), Math.abs(max)]));
}

/**
 * What the gate with a value per channel says of one; undefined without such a gate.
 * @param {number} index
 * @param {Gate[]} gates
 */
export function valueOf(index, gates) {
  const gate = gates.find(({ kind, map }) => kind.use === "multiplied" && Array.isArray(map));
  return gate && Array.isArray(gate.map) ? gate.map[index] : undefined;
}

/**
 * A kind of gate in the page's words.
 * @param {{name: string, title: string, word: string, says?: string, text?: string}} kind
 */
export function named({ name, title, word, says = "", text = name }) {
  return { title: of(`gate.${name}.title`, title), word: of(`gate.${name}.word`, word), says: of(`gate.${text}.says`, says) };
}

/**
 * A path of a gate in the page's words.
 * @param {string} path
 */
export function pathName(path) {
  return of(`path.${path}`, path);
}

/**
 * A map's mean over channels, one value per place; null if it has none.
 * @param {Values} values
 * @param {Kind} kind
 * @returns {MapMessage | null}
 */
export function planeOf(values, kind) {
  if (Array.isArray(values)) return null;
  if (kind.axes === "HW") return values;
  const [channels, ...sides] = /** @type {number[]} */ (values.shape);
  const flat = readMap({ ...values, shape: [channels, sides.reduce((all, side) => all * side, 1)] });
  const size = flat.values.length / channels;
  const means = Array.from({ length: size }, (_, place) => {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++) sum += flat.values[channel * size + place];
    return sum / channels;
  });
  const [min, max] = [Math.min(...means), Math.max(...means)];
  const bytes = means.map((mean) => String.fromCharCode(Math.round(((mean - min) / (max - min || 1)) * 255)));
  /** @type {[number, number]} */
  const shape = kind.axes === "CH" ? [size, 1] : kind.axes === "CW" ? [1, size] : [sides[0], sides[1]];
  return { shape, dtype: "uint8", min, max, data: btoa(bytes.join("")) };
}

/**
 * How the paths come to the gate.
 * @param {Gate} gate
 */
export function sumOf({ paths, bias }) {
  if (!paths.length) return "";
  const names = paths.map(({ path }) => pathName(path)).join(" + ");
  const more = bias ? ` ${bias < 0 ? "−" : "+"} ${Math.abs(bias).toFixed(2)}` : "";
  return t("inside.sum", { terms: `${names}${more}` });
}
