// @ts-check
// <trust-view> three sections: <button data-run="curves">, <button data-run="strip">, <draw-box> </trust-view>
//
// Tries the maps of the answer. What takes many passes is asked for by a button, model by model, and
// can be cancelled; a box is judged as soon as it is drawn. All numbers and verdicts are the server's.

import "../elements/heat-map.js";
import { DrawBox } from "../elements/draw-box.js";
import { all, json, one } from "../lib/dom.js";
import { ask, Refused } from "../lib/ask.js";
import { onTarget } from "../lib/events.js";
import { colours, enlarged, painted, pencil, readMap } from "../lib/maps.js";
import { sentence, t } from "../lib/words.js";

/** @import { MapMessage, View } from "../lib/maps.js" */

/**
 * The answer of /api/v1/faithfulness, as far as it is shown.
 * @typedef {{deletion: number[], insertion: number[], deletion_area: number, insertion_area: number}} Order
 * @typedef {{map: Order, centre: Order, random: Order[], deletion_beats: number, insertion_beats: number}} Curves
 * @typedef {{stage: string, map: MapMessage, rank_correlation: number | null, ssim: number}} Stage
 * @typedef {{stages: Stage[], centre_rank_correlation: number | null}} Strip
 * @typedef {{hit: boolean, energy: number, ious: {threshold: number, iou: number}[], centre_hit: boolean, uniform_energy: number, uniform_iou: number}} InBox
 * @typedef {{model: string, target_probability: number, map: MapMessage, view: View, curves: Curves | null, randomisation: Strip | null, box: InBox | null, said: import("../lib/words.js").Said[]}} Tried
 *
 * @typedef {"deletion" | "insertion"} Way
 */

const TILE_PX = 96;
const TOPS = [0.1, 0.2, 0.5, 1]; // where a chart may end

/** @type {Record<"curves" | "strip", Record<string, boolean>>} what each button asks for */
const ASKS = { curves: { curves: true }, strip: { curves: false, randomisation: true } };

class TrustView extends HTMLElement {
  /** @type {AbortController | undefined} of what runs after a button */
  #running;
  /** @type {AbortController | undefined} of the box */
  #judging;
  #target = "";

  connectedCallback() {
    const result = /** @type {HTMLElement} */ (this.closest("#result"));
    this.#target = result.dataset.target ?? "";
    this.addEventListener("click", (event) => {
      const button = event.target instanceof Element && event.target.closest("button");
      if (!button) return;
      const { run, do: does } = button.dataset;
      if (run === "curves" || run === "strip") this.#run(run, /** @type {HTMLElement} */ (button.closest("section")));
      else if (does === "cancel") this.#running?.abort();
    });
    this.addEventListener("input", (event) => {
      if (event.target instanceof DrawBox) this.#judge();
    });
    onTarget((label) => this.#retarget(label), result);
  }

  disconnectedCallback() {
    this.#running?.abort();
    this.#judging?.abort();
  }

  /** @returns {string[]} */
  get #models() {
    return json(/** @type {HTMLElement} */ (this.closest("#result")), "models");
  }

  /**
   * Another class is explained: what was found is of the one before.
   * @param {string} label
   */
  #retarget(label) {
    if (label === this.#target) return;
    this.#target = label;
    this.#running?.abort();
    for (const each of all(this, "[data-fill=target]", HTMLElement)) each.textContent = label;
    for (const article of all(this, "article", HTMLElement)) {
      article.hidden = true;
      article.replaceChildren();
    }
    for (const status of all(this, ".starter [role=status]", HTMLElement)) status.textContent = "";
    this.#judge();
  }

