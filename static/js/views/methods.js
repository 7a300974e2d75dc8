// @ts-check
// <methods-view> <form> across, model, layer, fuse </form> <li class="method" data-method data-cost> … </li> … </methods-view>
//
// Every method's maps for the photo that is shown: beside each other the models, or the classes that one
// model finds most probable. Methods that cost about a forward pass are asked one after the other once
// the view is seen; the others when a button is pressed, map by map, so that they can be given up. That
// two methods give the same map is measured on their maps. On demand each map that is shown is tried by
// /faithfulness, and the rows are sorted by what comes out.

import { all, json, one } from "../lib/dom.js";
import { onShown, onTarget } from "../lib/events.js";
import { ask, Refused } from "../lib/ask.js";
import { readMap } from "../lib/maps.js";
import { t } from "../lib/words.js";
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
 *
 * What /faithfulness answers of one model.
 * @typedef {{view: object, map: MapMessage, curves: {map: {overall: number}, random_overall: number[]}}} Tried
 *
 * Some cells of a row that one request tries, and how many random orders beside each.
 * @typedef {{row: HTMLElement, cells: Cell[], orders: number}} Trial
 */

const CLASSES = 3; // beside each other
const SAME = 2.5 / 255; // of the maximum: maps travel as 8 bits
const ORDERS = 10; // random ones, for each column
const AT_ONCE = 4; // models that /faithfulness takes

class MethodsView extends HTMLElement {
  #asking = new AbortController(); // the cheap methods, and whatever belongs to this grid
  /** @type {Map<string, AbortController>} costly methods that are being asked */
  #costly = new Map();
  #isSeen = false;
  /** @type {Map<string, MapMessage[]>} method -> its maps, in the order of the columns */
  #maps = new Map();
  /** @type {Cell[]} */
  #cells = [];
  #filled = Promise.resolve(); // the cheap methods have their maps
  #measuring = new AbortController();
  /** @type {Map<string, number[]>} method -> how faithful its maps are, in the order of the columns */
  #scores = new Map();
  /** @type {number[][]} column -> the same of random orders */
  #chance = [];
  /** @type {HTMLElement[]} as the server has them: the first is what others are compared with */
  #rows = [];

