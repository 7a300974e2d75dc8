// @ts-check
// <find-view data-size='[width, height]' data-detectors='[{name, network, phrase, gates}, …]'>
//   <input name="least"> <select name="of"> <button data-do="all"> [data-slot=…] …
// </find-view>
//
// Asks the detectors what is where, once its view is seen, and draws their boxes side by side. What is
// the same thing has one number and lights up everywhere. A box that is pressed shows its heat map in
// every column, and what the gates did there.

import { named } from "../elements/gate-pictures.js";
import { HeatMap } from "../elements/heat-map.js";
import { all, json, one } from "../lib/dom.js";
import { onShown } from "../lib/events.js";
import { ask, Refused } from "../lib/ask.js";
import { inside, pencil, placed, readMap } from "../lib/maps.js";
import { photo } from "../lib/photo.js";
import { counted, difference, percent, things } from "../lib/things.js";
import { listed, t } from "../lib/words.js";

/** @import { MapMessage, Size } from "../lib/maps.js" */
/** @import { Detection, Rectangle, Thing } from "../lib/things.js" */

/**
 * A kind of gate, as /api/v1/models describes it.
 * @typedef {{name: string, axes: string, word: string, title: string, lowest: number | null,
 *     highest: number | null, neutral: number | null}} GateKind
 *
 * @typedef {{name: string, network: string, phrase: string, gates: GateKind[]}} Detector
 *
 * @typedef {{detection: number, map: MapMessage, energy_in_box: number | null, energy_uniform: number,
 *     energy_of_box: number}} BoxMap
 *
 * @typedef {{block: string} & Record<string, number[] | MapMessage | null>} Block
 *
 * @typedef {{model: string, detections: Detection[], heatmaps: BoxMap[], attention: Block[]}} Answer
 */

const LONGEST_PX = 800; // of a canvas
// Everything that the slider may show; what is below it says how nearly a thing was found.
const ASKED = { score: 0.1, limit: 50, models: null, family: null };

let least = "0.3"; // the reader's choice outlives one answer

class FindView extends HTMLElement {
  /** @type {Answer[] | undefined} */
  #answers;
  /** @type {Thing[]} */
  #things = [];
  /** @type {number | undefined} the thing that is explained */
  #chosen;
  #request = new AbortController();
  /** @type {object | undefined} the run of D-RISE that is under way */
  #hiding;
  #asked = false;