  /**
   * @param {"curves" | "strip"} what
   * @param {HTMLElement} section
   */
  async #run(what, section) {
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    const [status, progress, cancel, button] = [
      one(section, "[role=status]", HTMLElement),
      one(section, "progress", HTMLProgressElement),
      one(section, "[data-do=cancel]", HTMLButtonElement),
      one(section, "[data-run]", HTMLButtonElement),
    ];
    const busy = (/** @type {boolean} */ now) => {
      progress.hidden = cancel.hidden = !now;
      button.hidden = now;
    };
    progress.value = 0;
    busy(true);
    try {
      for (const [number, model] of this.#models.entries()) {
        const article = one(section, `article[data-model="${CSS.escape(model)}"]`, HTMLElement);
        status.textContent = t("trust.at", { title: article.dataset.title ?? "", at: number + 1, all: this.#models.length });
        const [tried] = await this.#tried({ ...ASKS[what], models: [model] }, running.signal);
        article.replaceChildren(...(what === "curves" ? this.#curves(article, tried) : this.#strip(article, tried)));
        article.hidden = false;
        for (const key of all(section, ".key", HTMLElement)) key.hidden = false;
        progress.value = number + 1;
      }
      status.textContent = "";
    } catch (error) {
      status.textContent = running.signal.aborted ? t("cancelled") : failure(error);
    } finally {
      if (this.#running === running) this.#running = undefined;
      busy(false);
    }
  }

  /**
   * @param {import("../lib/ask.js").Fields} fields
   * @param {AbortSignal} signal
   * @returns {Promise<Tried[]>}
   */
  async #tried(fields, signal) {
    const response = await ask("faithfulness", { target: this.#target, ...fields }, { signal });
    return (await response.json()).results;
  }

  /**
   * @param {HTMLElement} article
   * @param {Tried} tried
   */
  #curves(article, { map, view, curves, said }) {
    if (!curves) throw new TypeError("The answer has no curves.");
    const heat = document.createElement("heat-map");
    Object.assign(heat.dataset, {
      maps: JSON.stringify([{ label: this.#target, map }]),
      view: JSON.stringify(view),
      size: one(this, "draw-box", DrawBox).dataset.size,
      name: article.dataset.title,
      photo: "result-photo",
    });
    return [
      made("h4", article.dataset.title ?? ""),
      heat,
      made("p", told(said), "says"),
      this.#chart(curves, "deletion", t("trust.taken"), t("trust.lower")),
      this.#chart(curves, "insertion", t("trust.given"), t("trust.higher")),
    ];
  }

  /**
   * One test: the curves, and their areas in words.
   * @param {Curves} curves
   * @param {Way} way
   * @param {string} title
   * @param {string} better
   */
  #chart({ map, centre, random }, way, title, better) {
    const lines = [map, centre, ...random].map((order) => order[way]);
    const highest = Math.max(...lines.flat());
    const top = TOPS.find((each) => each >= highest) ?? 1;
    const svg = drawn("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" });
    /** @type {(values: number[]) => string[]} */
    const points = (values) => values.map((value, at) => `${(at / (values.length - 1)) * 100},${100 - (value / top) * 100}`);
    const at = random.length ? lines[0].map((_, step) => random.map((order) => order[way][step])) : [];
    const band = [...points(at.map((values) => Math.max(...values))), ...points(at.map((values) => Math.min(...values))).reverse()];
    svg.append(
      drawn("polygon", { class: "band", points: band.join(" ") }),
      drawn("polyline", { class: "line-centre", points: points(centre[way]).join(" ") }),
      drawn("polyline", { class: "line-map", points: points(map[way]).join(" ") }),
    );
    const area = (/** @type {Order} */ order) => (way === "deletion" ? order.deletion_area : order.insertion_area);
    const areas = random.map(area);
    const spread = areas.length ? t("span", { low: short(Math.min(...areas)), high: short(Math.max(...areas)) }) : t("trust.none");
    svg.setAttribute("aria-label", t(`trust.${way}`, { title, area: short(area(map)), centre: short(area(centre)), random: spread }));
    const figure = made("figure", "", "chart");
    const plot = made("div", "", "plot");
    plot.append(made("span", percent(top), "axis top"), svg, made("span", "0\u00a0%", "axis low"));
    const caption = made("figcaption", "");
    const own = made("p", "");
    own.append(made("b", t("titled", { title, text: short(area(map)) })), ` ${better}`);
    own.dataset.area = String(area(map));
    caption.append(own, made("p", t("trust.areas", { centre: short(area(centre)), random: spread }), "small"));
    figure.append(plot, caption);
    return figure;
  }

  /**
   * @param {HTMLElement} article
   * @param {Tried} tried
   */
  #strip(article, { map, randomisation, said }) {
    if (!randomisation) throw new TypeError("The answer has no random networks.");
    const list = made("ol", "", "tiles");
    list.append(this.#tile(map, t("trust.trained"), "", article.dataset.title ?? ""));
    randomisation.stages.forEach(({ stage, map: each, rank_correlation: alike }, number) => {
      const value = alike === null ? t("trust.no-evidence") : signed(alike);
      const tile = this.#tile(each, `${number ? "+ " : ""}${stage}`, value, article.dataset.title ?? "");
      tile.dataset.alike = String(alike);
      list.append(tile);
    });
    const centre = randomisation.centre_rank_correlation;
    const control = centre === null ? "" : t("trust.control", { value: signed(centre) });
    return [made("h4", article.dataset.title ?? ""), made("p", told(said), "says"), list, made("p", control, "small")];
  }

  /**
   * @param {MapMessage} message
   * @param {string} stage
   * @param {string} value
   * @param {string} title
   */
  #tile(message, stage, value, title) {
    const map = readMap(message);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = TILE_PX;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", t(value ? "trust.tile-value" : "trust.tile", { title, stage, value }));
    if (map.max > 0) {
      const values = enlarged(map, TILE_PX, TILE_PX);
      const table = colours("inferno");
      const picture = painted(TILE_PX, TILE_PX, (i) => [...table[Math.round(Math.min(Math.max(values[i] / map.max, 0), 1) * 255)], 255]);
      pencil(canvas).drawImage(picture, 0, 0);
    }
    const tile = made("li", "");
    tile.append(canvas, made("span", stage), made("span", value, "alike"));
    return tile;
  }

  /** Judge the box that is drawn; of several in a row the last one counts. */
  async #judge() {
    const box = one(this, "draw-box", DrawBox).box;
    if (!box) return;
    this.#judging?.abort();
    const judging = (this.#judging = new AbortController());
    const place = one(this, "[data-slot=box]", HTMLElement);
    place.setAttribute("aria-busy", "true");
    try {
      const fields = { curves: false, box: [box.x0, box.y0, box.x1, box.y1].join(",") };
      /** @type {Tried[]} */
      const found = [];
      for (const model of this.#models) found.push(...(await this.#tried({ ...fields, models: [model] }, judging.signal)));
      place.replaceChildren(this.#table(found));
    } catch (error) {
      if (judging.signal.aborted) return;
      place.replaceChildren(made("p", failure(error), "trouble"));
    }
    place.removeAttribute("aria-busy");
  }

  /** @param {Tried[]} found */
  #table(found) {
    const table = made("table", "");
    const head = made("tr", "");
    for (const title of ["", t("trust.in-box"), t("trust.hottest"), t("trust.around")]) {
      const cell = made(title ? "th" : "td", title);
      if (title) cell.setAttribute("scope", "col");
      head.append(cell);
    }
    table.append(head);
    for (const { model, box } of found) {
      if (!box) continue;
      const title = one(this, `article[data-model="${CSS.escape(model)}"]`, HTMLElement).dataset.title ?? model;
      table.append(this.#row(title, percent(box.energy), box.hit ? t("trust.inside") : t("trust.outside"), `IoU ${box.ious[0].iou.toFixed(2)}`, box));
    }
    const first = found[0]?.box;
    if (first) {
      const blind = this.#row(t("trust.knows-nothing"), percent(first.uniform_energy), first.centre_hit ? t("trust.centre-inside") : t("trust.centre-outside"), `IoU ${first.uniform_iou.toFixed(2)}`);
      blind.className = "blind";
      table.append(blind);
    }
    return table;
  }

  /**
   * @param {string} title
   * @param {string} energy
   * @param {string} point
   * @param {string} iou
   * @param {InBox} [box]
   */
  #row(title, energy, point, iou, box) {
    const row = made("tr", "");
    const name = made("th", title);
    name.setAttribute("scope", "row");
    row.append(name, made("td", energy), made("td", point), made("td", iou));
    if (box) Object.assign(row.dataset, { energy: box.energy, iou: box.ious[0].iou });
    return row;
  }
}

/**
 * @param {string} name
 * @param {string} text
 * @param {string} [kind]
 */
function made(name, text, kind = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

/**
 * @param {string} name
 * @param {Record<string, string>} attributes
 */
function drawn(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** @param {number} value */
function short(value) {
  return value.toFixed(2);
}

/** @param {number} value */
function signed(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

/** @param {number} share */
function percent(share) {
  return `${Math.round(share * 100)}\u00a0%`;
}

/**
 * What it comes to, in the page's words.
 * @param {import("../lib/words.js").Said[]} sentences
 */
function told(sentences) {
  return sentences.map((each) => sentence("tried", each)).join(" ");
}

/** @param {unknown} error */
function failure(error) {
  if (error instanceof Refused) return `${error.title}. ${error.detail}`;
  throw error;
}

customElements.define("trust-view", TrustView);
