// @ts-check
// A talk: points to make, one after the other, each about a photo of the gallery in one view.

import { t } from "./words.js";

/**
 * @typedef {{say: string, photo: string, view?: string, target?: string, family?: string, gates?: string,
 *     method?: string, layer?: string, versus?: string}} Step
 * @typedef {{title: string, steps: Step[]}} Talk
 */

const MOST_STEPS = 100;
const LONGEST = 4000; // characters of a field; of gates, as the server takes them
const FIELDS = ["say", "photo", "view", "target", "family", "gates", "method", "layer", "versus"];

/**
 * A talk's JSON, checked: it may come from anybody.
 * @param {string} text
 * @returns {Talk}
 * @throws {Error} that says what is wrong
 */
export function readTalk(text) {
  /** @type {unknown} */
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error(t("talk.no-json"));
  }
  const { title, steps } = /** @type {{title?: unknown, steps?: unknown}} */ (found ?? {});
  if (!Array.isArray(steps) || !steps.length || steps.length > MOST_STEPS) {
    throw new Error(t("talk.steps", { most: MOST_STEPS }));
  }
  return { title: typeof title === "string" ? title.slice(0, 200) : "", steps: steps.map(step) };
}

/**
 * @param {unknown} given
 * @param {number} index
 * @returns {Step}
 */
function step(given, index) {
  const number = index + 1;
  if (typeof given !== "object" || given === null) throw new Error(t("talk.no-object", { number }));
  for (const [name, value] of Object.entries(given)) {
    if (!FIELDS.includes(name)) throw new Error(t("talk.unknown", { number, name: name.slice(0, 40), fields: FIELDS.join(", ") }));
    if (typeof value !== "string" || value.length > LONGEST) throw new Error(t("talk.no-text", { number, name }));
  }
  const { say = "", photo = "" } = /** @type {Partial<Step>} */ (given);
  if (!say) throw new Error(t("talk.say", { number }));
  if (!/^[\w.-]+$/.test(photo)) throw new Error(t("talk.photo", { number }));
  return { ...given, say, photo };
}

/**
 * A talk as a part of an address: base64url of its JSON.
 * @param {Talk} talk
 */
export function encodeTalk(talk) {
  const bytes = new TextEncoder().encode(JSON.stringify(talk));
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/**
 * @param {string} text
 * @returns {Talk}
 * @throws {Error} that says what is wrong
 */
export function decodeTalk(text) {
  let json = "";
  try {
    const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    json = new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)));
  } catch {
    throw new Error(t("talk.cut"));
  }
  return readTalk(json);
}