  connectedCallback() {
    this.#rows = all(this, ".method", HTMLElement);
    onShown(this, () => {
      if (!this.#isSeen) this.#filled = this.#start();
      this.#isSeen = true;
    });
    onTarget((label) => {
      one(this, "[data-fill=target]", HTMLElement).textContent = label;
      this.#again();
    }, /** @type {HTMLElement} */ (this.closest("#result")));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("change", () => {
      one(this, "[data-show=classes]", HTMLElement).hidden = this.#across !== "classes";
      one(this, "[data-fill=layers]", HTMLElement).textContent = this.#layers.join(", ") || t("methods.last");
      this.#again();
    });
    this.addEventListener("click", ({ target }) => {
      const button = target instanceof Element && target.closest("button");
      const row = button && button.closest(".method");
      if (button && button.dataset.do === "measure") this.#measure();
      if (button && button.dataset.do === "stop") this.#measuring.abort();
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

  #stop() {
    this.#asking.abort();
    this.#measuring.abort();
    for (const each of this.#costly.values()) each.abort();
  }

  /** From the start, if somebody has seen the old grid. */
  #again() {
    this.#stop();
    this.#maps.clear();
    this.#scores.clear();
    this.#chance = [];
    one(this, "[data-slot=measured]", HTMLElement).textContent = "";
    one(this, ".method-rows", HTMLElement).append(...this.#rows);
    for (const row of this.#rows) {
      one(row, "[data-slot=maps]", HTMLElement).replaceChildren();
      one(row, "[data-show=same]", HTMLElement).hidden = true;
      say(row, "");
    }
    if (this.#isSeen) this.#filled = this.#start();
  }

  /** Ask for the cheap methods, one after the other. */
  async #start() {
    const { signal } = (this.#asking = new AbortController());
    const cheap = this.#rows.filter(({ dataset }) => dataset.cost === "low");
    for (const row of cheap) say(row, t("methods.waits"));
    try {
      this.#cells = await this.#columns(signal);
      for (const row of cheap) {
        say(row, t("methods.computing"));
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
    const target = targetOf(this);
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
        say(row, t("trust.at", { title: cell.title, at: at + 1, all: this.#cells.length }));
        await this.#fill(row, stop.signal, [cell]);
        bar.value = at + 1;
      }
    } catch {
      // Only given up: what the server refuses is said in the row.
    }
    if (this.#costly.get(name) !== stop) return; // a newer question has the row
    this.#costly.delete(name);
    if (stop.signal.aborted) say(row, t("cancelled"));
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
    const several = this.#several(cells);
    if (several && !("groups" in row.dataset)) {
      say(row, t("methods.one-class", { word: several }));
      return;
    }
    const isOne = this.#across === "models";
    const questions = isOne ? [cells] : cells.map((cell) => [cell]);
    try {
      /** @type {Answer[]} */
      const answers = [];
      for (const each of questions) answers.push(await this.#asked("explain", row, each, { attention: false, top_k: 1 }, signal));
      const results = answers.flatMap(({ results }) => results);
      const { width, height } = answers[0].image;
      const figures = results.map((result, at) => figure(result, cells[at].title, row, [width, height]));
      one(row, "[data-slot=maps]", HTMLElement).append(...figures);
      this.#maps.set(method, [...(this.#maps.get(method) ?? []), ...results.map(({ heatmaps }) => heatmaps[0].map)]);
      say(row, "");
      this.#label(row);
    } catch (error) {
      if (signal.aborted) throw error;
      say(row, said(error));
    }
    this.#compare();
  }

  /**
   * A target of these cells that is a word of several classes; undefined: all are classes.
   * @param {Cell[]} cells
   */
  #several(cells) {
    const words = json(this, "several");
    return cells.map(({ fields }) => fields.target ?? targetOf(this)).find((target) => words.includes(target));
  }

  /**
   * Ask about cells that differ in the model alone, or about one.
   * @param {"explain" | "faithfulness"} path
   * @param {HTMLElement} row
   * @param {Cell[]} cells
   * @param {import("../lib/ask.js").Fields} more
   * @param {AbortSignal} signal
   */
  async #asked(path, row, cells, more, signal) {
    const fields = { ...cells[0].fields, models: cells.flatMap(({ fields }) => fields.models) };
    const own = { method: row.dataset.method ?? "", layer: this.#layers, fuse: one(this.#form, "[name=fuse]", HTMLSelectElement).value };
    const takes = "versus" in row.dataset ? ["target", "versus"] : ["target"];
    return (await ask(path, { ...fields, ...own, ...more }, { signal, takes })).json();
  }

  /** Try every map that is shown and has no number yet, then sort the rows. */
  async #measure() {
    this.#measuring.abort();
    const { signal } = (this.#measuring = new AbortController());
    const [bar, status] = [one(this, ".measure progress", HTMLProgressElement), one(this, "[data-slot=measured]", HTMLElement)];
    const [start, cancel] = ["measure", "stop"].map((does) => one(this, `.measure [data-do=${does}]`, HTMLButtonElement));
    bar.removeAttribute("value");
    [start.hidden, cancel.hidden, bar.hidden] = [true, false, false];
    status.textContent = "";
    try {
      await Promise.race([this.#filled, givenUp(signal)]);
      const trials = this.#trials();
      Object.assign(bar, { value: 0, max: trials.length });
      for (const [at, trial] of trials.entries()) {
        if (signal.aborted) break;
        status.textContent = t("trust.at", { title: titleOf(trial.row), at: at + 1, all: trials.length });
        await this.#try(trial, signal);
        bar.value = at + 1;
      }
      status.textContent = signal.aborted ? t("cancelled") : this.#verdict();
    } catch (error) {
      status.textContent = signal.aborted ? t("cancelled") : said(error);
    }
    if (this.#measuring.signal !== signal) return; // a newer measurement has the button
    [start.hidden, cancel.hidden, bar.hidden] = [false, true, true];
    this.#sort();
  }

  /**
   * What is to be tried. The random orders are the same for every map of a column, so only the first
   * one is held beside them.
   * @returns {Trial[]}
   */
  #trials() {
    const rows = this.#rows.filter((row) => this.#maps.get(row.dataset.method ?? "")?.length === this.#cells.length);
    return rows.flatMap((row, at) => {
      const cells = this.#cells.slice(this.#scores.get(row.dataset.method ?? "")?.length ?? 0);
      const isFirst = at === 0 && this.#chance.length < this.#cells.length;
      // One by one if that takes long, so that the server's limit is not met, and if they differ in the class.
      const size = isFirst || row.dataset.cost !== "low" || this.#across !== "models" ? 1 : AT_ONCE;
      const groups = Array.from({ length: Math.ceil(cells.length / size) }, (_, i) => cells.slice(i * size, (i + 1) * size));
      return groups.map((group) => ({ row, cells: group, orders: isFirst ? ORDERS : 0 }));
    });
  }

  /**
   * @param {Trial} trial
   * @param {AbortSignal} signal
   */
  async #try({ row, cells, orders }, signal) {
    const method = row.dataset.method ?? "";
    /** @type {{image: Answer["image"], results: Tried[]}} */
    const { image, results } = await this.#asked("faithfulness", row, cells, { orders }, signal);
    const known = this.#scores.get(method) ?? [];
    const maps = this.#maps.get(method) ?? [];
    const figures = all(row, "figure", HTMLElement);
    for (const [i, { view, map, curves }] of results.entries()) {
      const at = known.length + i;
      if (orders) this.#chance[at] = curves.random_overall;
      if (maps[at]?.data === map.data) continue;
      // A method that draws lots has another map each time: show the one that the number is of.
      maps[at] = map;
      const label = cells[i].fields.target ?? targetOf(this);
      figures[at]?.replaceWith(figure({ view, heatmaps: [{ label, map }] }, cells[i].title, row, [image.width, image.height]));
    }
    this.#scores.set(method, [...known, ...results.map(({ curves }) => curves.map.overall)]);
    this.#label(row);
  }

  /**
   * Write beside each map of a row how faithful it is, and what random orders get there.
   * @param {HTMLElement} row
   */
  #label(row) {
    const scores = this.#scores.get(row.dataset.method ?? "") ?? [];
    for (const [at, caption] of all(row, "figcaption", HTMLElement).entries()) {
      caption.querySelector(".score")?.remove();
      if (at >= scores.length) continue;
      const score = document.createElement("span");
      score.className = "score";
      score.dataset.score = String(scores[at]);
      const value = document.createElement("b");
      value.textContent = signed(scores[at]);
      score.append(value, " ", t("methods.random", { low: signed(Math.min(...this.#chance[at])), high: signed(Math.max(...this.#chance[at])) }));
      caption.append(score);
    }
    if (scores.length > 1 && scores.length === this.#cells.length) say(row, t("methods.average", { score: signed(mean(scores)) }));
  }

  /**
   * Rows with all their numbers, the most faithful first.
   * @returns {{row: HTMLElement, score: number}[]}
   */
  get #measured() {
    const rows = this.#rows.map((row) => ({ row, scores: this.#scores.get(row.dataset.method ?? "") ?? [] }));
    return rows
      .filter(({ scores }) => scores.length && scores.length === this.#cells.length)
      .map(({ row, scores }) => ({ row, score: mean(scores) }))
      .sort((a, b) => b.score - a.score);
  }

  #sort() {
    const sorted = this.#measured.map(({ row }) => row);
    const others = this.#rows.filter((row) => !sorted.includes(row));
    one(this, ".method-rows", HTMLElement).append(...sorted, ...others);
  }

  #verdict() {
    const sorted = this.#measured;
    if (!sorted.length) return t("methods.no-map");
    const chance = mean(this.#chance.map((each) => Math.max(...each)));
    const poor = sorted.filter(({ score }) => score <= chance).length;
    const [{ row, score }] = sorted;
    const first = t(this.#cells.length > 1 ? "methods.first-average" : "methods.first", { title: titleOf(row), score: signed(score) });
    return `${first} ${t(poor ? "methods.poor" : "methods.none-poor", { count: poor, all: sorted.length })}`;
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
 * @param {Pick<Result, "view" | "heatmaps">} result
 * @param {string} title
 * @param {HTMLElement} row
 * @param {[number, number]} size
 */
function figure(result, title, row, size) {
  const [heatmap] = result.heatmaps;
  const map = new HeatMap();
  Object.assign(map.dataset, {
    maps: JSON.stringify([heatmap]),
    view: JSON.stringify(result.view),
    size: JSON.stringify(size),
    name: t("methods.name", { title, method: titleOf(row) }),
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

/**
 * Rejects once the work is given up.
 * @param {AbortSignal} signal
 * @returns {Promise<never>}
 */
function givenUp(signal) {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
}

/** @param {HTMLElement} row */
function titleOf(row) {
  return one(row, "h3", HTMLElement).textContent?.trim() ?? "";
}

/**
 * The class that the answer explains.
 * @param {Element} element in the answer
 */
function targetOf(element) {
  return /** @type {HTMLElement} */ (element.closest("#result")).dataset.target ?? "";
}

/** @param {readonly number[]} values */
function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** @param {number} value */
function signed(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

/** @param {unknown} error */
function said(error) {
  return error instanceof Refused ? error.detail : t("methods.none");
}

customElements.define("methods-view", MethodsView);
