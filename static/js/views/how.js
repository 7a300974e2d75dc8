// @ts-check
// <how-view data-size='[width, height]'> choice of network and block
//   <article class="how-step"> one step <nav> back, next
// </how-view>
//
// Teaches a block's attention on the photo at hand, step by step, from what each gate sees to what it
// does. The steps follow from the gates that the block has; every number is of this photo.

import { CellMap } from "../elements/cell-map.js";
import { GateBars } from "../elements/gate-bars.js";
import { bars, capital, caption, cells, falling, fill, named, pathName, planeOf, signed, span, topOf } from "../elements/gate-pictures.js";
import { Refused } from "../lib/ask.js";
import { all, one } from "../lib/dom.js";
import { onShown } from "../lib/events.js";
import { FeatureSource } from "../lib/features.js";
import { readMap } from "../lib/maps.js";
import { t } from "../lib/words.js";

/** @import { Cell } from "../elements/cell-map.js" */
/** @import { Channel, Features, Gate, Path } from "../lib/features.js" */
/** @import { MapMessage } from "../lib/maps.js" */

/** @typedef {{title: string, text: string, stage: () => Node[], note?: string}} Step */

const SVG = "http://www.w3.org/2000/svg";
const COUNT = 6; // channels to choose from
const UNITS = 5; // hidden units that are written out
const ROWS = 14; // a window moves well over a map of so many rows

class HowView extends HTMLElement {
  #source = new FeatureSource();
  /** @type {Features | undefined} */
  #features;
  #step = 0;
  #channel = 0; // position among the answer's channels
  /** @type {Cell | undefined} where the window stands */
  #cell;
  #turn = 0;

  connectedCallback() {
    this.#offerBlocks();
    this.addEventListener("change", ({ target }) => {
      if (target === this.#model) this.#offerBlocks();
      if (target instanceof HTMLSelectElement) this.#ask();
    });
    this.addEventListener("submit", (event) => event.preventDefault());
    this.addEventListener("click", ({ target }) => {
      const button = target instanceof Element && target.closest("button");
      if (!button) return;
      const { do: does, step, pick } = button.dataset;
      if (does === "back") this.#go(this.#step - 1);
      else if (does === "next") this.#go(this.#step + 1);
      else if (step) this.#go(Number(step));
      else if (pick) {
        this.#channel = Number(pick);
        this.#draw();
        all(this, "[data-pick]", HTMLElement)[this.#channel]?.focus();
      }
    });
    this.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.target instanceof HTMLSelectElement) return;
      event.preventDefault();
      this.#go(this.#step + by);
    });
    onShown(this, () => this.#ask());
  }