  connectedCallback() {
    this.#slider.value = least;
    onShown(this, () => this.#load());
    this.addEventListener("input", ({ target }) => {
      if (target === this.#slider) this.#onLeast();
    });
    this.addEventListener("change", ({ target }) => {
      if (target === this.#of && this.#chosen !== undefined) this.#explain(this.#chosen);
    });
    this.addEventListener("click", (event) => this.#onClick(event));
    this.addEventListener("keydown", (event) => this.#onKey(event));
    for (const kind of ["mouseover", "focusin"]) this.addEventListener(kind, ({ target }) => this.#light(target));
    for (const kind of ["mouseleave", "focusout"]) this.addEventListener(kind, () => this.#light(null));
    this.#onLeast();
  }

  disconnectedCallback() {
    this.#request.abort();
  }

  get #slider() {
    return one(this, "[name=least]", HTMLInputElement);
  }

  get #of() {
    return one(this, "[name=of]", HTMLSelectElement);
  }

  get #size() {
    return /** @type {Size} */ (json(this, "size"));
  }

  get #detectors() {
    return /** @type {Detector[]} */ (json(this, "detectors"));
  }

  /** Names for people, by model. */
  get #titles() {
    return new Map(this.#detectors.map(({ name, network }) => [name, network]));
  }

  /** @param {string} name */
  #slot(name) {
    return one(this, `[data-slot=${name}]`, HTMLElement);
  }

  async #load() {
    if (this.#asked) return;
    this.#asked = true;
    this.#say(t("find.looking"));
    const answers = await this.#ask({ maps: 0, attention: false });
    if (!answers) {
      this.#asked = false; // seen again, it tries again
      return;
    }
    this.#answers = answers;
    await this.#columns();
    this.#draw();
  }

  /**
   * The detectors' answers, or none: then it is said why.
   * @param {import("../lib/ask.js").Fields} fields
   * @returns {Promise<Answer[] | undefined>}
   */
  async #ask(fields) {
    this.#request.abort(); // only the latest question counts
    const { signal } = (this.#request = new AbortController());
    this.setAttribute("aria-busy", "true");
    try {
      const models = this.#detectors.map(({ name }) => name);
      const response = await ask("detect", { ...ASKED, models, ...fields }, { signal, takes: [] });
      const { results } = await response.json();
      this.removeAttribute("aria-busy");
      return results;
    } catch (error) {
      if (signal.aborted) return undefined;
      this.removeAttribute("aria-busy");
      if (!(error instanceof Refused)) throw error;
      this.#say(`${error.title}. ${error.detail}`);
      return undefined;
    }
  }

  /** @param {string} text */
  #say(text) {
    this.#slot("said").textContent = text;
  }

  /** A column a detector, with the photo. */
  async #columns() {
    const [width, height] = this.#size;
    const scale = Math.min(1, LONGEST_PX / Math.max(width, height));
    const picture = await photo("result-photo");
    const columns = this.#detectors.map(({ name, network, phrase }) => {
      const canvas = element("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
      canvas.setAttribute("aria-hidden", "true");
      pencil(canvas).drawImage(picture, 0, 0, canvas.width, canvas.height);
      const frame = element("div", { className: "find-photo" }, canvas);
      frame.style.aspectRatio = `${width} / ${height}`;
      frame.style.maxWidth = `calc(68vh * ${width / height})`;
      frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", t("find.found", { name: network }));
      const title = element("h3", {}, `${network} `, element("span", {}, phrase));
      const column = element("article", { className: "find-column" }, title, frame, element("p", { className: "small find-note" }));
      column.dataset.model = name;
      return column;
    });
    this.#slot("columns").replaceChildren(...columns);
  }

  #onLeast() {
    least = this.#slider.value;
    one(this, "output", HTMLOutputElement).textContent = percent(Number(least));
    this.#draw();
  }

  /** Everything that is found with the least score that is asked for. */
  #draw() {
    if (!this.#answers) return;
    this.#things = things(this.#answers, Number(least));
    this.#choose(undefined);
    for (const { model, detections } of this.#answers) {
      const frame = this.#frame(model);
      for (const old of frame.querySelectorAll(".find-box, .find-ghost")) old.remove();
      const boxes = this.#things.map((thing, number) => this.#box(model, detections, thing, number));
      frame.append(...boxes);
      apart(boxes.filter((box) => box.matches(".find-box")));
      const first = frame.querySelector("button");
      if (first) first.tabIndex = 0; // the arrow keys go on from there
    }
    this.#table();
    this.#words();
  }

  /** @param {string} model */
  #frame(model) {
    return one(this, `[data-model="${CSS.escape(model)}"] .find-photo`, HTMLElement);
  }

  /**
   * A thing in a column: the model's box, or where others saw what it misses.
   * @param {string} model
   * @param {Detection[]} detections
   * @param {Thing} thing
   * @param {number} number
   */
  #box(model, detections, thing, number) {
    const own = thing.boxes.get(model);
    if (own === undefined) {
      const ghost = element("span", { className: "find-ghost" }, element("span", { className: "find-tag" }, t("find.ghost", { number: number + 1 })));
      ghost.setAttribute("aria-hidden", "true");
      ghost.dataset.thing = String(number);
      this.#lay(ghost, this.#rectangle(thing));
      return ghost;
    }
    const { box, label, score } = detections[own];
    const button = element("button", { type: "button", className: "find-box", tabIndex: -1 }, element("span", { className: "find-tag" }, `${number + 1} ${label}`));
    button.dataset.thing = String(number);
    button.toggleAttribute("data-alone", thing.boxes.size < this.#detectors.length);
    button.setAttribute("aria-pressed", "false");
    const others = this.#missing(thing).map(({ network }) => network);
    const said = { number: number + 1, label, score: percent(score), place: this.#place(box), names: listed(others) };
    button.setAttribute("aria-label", t(others.length ? "find.label-alone" : "find.label", said));
    this.#lay(button, box);
    return button;
  }

  /**
   * The surest box around a thing.
   * @param {Thing} thing
   */
  #rectangle(thing) {
    const found = (this.#answers ?? []).flatMap(({ model, detections }) => {
      const number = thing.boxes.get(model);
      return number === undefined ? [] : [detections[number]];
    });
    return found.sort((one, other) => other.score - one.score)[0].box;
  }

  /**
   * Those who do not find a thing.
   * @param {Thing} thing
   */
  #missing(thing) {
    return this.#detectors.filter(({ name }) => !thing.boxes.has(name));
  }

  /**
   * @param {HTMLElement} what
   * @param {Rectangle} box
   */
  #lay(what, { x0, y0, x1, y1 }) {
    const [width, height] = this.#size;
    const area = ((x1 - x0) * (y1 - y0)) / (width * height);
    Object.assign(what.style, {
      left: `${(x0 / width) * 100}%`,
      top: `${(y0 / height) * 100}%`,
      width: `${((x1 - x0) / width) * 100}%`,
      height: `${((y1 - y0) / height) * 100}%`,
      zIndex: what instanceof HTMLButtonElement ? String(1 + Math.round((1 - area) * 100)) : "0", // small ones lie on large ones
    });
  }

  /**
   * Where a box lies, in words.
   * @param {Rectangle} box
   */
  #place({ x0, y0, x1, y1 }) {
    const [width, height] = this.#size;
    return placed((x0 + x1) / 2 / width, (y0 + y1) / 2 / height);
  }

  /** The same as a table: a row a thing, whose button explains it. */
  #table() {
    const head = element("tr", {}, element("th", { scope: "col" }, t("find.thing")));
    head.append(...this.#detectors.map(({ network }) => element("th", { scope: "col" }, network)));
    const rows = this.#things.map((thing, number) => {
      const button = element("button", { type: "button", className: "quiet" }, `${number + 1} ${thing.label}`);
      button.setAttribute("aria-pressed", "false");
      const row = element("tr", {}, element("th", { scope: "row" }, button), ...(this.#answers ?? []).map((each) => cell(thing, each)));
      row.dataset.thing = String(number);
      return row;
    });
    const table = element("table", { className: "find-table" }, element("thead", {}, head), element("tbody", {}, ...rows));
    this.#slot("table").replaceChildren(...(rows.length ? [table] : []));
  }

  #words() {
    const answers = this.#answers ?? [];
    const count = this.#things.length;
    const everyone = this.#things.filter((thing) => !this.#missing(thing).length);
    const sentences = this.#things.flatMap((thing, number) => {
      const text = difference(this.#things, thing, this.#titles, answers);
      if (!text) return [];
      const item = element("li", {}, text);
      item.dataset.thing = String(number);
      return [item];
    });
    this.#slot("differences").replaceChildren(...sentences);
    const same = counted(everyone);
    if (!count) this.#say(t("find.none", { score: percent(Number(least)) }));
    else if (!sentences.length) this.#say(t("find.all", { things: same }));
    else if (everyone.length) this.#say(t("find.all-but", { things: same, count: sentences.length }));
    else this.#say(t("find.nothing-shared"));
  }

  /** @param {MouseEvent} event */
  #onClick({ target }) {
    const button = target instanceof Element && target.closest("button");
    if (!(button instanceof HTMLButtonElement)) return;
    const thing = thingOf(button);
    const { do: does } = button.dataset;
    if (does === "hide") this.#hide();
    else if (does === "cancel") this.#cancel();
    else if (does === "all" || (thing !== undefined && thing === this.#chosen)) this.#all();
    else if (thing !== undefined) this.#explain(thing);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === "Escape" && this.#chosen !== undefined) {
      event.preventDefault();
      this.#all();
      return;
    }
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const frame = event.target instanceof Element && event.target.matches(".find-box") && event.target.closest(".find-photo");
    if (!step || !frame) return;
    event.preventDefault();
    const boxes = all(frame, ".find-box", HTMLButtonElement);
    const at = boxes.findIndex((box) => box === event.target);
    const next = boxes[(at + step + boxes.length) % boxes.length];
    boxes[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  /**
   * Show what belongs to the thing under the pointer or the focus, everywhere.
   * @param {EventTarget | null} target
   */
  #light(target) {
    const lit = target instanceof Element ? thingOf(target) : undefined;
    for (const each of all(this, "[data-thing]", HTMLElement)) {
      each.toggleAttribute("data-lit", lit !== undefined && Number(each.dataset.thing) === lit);
    }
  }

  /** Away from the heat maps, back to all boxes. */
  #all() {
    this.#request.abort();
    this.removeAttribute("aria-busy");
    this.#choose(undefined);
    this.#words();
  }

  /**
   * Mark the thing that is explained; without one, no heat map is shown.
   * @param {number | undefined} number
   */
  #choose(number) {
    this.#chosen = number;
    for (const each of all(this, "[data-thing]", HTMLElement)) {
      const is = number !== undefined && Number(each.dataset.thing) === number;
      each.toggleAttribute("data-chosen", is);
      const button = each.matches("button") ? each : each.querySelector("button");
      button?.setAttribute("aria-pressed", String(is));
    }
    for (const each of all(this, "[data-show=chosen]", HTMLElement)) each.hidden = number === undefined;
    this.#busy(false);
    this.toggleAttribute("data-explains", number !== undefined);
    if (number !== undefined) return;
    for (const heat of this.querySelectorAll(".find-photo heat-map")) heat.remove();
    for (const note of all(this, ".find-note", HTMLElement)) note.textContent = "";
    this.#slot("gates").replaceChildren();
  }

  /**
   * Ask where a thing's boxes came from.
   * @param {number} number
   */
  async #explain(number) {
    const thing = this.#things[number];
    const { x0, y0, x1, y1 } = this.#rectangle(thing);
    this.#choose(number);
    this.#say(t("find.asking", { number: number + 1, label: thing.label }));
    const of = this.#of.value;
    const answers = await this.#ask({ box: [x0, y0, x1, y1].join(","), label: thing.label, of });
    if (!answers || this.#chosen !== number) return;
    for (const answer of answers) this.#heat(answer, thing, number);
    this.#gates(answers, thing);
    const side = t(of === "score" ? "find.its-class" : `find.its-${of}`);
    this.#say(t("find.bright", { number: number + 1, label: thing.label, side }));
  }

  /**
   * Ask for the chosen thing by D-RISE, a network at a time: each takes hundreds of passes. What has
   * come stays when it is cancelled, and the note below a map says how it was made.
   */
  async #hide() {
    const number = this.#chosen;
    if (number === undefined) return;
    const thing = this.#things[number];
    const { x0, y0, x1, y1 } = this.#rectangle(thing);
    const progress = one(this, ".find-hiding progress", HTMLProgressElement);
    const run = (this.#hiding = {});
    this.#busy(true);
    try {
      for (const [at, { name, network }] of this.#detectors.entries()) {
        progress.value = at;
        this.#say(t("find.hiding", { network, at: at + 1, all: this.#detectors.length }));
        const answers = await this.#ask({ models: [name], box: [x0, y0, x1, y1].join(","), label: thing.label, method: "d-rise", attention: false });
        if (!answers || this.#hiding !== run) return;
        this.#heat(answers[0], thing, number, t("find.d-rise"));
      }
      this.#say(t("find.hidden", { number: number + 1, label: thing.label }));
    } finally {
      if (this.#hiding === run) this.#busy(false);
    }
  }

  /** Give up what D-RISE still does. */
  #cancel() {
    this.#request.abort();
    this.removeAttribute("aria-busy");
    this.#busy(false);
    this.#say(t("cancelled"));
    one(this, "[data-do=hide]", HTMLElement).focus();
  }

  /** @param {boolean} now whether D-RISE is under way */
  #busy(now) {
    if (!now) this.#hiding = undefined;
    one(this, ".find-hiding", HTMLElement).hidden = !now;
    one(this, "[data-do=hide]", HTMLElement).hidden = now || this.#chosen === undefined;
  }

  /**
   * A box's heat map in its column, and what it is worth.
   * @param {Answer} answer
   * @param {Thing} thing
   * @param {number} number
   * @param {string} [made] how the map was made, if otherwise than the others
   */
  #heat({ model, detections, heatmaps: [found] }, thing, number, made = "") {
    const frame = this.#frame(model);
    const note = one(/** @type {HTMLElement} */ (frame.parentElement), ".find-note", HTMLElement);
    frame.querySelector("heat-map")?.remove();
    if (!found) {
      note.textContent = t("find.no-box");
      return;
    }
    const [width, height] = this.#size;
    const heat = new HeatMap();
    heat.dataset.maps = JSON.stringify([{ label: `${number + 1} ${thing.label}`, map: found.map }]);
    heat.dataset.view = JSON.stringify({ x0: 0, y0: 0, x1: width, y1: height });
    heat.dataset.size = JSON.stringify(this.#size);
    heat.dataset.name = this.#titles.get(model) ?? model;
    heat.dataset.photo = "result-photo";
    one(frame, "canvas", HTMLCanvasElement).after(heat);
    const { score } = detections[found.detection];
    const instead = thing.instead.get(model);
    const other = instead === undefined ? "" : detections[instead].label;
    const nearly = t(other ? "find.instead" : "find.nearly", { other, label: thing.label, score: percent(score) });
    const worth =
      found.energy_in_box === null
        ? t("find.nothing")
        : t("find.energy", { energy: percent(found.energy_in_box), even: percent(found.energy_uniform), full: percent(found.energy_of_box) });
    note.textContent = [made, thing.boxes.has(model) ? "" : nearly, worth].filter(Boolean).join(" ");
  }

  /**
   * What the gates of the networks did in the box, block by block.
   * @param {Answer[]} answers
   * @param {Thing} thing
   */
  #gates(answers, thing) {
    const rows = answers.flatMap(({ model, detections, heatmaps: [found], attention }) => {
      const detector = this.#detectors.find(({ name }) => name === model);
      if (!attention.length || !detector) return [];
      const box = found ? detections[found.detection].box : this.#rectangle(thing);
      const list = element("ol", { className: "blocks", tabIndex: 0 }, ...attention.map((block) => this.#block(block, detector.gates, box)));
      list.setAttribute("aria-label", t("find.blocks", { name: detector.network }));
      return [element("h3", {}, t("find.gates-of", { name: detector.network })), list];
    });
    const title = element("h2", { className: "looked" }, t("find.gates-there"));
    const told = t("find.gates-told");
    this.#slot("gates").replaceChildren(...(rows.length ? [title, element("p", { className: "small" }, told), ...rows] : []));
  }

  /**
   * @param {Block} block
   * @param {GateKind[]} kinds
   * @param {Rectangle} box
   */
  #block(block, kinds, box) {
    const [width, height] = this.#size;
    const item = element("li", { className: "block" }, element("h3", {}, block.block));
    const placesFirst = [...kinds].sort((one, other) => other.axes.length - one.axes.length);
    for (const kind of placesFirst) {
      const gate = block[kind.name];
      const { title, word } = named(kind);
      const figure = element("figure", {});
      if (kind.axes === "HW" && gate && !Array.isArray(gate) && typeof gate !== "string") {
        const tile = element("div", { className: "find-tile" });
        if (gate.max - gate.min > 1e-6) {
          const map = document.createElement("gate-map");
          map.dataset.map = JSON.stringify(gate);
          map.dataset.view = JSON.stringify({ x0: 0, y0: 0, x1: width, y1: height });
          map.dataset.size = JSON.stringify(this.#size);
          map.dataset.label = t("inside.over-photo", { title, name: block.block });
          map.dataset.photo = "result-photo";
          tile.append(map);
        } else {
          tile.append(element("div", { className: "flat" }));
        }
        const frame = element("span", { className: "find-ghost" });
        this.#lay(frame, box);
        tile.append(frame);
        const means = inside(readMap(gate), box, this.#size);
        figure.append(tile, element("figcaption", {}, element("b", {}, word), " ", t("find.means", { inside: means.inside.toFixed(3), outside: means.outside.toFixed(3) })));
      } else if (kind.axes === "C" && Array.isArray(gate)) {
        const low = kind.lowest ?? Math.min(...gate, kind.neutral ?? Infinity);
        const high = kind.highest ?? Math.max(...gate, kind.neutral ?? -Infinity);
        const bars = document.createElement("gate-bars");
        bars.dataset.values = gate.join(" ");
        bars.dataset.span = `${low} ${high}`;
        bars.dataset.base = String(kind.lowest ?? kind.neutral ?? low);
        if (kind.neutral !== null) bars.dataset.line = String(kind.neutral);
        bars.dataset.label = t("find.bars", { title, name: block.block, number: gate.length });
        figure.append(bars, element("figcaption", {}, element("b", {}, word), ` ${Math.min(...gate).toFixed(2)}–${Math.max(...gate).toFixed(2)}`));
      }
      if (figure.childElementCount) item.append(figure);
    }
    return item;
  }
}

/**
 * What a model says of a thing, as a cell of the table.
 * @param {Thing} thing
 * @param {Answer} answer
 */
function cell(thing, { model, detections }) {
  const own = thing.boxes.get(model);
  if (own !== undefined) return element("td", {}, percent(detections[own].score));
  const [instead, nearly] = [thing.instead.get(model), thing.nearly.get(model)];
  const aside = instead !== undefined ? t("find.says", { label: detections[instead].label }) : nearly !== undefined ? t("find.only", { score: percent(detections[nearly].score) }) : "";
  return element("td", { className: "find-missed" }, t("find.missed"), ...(aside ? [element("span", {}, ` (${aside})`)] : []));
}

/**
 * Tags of boxes with almost the same corner would hide each other: they stand one below the other.
 * @param {HTMLElement[]} boxes
 */
function apart(boxes) {
  /** @type {{left: number, top: number, row: number}[]} */
  const taken = [];
  for (const box of boxes) {
    const [left, top] = [Number.parseFloat(box.style.left), Number.parseFloat(box.style.top)];
    const near = taken.filter((other) => Math.abs(other.left - left) < 12 && Math.abs(other.top - top) < 6);
    const row = near.length ? Math.max(...near.map((other) => other.row)) + 1 : 0;
    taken.push({ left, top, row });
    one(box, ".find-tag", HTMLElement).style.marginTop = `${row * 1.3}em`;
  }
}

/**
 * The number of the thing that an element belongs to.
 * @param {Element} element
 */
function thingOf(element) {
  const found = element.closest("[data-thing]");
  return found instanceof HTMLElement ? Number(found.dataset.thing) : undefined;
}

/**
 * An element with properties and children.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Partial<HTMLElementTagNameMap[T]>} properties
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

customElements.define("find-view", FindView);
