// @ts-check
// <methods-view> <form> across, model, layer, fuse </form> <li class="method" data-method data-cost> … </li> … </methods-view>
//
// Every method's maps for the photo that is shown: beside each other the models, or the classes that one
// model finds most probable. Methods that cost about a forward pass are asked one after the other once
// the view is seen; the others when a button is pressed, map by map, so that they can be given up. That
// two methods give the same map is measured on their maps.

import { all, one } from "../lib/dom.js";
import { onShown, onTarget } from "../lib/events.js";
import { ask, Refused } from "../lib/ask.js";
import { readMap } from "../lib/maps.js";
import { HeatMap } from "../elements/heat-map.js";

/** @import { MapMessage } from "../lib/maps.js" */

/**
 * One map to ask for: its caption and the fields that differ.
 * @typedef {{title: string, fields: {models: string[], target?: string}}} Cell
 *
 * What /explain answers of one model.
 * @typedef {{model: string, layer: string, view: object, target_probability: number,
 *     predictions: {label: string}[], heatmaps: {label: string, map: MapMessage}[]}} Result
 *
 * @typedef {{image: {width: number, height: number}, results: Result[]}} Answer
 */

const CLASSES = 3; // beside each other
const SAME = 2.5 / 255; // of the maximum: maps travel as 8 bits

class MethodsView extends HTMLElement {
  #asking = new AbortController(); // the cheap methods, and whatever belongs to this grid
  /** @type {Map<string, AbortController>} costly methods that are being asked */
  #costly = new Map();
  #isSeen = false;
  /** @type {Map<string, MapMessage[]>} method -> its maps, in the order of the columns */
  #maps = new Map();
  /** @type {Cell[]} */
  #cells = [];

  connectedCallback() {
    onShown(this, () => {
      if (!this.#isSeen) this.#start();
      this.#isSeen = true;
    });
    onTarget((label) => {
      one(this, "[data-fill=target]", HTMLElement).textContent = label;
      this.#again();
    }, /** @type {HTMLElement} */ (this.closest("#result")));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("change", () => {
      one(this, "[data-show=classes]", HTMLElement).hidden = this.#across !== "classes";
      one(this, "[data-fill=layers]", HTMLElement).textContent = this.#layers.join(", ") || "the last";
      this.#again();
    });
    this.addEventListener("click", ({ target }) => {
      const button = target instanceof Element && target.closest("button");
      const row = button && button.closest(".method");
      if (!(row instanceof HTMLElement)) return;
      if (button && button.dataset.do === "cancel") this.#costly.get(row.dataset.method ?? "")?.abort();
      else this.#costlyRow(row);
    });
  }

  disconnectedCallback() {
    this.#stop();
  }

  get #form() {
    return one(this, ".methods-tools", HTMLFormElement);
  }

  get #across() {
    return String(new FormData(this.#form).get("across"));
  }

  get #layers() {
    return new FormData(this.#form).getAll("layer").map(String);
  }

  get #rows() {
    return all(this, ".method", HTMLElement);
  }

  #stop() {
    this.#asking.abort();
    for (const each of this.#costly.values()) each.abort();
  }

  /** From the start, if somebody has seen the old grid. */
  #again() {
    this.#stop();
    this.#maps.clear();
    for (const row of this.#rows) {
      one(row, "[data-slot=maps]", HTMLElement).replaceChildren();
      one(row, "[data-show=same]", HTMLElement).hidden = true;
      say(row, "");
    }
    if (this.#isSeen) this.#start();
  }

  /** Ask for the cheap methods, one after the other. */
  async #start() {
    const { signal } = (this.#asking = new AbortController());
    const cheap = this.#rows.filter(({ dataset }) => dataset.cost === "low");
    for (const row of cheap) say(row, "waits…");
    try {
      this.#cells = await this.#columns(signal);
      for (const row of cheap) {
        say(row, "computing…");
        await this.#fill(row, signal, this.#cells);
      }
    } catch (error) {
      if (!signal.aborted) for (const row of cheap) say(row, said(error));
    }
  }

  /**
   * What stands beside each other: models, or the classes that a model finds most probable.
   * @param {AbortSignal} signal
   * @returns {Promise<Cell[]>}
   */
  async #columns(signal) {
    const select = one(this.#form, "[name=model]", HTMLSelectElement);
    if (this.#across === "models") {
      return [...select.options].map(({ value, text }) => ({ title: text, fields: { models: [value] } }));
    }
    const models = [select.value];
    const response = await ask("predict", { models, top_k: CLASSES + 1 }, { signal, takes: [] });
    /** @type {Answer} */
    const { results } = await response.json();
    const likely = results[0].predictions.map(({ label }) => label);
    const target = /** @type {HTMLElement} */ (this.closest("#result")).dataset.target ?? "";
    const labels = [target, ...likely.filter((label) => label !== target)].slice(0, CLASSES);
    return labels.map((label) => ({ title: label, fields: { models, target: label } }));
  }