  get #model() {
    return one(this, "[name=model]", HTMLSelectElement);
  }

  get #block() {
    return one(this, "[name=block]", HTMLSelectElement);
  }

  get #option() {
    return this.#model.selectedOptions[0];
  }

  /** The blocks of the chosen network; at first the last one whose map a window can move over. */
  #offerBlocks() {
    const { blocks = "[]", rows = "[]" } = this.#option.dataset;
    /** @type {string[]} */
    const names = JSON.parse(blocks);
    /** @type {number[]} */
    const sizes = JSON.parse(rows);
    const wide = sizes.findLastIndex((size) => size >= ROWS);
    const chosen = wide >= 0 ? wide : Math.max(0, sizes.indexOf(Math.max(...sizes)));
    this.#block.replaceChildren(...names.map((name) => new Option(name, name)));
    this.#block.selectedIndex = chosen;
  }

  async #ask() {
    const turn = ++this.#turn;
    this.setAttribute("aria-busy", "true");
    if (!this.#features) fill(this, "place", t("form.asking"));
    try {
      const fields = { models: this.#model.value, block: this.#block.value, count: COUNT };
      const features = await this.#source.of(fields);
      if (turn !== this.#turn) return;
      this.#trouble("", "");
      if (features !== this.#features) {
        this.#features = features;
        this.#channel = 0;
        this.#cell = undefined;
        this.#step = Math.min(this.#step, this.#steps.length - 1);
      }
      this.#draw();
    } catch (error) {
      if (turn !== this.#turn) return;
      if (!(error instanceof Refused)) throw error;
      if (!this.#features) fill(this, "place", "");
      this.#trouble(error.title, error.detail);
    } finally {
      if (turn === this.#turn) this.removeAttribute("aria-busy");
    }
  }

  /**
   * @param {string} title
   * @param {string} help
   */
  #trouble(title, help) {
    one(this, ".error", HTMLElement).hidden = !title;
    fill(this, "trouble", title);
    fill(this, "help", help);
  }

  /** @param {number} step */
  #go(step) {
    if (step < 0 || step >= this.#steps.length) return;
    this.#step = step;
    this.#draw();
    one(this, ".how-step", HTMLElement).focus({ preventScroll: true });
  }

  #draw() {
    const steps = this.#steps;
    if (!steps.length) return;
    const { title, text, stage, note = "" } = steps[this.#step];
    fill(this, "place", t("how.place", { at: this.#step + 1, all: steps.length }));
    fill(this, "title", title);
    fill(this, "text", text);
    fill(this, "note", note);
    one(this, "[data-slot=stage]", HTMLElement).replaceChildren(...stage());
    const dots = steps.map((step, number) => {
      const item = document.createElement("li");
      const dot = document.createElement("button");
      dot.type = "button";
      dot.dataset.step = String(number);
      dot.setAttribute("aria-label", t("how.dot", { at: number + 1, title: step.title }));
      if (number === this.#step) dot.setAttribute("aria-current", "step");
      item.append(dot);
      return item;
    });
    one(this, "[data-slot=dots]", HTMLElement).replaceChildren(...dots);
    one(this, "[data-do=back]", HTMLButtonElement).disabled = this.#step === 0;
    one(this, "[data-do=next]", HTMLButtonElement).disabled = this.#step === steps.length - 1;
  }

  /** The steps of the block that is shown. @returns {Step[]} */
  get #steps() {
    const features = this.#features;
    if (!features) return [];
    const steps = [this.#features_step(features)];
    for (const gate of features.gates) {
      if (gate.paths.length && Array.isArray(gate.map)) steps.push(...this.#channel_steps(features, gate));
      else if (gate.paths.length && !Array.isArray(gate.map)) steps.push(...this.#spatial_steps(features, gate));
      else steps.push(this.#plain_step(gate));
    }
    return [...steps, this.#last_step(features)];
  }

  /** @param {Features} features */
  #followed({ channels }) {
    return channels[this.#channel];
  }

  /** @param {Features} features @returns {Step} */
  #features_step(features) {
    const { block, channel_count, channels } = features;
    const [rows, columns] = channels[0].before.shape;
    return {
      title: t("how.gets"),
      text: t("how.gets-text", { block, title: this.#option.dataset.title ?? "", channels: channel_count, rows, columns, shown: channels.length }),
      stage: () => [this.#photo(), this.#choices(features)],
      note: t("how.gets-note"),
    };
  }

  /** The part of the photo that the network sees. */
  #photo() {
    const { view = "{}" } = this.#option.dataset;
    const { x0, y0, x1, y1 } = JSON.parse(view);
    const picture = document.createElement("div");
    picture.className = "how-photo";
    const source = document.getElementById("result-photo");
    const image = document.createElement("img");
    if (source instanceof HTMLImageElement) image.src = source.src;
    image.alt = t("how.seen");
    const [width, height] = JSON.parse(this.dataset.size ?? "[1, 1]");
    picture.style.aspectRatio = `${x1 - x0} / ${y1 - y0}`;
    Object.assign(image.style, {
      width: `${(100 * width) / (x1 - x0)}%`,
      left: `${(-100 * x0) / (x1 - x0)}%`,
      top: `${(-100 * y0) / (y1 - y0)}%`,
      height: `${(100 * height) / (y1 - y0)}%`,
    });
    picture.append(image);
    return picture;
  }

  /** @param {Features} features */
  #choices({ channels }) {
    const list = document.createElement("ul");
    list.className = "how-channels";
    channels.forEach((channel, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.pick = String(number);
      button.setAttribute("aria-pressed", String(number === this.#channel));
      const { index } = channel;
      button.append(cells(channel.before, t("how.channel-label", { index }), topOf(channel)), caption(t("how.channel", { index })));
      const item = document.createElement("li");
      item.append(button);
      list.append(item);
    });
    return list;
  }

  /** @param {Features} features @param {Gate} gate @returns {Step[]} */
  #channel_steps(features, gate) {
    const channel = this.#followed(features);
    const values = /** @type {number[]} */ (gate.map);
    const { index } = channel;
    const own = values[index];
    const count = features.channel_count;
    const before = readMap(this.#taken(features, channel, gate));
    const names = gate.paths.map(({ path }) => pathName(path));
    const hasTop = gate.paths.some(({ path }) => path === "max");
    const pooled = gate.paths.map(({ pooled: each }) => /** @type {number[]} */ (each));
    const logits = gate.paths.map(({ logits: each }) => /** @type {number[]} */ (each)[index]);
    const places = before.values.length;

    /** @type {Step} */
    const pool = {
      title: t("how.pool"),
      text: t("how.pool-text", { index, names: names.join(t("how.and-the")), places, values: pooled.map((each) => each[index].toFixed(3)).join(t("list.and")), channels: count }),
      stage: () => {
        const map = cells(this.#taken(features, channel, gate), t("how.channel-label", { index }), topOf(channel));
        const top = before.values.indexOf(Math.max(...before.values));
        queueMicrotask(() => map.frame({ row: Math.floor(top / before.columns), column: top % before.columns }, hasTop ? 1 : 0));
        return [
          box(map, caption(t(hasTop ? "how.framed" : "how.channel", { index }))),
          stack(...gate.paths.map((path, at) => this.#strip(pooled[at], values, index, t("how.of-each", { name: capital(names[at]) }), path))),
        ];
      },
    };
    /** @type {Step[]} */
    const steps = [pool];
    const { weights, bias } = channel;
    if (weights && gate.paths.every(({ hidden }) => hidden)) {
      steps.push({
        title: t(names.length > 1 ? "how.reads-both" : "how.reads-one"),
        text: t(names.length > 1 ? "how.reads-both-text" : "how.reads-one-text", { channels: count, hidden: weights.length, index }),
        stage: () => [unitsTable(gate.paths, weights, bias ?? 0, logits, names)],
      });
    } else {
      steps.push({
        title: t("how.neighbours"),
        text: t("how.neighbours-text", { index, logit: logits[0].toFixed(3) }),
        stage: () => [stack(...gate.paths.map((path) => this.#strip(/** @type {number[]} */ (path.logits), values, index, t("how.logits"), path)))],
      });
    }
    const sum = logits.reduce((total, each) => total + each, gate.bias);
    steps.push({
      title: t(names.length > 1 ? "how.add-squeeze" : "how.squeeze"),
      text: [
        ...(names.length > 1 ? [t("how.added", { terms: logits.map((each) => each.toFixed(3)).join(" + "), sum: sum.toFixed(3) })] : []),
        t("how.squeeze-text", { sum: sum.toFixed(3), gate: own.toFixed(3) }),
      ].join(" "),
      stage: () => [sigmoidCurve(sum, own), this.#strip(values, values, index, t("how.gates-sorted"), null, [0, 1])],
    });
    steps.push({
      title: t("how.multiply"),
      text: `${t("how.multiply-text", { index, gate: own.toFixed(3) })} ${t(own >= 0.75 ? "how.most-stays" : own <= 0.25 ? "how.little-stays" : "how.part-stays")}`,
      stage: () => {
        const taken = this.#taken(features, channel, gate);
        const top = Math.max(Math.abs(taken.min), Math.abs(taken.max));
        const scaled = { ...taken, min: taken.min * own, max: taken.max * own };
        return [equation(box(cells(taken, t("how.before", { index }), top), caption(span(taken.min, taken.max))), big(`× ${own.toFixed(3)} =`), box(cells(scaled, t("how.behind-channel-gate", { index }), top), caption(span(scaled.min, scaled.max))))];
      },
    });
    return steps;
  }

  /**
   * What a gate takes of a channel: behind the gates of channels that stand before it.
   * @param {Features} features
   * @param {Channel} channel
   * @param {Gate} gate
   * @returns {MapMessage}
   */
  #taken({ gates }, { before, index }, gate) {
    let { min, max } = before;
    for (const each of gates.slice(0, gates.indexOf(gate))) {
      if (!Array.isArray(each.map) || each.kind.use !== "multiplied") continue;
      min *= each.map[index];
      max *= each.map[index];
    }
    return { ...before, min, max };
  }

  /**
   * A list of one number per channel in the order of the gate, the followed channel marked.
   * @param {number[]} list
   * @param {number[]} values
   * @param {number} index
   * @param {string} title
   * @param {Path | null} [path]
   * @param {[number, number]} [ends]
   */
  #strip(list, values, index, title, path = null, ends) {
    const order = falling(values);
    const [low, high] = ends ?? [Math.min(0, ...list), Math.max(0, ...list)];
    const strip = bars(list, order, low, high, 0, title, null);
    queueMicrotask(() => {
      if (strip instanceof GateBars) strip.mark(order.indexOf(index));
    });
    return box(strip, caption(t(path ? "how.strip-ordered" : "how.strip", { title, index, value: list[index].toFixed(3) })));
  }

  /** @param {Features} features @param {Gate} gate @returns {Step[]} */
  #spatial_steps(features, gate) {
    const planes = gate.paths.map(({ pooled }) => readMap(/** @type {MapMessage} */ (pooled)));
    const names = gate.paths.map(({ path }) => pathName(path));
    const [first] = planes;
    const { rows, columns } = first;
    const map = readMap(/** @type {MapMessage} */ (gate.map));
    const at = this.#cell ?? hottestCell(map.values, columns);
    const size = gate.paths[0].window?.length ?? 1;
    const n = features.channel_count;
    /** @type {Step} */
    const look = {
      title: t("how.look"),
      text: t(names.length > 1 ? "how.look-two" : "how.look-one", { places: rows * columns, names: names.join(t("how.and-the")), channels: n }),
      stage: () => [row(...gate.paths.map(({ pooled }, i) => box(cells(/** @type {MapMessage} */ (pooled), t("inside.over-channels", { name: capital(names[i]) })), caption(t("titled", { title: names[i], text: span(planes[i].min, planes[i].max) })))))],
    };
    /** @type {Step} */
    const slide = {
      title: t(names.length > 1 ? "how.slide-both" : "how.slide-one", { size }),
      text: t("how.slide-text"),
      stage: () => [this.#window(gate, at)],
    };
    const channel = this.#followed(features);
    const taken = this.#taken(features, channel, gate);
    const own = map.values[at.row * columns + at.column];
    /** @type {Step} */
    const product = {
      title: t("how.product"),
      text: t("how.product-text", { row: at.row + 1, column: at.column + 1, gate: own.toFixed(3) }),
      stage: () => {
        const top = Math.max(Math.abs(taken.min), Math.abs(taken.max));
        const before = readMap(taken);
        const scaled = before.values.map((value, i) => value * map.values[i]);
        const behind = new CellMap();
        const { index } = channel;
        const [min, max] = [Math.min(...scaled), Math.max(...scaled)];
        behind.show({ map: { ...before, values: scaled, min, max }, label: t("how.behind-both", { index }), signed: true, high: top });
        return [equation(box(cells(taken, t("how.before-spatial-gate", { index }), top), caption(t("how.channel", { index }))), big("×"), box(cells(/** @type {MapMessage} */ (gate.map), t("how.spatial-gate")), caption(t("how.gate-span", { span: span(map.min, map.max) }))), big("="), box(behind, caption(span(min, max))))];
      },
    };
    return [look, slide, product];
  }

  /**
   * The planes, the window over them, and the sum that becomes the gate.
   * @param {Gate} gate
   * @param {Cell} start
   */
  #window(gate, start) {
    const planes = gate.paths.map(({ pooled }) => readMap(/** @type {MapMessage} */ (pooled)));
    const size = gate.paths[0].window?.length ?? 1;
    const reach = (size - 1) * gate.dilation + 1;
    const maps = gate.paths.map(({ path }, i) => {
      const map = new CellMap();
      map.show({ map: planes[i], label: t("how.over-move", { name: capital(pathName(path)) }), choose: true });
      return map;
    });
    const whole = new CellMap();
    whole.show({ map: readMap(/** @type {MapMessage} */ (gate.map)), label: t("how.gate-move"), low: 0, high: 1, choose: true });
    const most = Math.max(...gate.paths.flatMap(({ window }) => (window ?? []).flat().map(Math.abs)), 1e-6);
    const weights = gate.paths.map(({ path, window }) => {
      const picture = new CellMap();
      const values = Float32Array.from((window ?? []).flat());
      picture.show({ map: { rows: size, columns: size, values, min: -most, max: most, mean: 0 }, label: t("how.window-weights", { name: pathName(path) }), signed: true, high: most });
      return picture;
    });
    const sums = gate.paths.map(() => caption(""));
    const total = document.createElement("p");
    total.className = "how-sum";
    total.setAttribute("aria-live", "polite");
    const show = (/** @type {Cell} */ cell) => {
      this.#cell = cell;
      const parts = gate.paths.map(({ window }, i) => underWindow(planes[i], window ?? [], cell, gate.dilation));
      const sum = parts.reduce((all, part) => all + part, gate.bias);
      const value = 1 / (1 + Math.exp(-sum));
      parts.forEach((part, i) => {
        sums[i].textContent = signed(t("how.added-up", { value: part.toFixed(3) }));
      });
      const terms = [...parts.map((part) => part.toFixed(3)), gate.bias.toFixed(3)].join(" + ").replaceAll("+ -", "− ");
      total.textContent = signed(t("how.sum-at", { row: cell.row + 1, column: cell.column + 1, terms, sum: sum.toFixed(3), gate: value.toFixed(3) }));
      for (const map of maps) map.frame(cell, reach);
      whole.frame(cell, 1);
    };
    const stage = document.createElement("div");
    stage.className = "how-window";
    gate.paths.forEach(({ path }, i) => {
      const name = pathName(path);
      stage.append(box(maps[i], caption(t("inside.over-channels", { name }))), box(weights[i], caption(t("how.its-weights", { most: most.toFixed(2) })), sums[i]));
    });
    stage.append(box(whole, caption(t("how.the-gate"))), total);
    stage.addEventListener("cell-choice", (event) => {
      if (event instanceof CustomEvent) show(event.detail);
    });
    queueMicrotask(() => show(start));
    return stage;
  }

  /** A gate that does not say how it comes to its values. @param {Gate} gate @returns {Step} */
  #plain_step(gate) {
    const { kind, map } = gate;
    const { title, word, says } = named(kind);
    const plane = planeOf(map, kind);
    return {
      title: capital(title),
      text: t("inside.says", { title, says }),
      stage: () => [
        plane
          ? row(box(cells(plane, title), caption(t("titled", { title: word, text: span(plane.min, plane.max) }))))
          : box(bars(/** @type {number[]} */ (map), falling(/** @type {number[]} */ (map)), Math.min(0, .../** @type {number[]} */ (map)), Math.max(0, .../** @type {number[]} */ (map)), 0, title, kind.neutral), caption(t("how.one-bar"))),
      ],
    };
  }

  /** @param {Features} features @returns {Step} */
  #last_step(features) {
    const { channels, gates } = features;
    const applied = gates.filter(({ kind }) => kind.use !== "shown").length;
    return {
      title: t("how.next-block"),
      text: t(applied > 1 ? "how.next-gates" : "how.next-gate"),
      stage: () => {
        const list = document.createElement("ul");
        list.className = "how-pairs";
        for (const channel of channels) {
          const item = document.createElement("li");
          const top = topOf(channel);
          const { index } = channel;
          item.append(cells(channel.before, t("how.before", { index }), top), cells(channel.after, t("how.behind", { index }), top), caption(t("how.channel", { index })));
          list.append(item);
        }
        return [list];
      },
    };
  }
}

/**
 * @param {ArrayLike<number>} values
 * @param {number} columns
 * @returns {Cell}
 */
function hottestCell(values, columns) {
  let at = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[at]) at = i;
  return { row: Math.floor(at / columns), column: at % columns };
}

/**
 * The sum of the plane's cells under the window, each times its weight; outside the map there is 0.
 * @param {import("../lib/maps.js").RawMap} plane
 * @param {number[][]} window
 * @param {Cell} cell
 * @param {number} dilation
 */
export function underWindow({ rows, columns, values }, window, { row, column }, dilation) {
  const half = Math.floor(window.length / 2);
  let sum = 0;
  window.forEach((weights, down) =>
    weights.forEach((weight, across) => {
      const [y, x] = [row + (down - half) * dilation, column + (across - half) * dilation];
      if (y >= 0 && y < rows && x >= 0 && x < columns) sum += weight * values[y * columns + x];
    }),
  );
  return sum;
}

/** @param {Node[]} parts */
function box(...parts) {
  const element = document.createElement("div");
  element.className = "how-box";
  element.append(...parts);
  return element;
}

/** @param {Node[]} parts */
function stack(...parts) {
  const element = box(...parts);
  element.className = "how-stack";
  return element;
}

/** @param {Node[]} parts */
function row(...parts) {
  const element = box(...parts);
  element.className = "how-row";
  return element;
}

/** @param {Node[]} parts */
function equation(...parts) {
  const element = box(...parts);
  element.className = "how-equation";
  return element;
}

/** @param {string} text */
function big(text) {
  const element = document.createElement("span");
  element.className = "how-big";
  element.textContent = text;
  return element;
}

/**
 * How the hidden units make a channel's logits: the strongest written out, the others together.
 * @param {Path[]} paths
 * @param {number[]} weights
 * @param {number} bias
 * @param {number[]} logits
 * @param {string[]} names
 */
function unitsTable(paths, weights, bias, logits, names) {
  const hidden = paths.map((path) => path.hidden ?? []);
  const adds = (/** @type {number} */ unit) => hidden.map((values) => values[unit] * weights[unit]);
  const order = weights
    .map((_, unit) => unit)
    .sort((a, b) => Math.max(...adds(b).map(Math.abs)) - Math.max(...adds(a).map(Math.abs)));
  const shown = order.slice(0, UNITS);
  const rest = logits.map((logit, i) => logit - bias - shown.reduce((sum, unit) => sum + adds(unit)[i], 0));
  const table = document.createElement("table");
  table.className = "how-table";
  const line = (/** @type {string[]} */ texts, heading = false) => {
    const tr = document.createElement("tr");
    texts.forEach((text, at) => {
      const cell = document.createElement(heading || at === 0 ? "th" : "td");
      cell.scope = heading ? "col" : "row";
      cell.textContent = signed(text);
      tr.append(cell);
    });
    return tr;
  };
  const head = document.createElement("thead");
  head.append(line([t("how.unit-head"), t("how.weight"), ...names.flatMap((name) => [t("how.path-unit", { name }), t("how.adds")])], true));
  const rows = document.createElement("tbody");
  for (const unit of shown) {
    rows.append(line([t("how.unit", { number: unit + 1 }), weights[unit].toFixed(3), ...hidden.flatMap((values, i) => [values[unit].toFixed(3), adds(unit)[i].toFixed(3)])]));
  }
  if (order.length > shown.length) rows.append(line([t("how.others", { number: order.length - shown.length }), "", ...rest.flatMap((each) => ["", each.toFixed(3)])]));
  rows.append(line([t("how.bias"), "", ...logits.flatMap(() => ["", bias.toFixed(3)])]));
  const foot = document.createElement("tfoot");
  foot.append(line([t("how.logit"), "", ...logits.flatMap((each) => ["", each.toFixed(3)])]));
  table.append(head, rows, foot);
  return table;
}

/**
 * @param {number} at
 * @param {number} value
 */
function sigmoidCurve(at, value) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "-6.4 -0.15 12.8 1.3");
  svg.setAttribute("class", "how-curve");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", t("how.sigmoid", { from: at.toFixed(3), to: value.toFixed(3) }));
  const points = Array.from({ length: 65 }, (_, i) => -6 + (12 * i) / 64);
  const path = (/** @type {string} */ name, /** @type {string} */ d) => {
    const element = document.createElementNS(SVG, "path");
    element.setAttribute("class", name);
    element.setAttribute("d", d);
    svg.append(element);
  };
  const x = Math.min(Math.max(at, -6), 6);
  path("how-axis", "M-6 1H6M0 0V1");
  path("how-line", `M${points.map((p) => `${p} ${1 - 1 / (1 + Math.exp(-p))}`).join("L")}`);
  path("how-drop", `M${x} 1V${1 - value}H-6`);
  return box(svg, caption(t("how.sigmoid-of", { from: at.toFixed(3), to: value.toFixed(3) })));
}

customElements.define("how-view", HowView);
