// @ts-check
// The page's words in its language. They come with the page, from static/strings/.

import { one } from "./dom.js";

/**
 * A text with {names} to fill in; or its forms for one and for any other count.
 * @typedef {string | {one: string, other: string}} Text
 *
 * @typedef {Record<string, string | number>} Values a `count` chooses the form
 *
 * A sentence of the server, and what it is made of.
 * @typedef {{case: string, values: Record<string, string>, text: string}} Said
 */

/** @type {Record<string, Text> | undefined} */
let texts;

/** @param {string} id @returns {Text | undefined} */
function find(id) {
  texts ??= /** @type {Record<string, Text>} */ (JSON.parse(one(document, "#words", HTMLScriptElement).text));
  return texts[id];
}

/**
 * The text called `id`.
 * @param {string} id
 * @param {Values} [values]
 */
export function t(id, values = {}) {
  const text = find(id);
  if (text === undefined) throw new RangeError(`There is no text "${id}".`);
  return filled(text, values);
}

/**
 * What a record of the server says: in `english`, unless this language has a text for it.
 * @param {string} id
 * @param {string} english
 * @param {Values} [values]
 */
export function of(id, english, values = {}) {
  const text = find(id);
  return text === undefined ? english : filled(text, values);
}

/**
 * A sentence of the server.
 * @param {string} about
 * @param {Said} said
 */
export function sentence(about, said) {
  return of(`${about}.${said.case}`, said.text, said.values);
}

/**
 * "A", "A and B", "A, B and C".
 * @param {string[]} names
 */
export function listed(names) {
  return [names.slice(0, -1).join(", "), ...names.slice(-1)].filter(Boolean).join(t("list.and"));
}

/** For what is asked of the server: it answers in the page's language. */
export function language() {
  return { "Accept-Language": document.documentElement.lang };
}

/**
 * @param {Text} text
 * @param {Values} values
 */
function filled(text, values) {
  const form = typeof text === "string" ? text : values.count === 1 ? text.one : text.other;
  return form.replace(/\{(\w+)\}/g, (_, name) => {
    if (!(name in values)) throw new RangeError(`"${form}" needs {${name}}.`);
    return String(values[name]);
  });
}