  /**
   * @param {HTMLElement} row
   */
  async #costlyRow(row) {
    const name = row.dataset.method ?? "";
    const stop = new AbortController();
    const bar = one(row, "progress", HTMLProgressElement);
    const [start, cancel] = ["ask", "cancel"].map((does) => one(row, `[data-do=${does}]`, HTMLButtonElement));
    this.#costly.get(name)?.abort();
    this.#costly.set(name, stop);
    one(row, "[data-slot=maps]", HTMLElement).replaceChildren();
    this.#maps.delete(name);
    Object.assign(bar, { hidden: false, max: this.#cells.length });
    bar.removeAttribute("value");
    [start.hidden, cancel.hidden] = [true, false];
    say(row, "");
    try {
      for (const [at, cell] of this.#cells.entries()) {
        say(row, `${cell.title}: ${at + 1} of ${this.#cells.length}`);
        await this.#fill(row, stop.signal, [cell]);
        bar.value = at + 1;
      }
    } catch {
      // Only given up: what the server refuses is said in the row.
    }
    if (this.#costly.get(name) !== stop) return; // a newer question has the row
    this.#costly.delete(name);
    if (stop.signal.aborted) say(row, "Cancelled.");
    bar.hidden = true;
    [start.hidden, cancel.hidden] = [false, true];
  }

  /**
   * Ask one method for these cells and show their maps behind those that are there. Cells that differ
   * in the model alone are one question.
   * @param {HTMLElement} row
   * @param {AbortSignal} signal
   * @param {Cell[]} cells
   */
  async #fill(row, signal, cells) {
    const method = row.dataset.method ?? "";
    const layer = this.#layers;
    const fuse = one(this.#form, "[name=fuse]", HTMLSelectElement).value;
    const takes = "versus" in row.dataset ? ["target", "versus"] : ["target"];
    const isOne = this.#across === "models";
    const questions = isOne ? [{ models: cells.flatMap(({ fields }) => fields.models) }] : cells.map(({ fields }) => fields);
    try {
      /** @type {Answer[]} */
      const answers = [];
      for (const fields of questions) {
        const response = await ask("explain", { ...fields, method, layer, fuse, attention: false, top_k: 1 }, { signal, takes });
        answers.push(await response.json());
      }
      const results = answers.flatMap(({ results }) => results);
      const { width, height } = answers[0].image;
      const figures = results.map((result, at) => figure(result, cells[at].title, row, [width, height]));
      one(row, "[data-slot=maps]", HTMLElement).append(...figures);
      this.#maps.set(method, [...(this.#maps.get(method) ?? []), ...results.map(({ heatmaps }) => heatmaps[0].map)]);
      say(row, "");
    } catch (error) {
      if (signal.aborted) throw error;
      say(row, said(error));
    }
    this.#compare();
  }

  /** Mark the methods whose maps are those of the first. */
  #compare() {
    const [first, ...others] = this.#rows;
    const reference = this.#maps.get(first.dataset.method ?? "");
    for (const row of others) {
      const maps = this.#maps.get(row.dataset.method ?? "");
      const isSame = reference !== undefined && maps?.length === reference.length && maps.every((map, at) => alike(map, reference[at]));
      one(row, "[data-show=same]", HTMLElement).hidden = !isSame;
    }
  }
}

/**
 * Whether two maps are the same up to their scale: methods differ in units.
 * @param {MapMessage} one
 * @param {MapMessage} other
 */
export function alike(one, other) {
  const [a, b] = [readMap(one), readMap(other)];
  if (a.rows !== b.rows || a.columns !== b.columns || a.max > 0 !== b.max > 0) return false;
  if (a.max <= 0) return true; // both say that there is no evidence
  return a.values.every((value, at) => Math.abs(value / a.max - b.values[at] / b.max) <= SAME);
}

/**
 * @param {Result} result
 * @param {string} title
 * @param {HTMLElement} row
 * @param {[number, number]} size
 */
function figure(result, title, row, size) {
  const [heatmap] = result.heatmaps;
  const method = one(row, "h3", HTMLElement).textContent?.trim() ?? "";
  const map = new HeatMap();
  Object.assign(map.dataset, {
    maps: JSON.stringify([heatmap]),
    view: JSON.stringify(result.view),
    size: JSON.stringify(size),
    name: `${title}, ${method},`,
    photo: "result-photo",
    longest: "320",
  });
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  made.append(map, caption);
  return made;
}

/**
 * @param {HTMLElement} row
 * @param {string} text
 */
function say(row, text) {
  one(row, "[data-slot=said]", HTMLElement).textContent = text;
}

/** @param {unknown} error */
function said(error) {
  return error instanceof Refused ? error.detail : "No answer came. Try again in a moment.";
}

customElements.define("methods-view", MethodsView);
