// @ts-check
// The same question to another route of the API: the photo, the models and the options of the answer that is shown.

import { json, one } from "./dom.js";
import { language, of, t } from "./words.js";

/** The server's refusal, or no answer at all: what went wrong, and what would work. */
export class Refused extends Error {
  /**
   * @param {string} title
   * @param {string} detail
   * @param {number} status 0: no answer
   */
  constructor(title, detail, status) {
    super(detail);
    this.title = title;
    this.detail = detail;
    this.status = status;
  }
}

/**
 * Fields of a form; null leaves out one that would be sent otherwise, a list sends several.
 * @typedef {Record<string, string | number | boolean | readonly string[] | null>} Fields
 */

const OPTIONS = ["target", "method", "layer", "versus"];

/**
 * Ask `POST /api/v1/<path>` about the photo that is shown.
 * @param {string} path
 * @param {Fields} [fields] beside and instead of the answer's own: models, target, method, layer,
 *     versus and, if they are changed, gates. A route gets those of them that it takes: see `takes`.
 * @param {{signal?: AbortSignal, accept?: string, takes?: readonly string[]}} [how]
 * @returns {Promise<Response>}
 * @throws {Refused}
 */
export async function ask(path, fields = {}, { signal, accept = "application/json", takes = OPTIONS } = {}) {
  const result = one(document, "#result", HTMLElement);
  const form = one(document, "#photo-form", HTMLFormElement);
  /** @type {Fields} */
  const all = { models: json(result, "models") };
  for (const name of takes) {
    const value = name === "gates" ? gatesOf(form) : result.dataset[name];
    if (value) all[name] = value;
  }
  const body = new FormData();
  body.set("image", await photoOf(result, form, signal), "photo");
  for (const [name, value] of Object.entries({ ...all, ...fields })) {
    if (value === null) continue;
    for (const each of Array.isArray(value) ? value : [value]) body.append(name, String(each));
  }
  const response = await send(new URL(`api/v1/${path}`, form.action), { method: "POST", headers: { Accept: accept, ...language() }, body, signal: signal ?? null });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const { status } = response;
  const title = problem.title ? of(`error.${status}`, problem.title) : t("failed.cannot");
  throw new Refused(title, problem.detail ?? t("failed.status", { status }), status);
}

/** @param {HTMLFormElement} form */
function gatesOf(form) {
  const text = form.elements.namedItem("gates");
  return text instanceof HTMLInputElement ? text.value.trim() : "";
}

/**
 * The gallery's photo, or the reader's file.
 * @param {HTMLElement} result
 * @param {HTMLFormElement} form
 * @param {AbortSignal} [signal]
 * @returns {Promise<Blob>}
 */
async function photoOf(result, form, signal) {
  const name = result.dataset.photo;
  if (name) {
    const address = new URL(`static/gallery/${encodeURIComponent(name)}`, form.action);
    return (await send(address, { signal: signal ?? null })).blob();
  }
  const file = one(form, "[name=image]", HTMLInputElement).files?.[0];
  if (!file) throw new Refused(t("failed.photo-gone"), t("failed.choose-again"), 0);
  return file;
}

/**
 * @param {URL} address
 * @param {RequestInit} request
 */
async function send(address, request) {
  try {
    return await fetch(address, request);
  } catch (error) {
    if (request.signal?.aborted) throw error;
    throw new Refused(t("failed.no-answer"), t("failed.connection"), 0);
  }
}
