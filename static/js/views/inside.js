// @ts-check
// <inside-view data-size='[width, height]'> radios of models
//   <section class="gates" data-model data-view> <ol class="blocks"> … <input type="range" name="depth"> </section> …
//   <section class="block-large"> a block's gates, their paths and its channels </section>
// </inside-view>
//
// Shows one model's blocks in a row and one of them large: what each gate says, how it came to that,
// and what it does to the block's channels. The numbers come from /api/v1/features, a block at a time.

import { GateBars } from "../elements/gate-bars.js";
import {
  bars,
  capital,
  caption,
  cells,
  falling,
  fill,
  named,
  pathName,
  percent,
  planeOf,
  span,
  sumOf,
  topOf,
  valueOf,
} from "../elements/gate-pictures.js";
import { Refused } from "../lib/ask.js";
import { all, one } from "../lib/dom.js";
import { onShown } from "../lib/events.js";
import { FeatureSource } from "../lib/features.js";
import { readMap } from "../lib/maps.js";
import { sentence, t } from "../lib/words.js";

/** @import { Channel, Features, Gate, Path } from "../lib/features.js" */
/** @import { MapMessage } from "../lib/maps.js" */

const COUNT = 8; // channels that are shown

/** What is shown large outlives one answer: [model, block]. */
let kept = { model: "", block: "" };

class InsideView extends HTMLElement {
  #source = new FeatureSource();
  #model = "";
  #block = "";
  #channel = -1; // -1: the first of those that are picked
  /** @type {Features | undefined} */
  #shown;
  #turn = 0; // of several questions, only the last one's answer is shown

  connectedCallback() {
    for (const button of all(this, ".show-block", HTMLElement)) button.hidden = false;
    const models = this.#sections.map(({ dataset }) => dataset.model ?? "");
    this.#choose(models.includes(kept.model) ? kept.model : models[0], kept.block);
    this.addEventListener("click", (event) => this.#onClick(event));
    this.addEventListener("input", ({ target }) => this.#onInput(target));
    this.addEventListener("keydown", (event) => this.#onKey(event));
    this.addEventListener("bar-choice", (event) => this.#onBar(event));
    this.addEventListener("submit", (event) => event.preventDefault());
    onShown(this, () => this.#ask());
  }

  get #sections() {
    return all(this, ".gates", HTMLElement);
  }

  /** The part of the page about the model that is shown. */
  get #section() {
    return one(this, `.gates[data-model="${CSS.escape(this.#model)}"]`, HTMLElement);
  }

  get #blocks() {
    return all(this.#section, ".block", HTMLElement);
  }

  get #panel() {
    return one(this, ".block-large", HTMLElement);
  }

  get #pick() {
    return one(this, "[name=pick]:checked", HTMLInputElement).value;
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const button = event.target instanceof Element && event.target.closest("button");
    if (!button) return;
    const block = button.matches(".show-block") && button.closest(".block");
    if (block instanceof HTMLElement) this.#go(block.dataset.block ?? "");
    const { channel } = button.dataset;
    if (channel) this.#chooseChannel(Number(channel));
  }

  /** @param {EventTarget | null} target */
  #onInput(target) {
    if (!(target instanceof HTMLInputElement)) return;
    if (target.name === "model") {
      this.#choose(target.value, this.#block);
      this.#ask();
    } else if (target.name === "depth") {
      this.#go(this.#blocks[Number(target.value)].dataset.block ?? "");
    } else if (target.name === "pick") {
      this.#channel = -1;
      this.#ask();
    } else if (target.name === "channel" && target.validity.valid && target.value) {
      this.#chooseChannel(Number(target.value));
    }
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !(event.target instanceof Element) || !event.target.matches(".blocks, .show-block")) return;
    event.preventDefault();
    const names = this.#blocks.map(({ dataset }) => dataset.block ?? "");
    const next = names[names.indexOf(this.#block) + step];
    if (!next) return;
    this.#go(next);
    if (event.target.matches(".show-block")) one(this.#section, ".show-block[aria-pressed=true]", HTMLButtonElement).focus();
  }

  /** @param {Event} event */
  #onBar(event) {
    const { target } = event;
    const order = target instanceof GateBars && target.dataset.order;
    if (order && event instanceof CustomEvent) this.#chooseChannel(Number(order.split(" ")[event.detail]));
  }

  /**
   * Another model, and the block to show large: its last one, unless it has one of this name.
   * @param {string} model
   * @param {string} block
   */
  #choose(model, block) {
    this.#model = model;
    for (const section of this.#sections) section.hidden = section.dataset.model !== model;
    for (const radio of all(this, "[name=model]", HTMLInputElement)) radio.checked = radio.value === model;
    const names = this.#blocks.map(({ dataset }) => dataset.block ?? "");
    this.#mark(names.includes(block) ? block : (names.at(-1) ?? ""));
  }

  /** @param {string} block */
  #mark(block) {
    this.#block = block;
    this.#channel = -1;
    kept = { model: this.#model, block };
    this.#blocks.forEach((each, number) => {
      const chosen = each.dataset.block === block;
      each.toggleAttribute("data-chosen", chosen);
      one(each, ".show-block", HTMLButtonElement).setAttribute("aria-pressed", String(chosen));
      if (!chosen) return;
      const slider = one(this.#section, "[name=depth]", HTMLInputElement);
      slider.value = String(number);
      slider.setAttribute("aria-valuetext", block);
    });
  }

  /** @param {string} block */
  #go(block) {
    this.#mark(block);
    this.#ask();
  }

  /** Ask for the block and show it; an answer that came too late is left alone. */
  async #ask() {
    const turn = ++this.#turn;
    const panel = this.#panel;
    const row = one(this.#section, ".blocks", HTMLElement);
    const chosen = one(row, "[data-chosen]", HTMLElement);
    row.scrollTo({ left: chosen.offsetLeft - row.offsetLeft - (row.clientWidth - chosen.clientWidth) / 2 });
    panel.setAttribute("aria-busy", "true");
    try {
      const features = await this.#source.of({ models: this.#model, block: this.#block, pick: this.#pick, count: COUNT });
      if (turn !== this.#turn) return;
      this.#trouble("", "");
      await this.#show(features);
    } catch (error) {
      if (turn !== this.#turn) return;
      if (!(error instanceof Refused)) throw error;
      this.#trouble(error.title, error.detail);
    } finally {
      if (turn === this.#turn) panel.removeAttribute("aria-busy");
    }
  }

  /**
   * @param {string} title
   * @param {string} help
   */
  #trouble(title, help) {
    one(this.#panel, ".error", HTMLElement).hidden = !title;
    fill(this.#panel, "trouble", title);
    fill(this.#panel, "help", help);
  }

  /** @param {Features} features */
  async #show(features) {
    this.#shown = features;
    const { block, channel_count, gates, channels } = features;
    const at = this.#blocks.findIndex(({ dataset }) => dataset.block === block);
    const [rows, columns] = channels[0].before.shape;
    fill(this.#panel, "block", block);
    fill(this.#panel, "size", t("inside.place", { at: at + 1, count: this.#blocks.length, channels: channel_count, rows, columns }));
    const place = one(this.#panel, "[data-slot=gates]", HTMLElement);
    place.replaceChildren(...gates.map((gate) => this.#gate(gate)));
    const numbers = one(this.#panel, "[name=channel]", HTMLInputElement);
    numbers.max = String(channel_count - 1);
    this.#list(features);
    await this.#chooseChannel(this.#channel < 0 ? channels[0].index : this.#channel);
  }

  /** @param {string} name */
  #template(name) {
    const template = one(this, `template[data-template=${name}]`, HTMLTemplateElement);
    const copy = document.importNode(template.content, true).firstElementChild;
    if (!(copy instanceof HTMLElement)) throw new TypeError(`The template "${name}" is empty.`);
    return copy;
  }

  /** @param {Gate} gate */
  #gate(gate) {
    const { kind, judgement } = gate;
    const { title, says } = named(kind);
    const article = this.#template("gate");
    article.dataset.gate = gate.name;
    fill(article, "title", capital(title));
    fill(article, "says", t("inside.says", { title, says }));
    fill(article, "sentence", judgement ? sentence("judged", judgement.said) : "");
    if (judgement?.usual_spread) {
      const usual = judgement.usual_spread.toFixed(2);
      fill(article, "usual", t("inside.usual", { spread: judgement.spread.toFixed(2), usual }));
    }
    one(article, "[data-slot=picture]", HTMLElement).append(...this.#pictures(gate));
    const share = one(article, ".share", HTMLElement);
    share.hidden = judgement?.open == null;
    if (judgement?.open != null && judgement.shut != null) {
      one(share, ".share-open", SVGRectElement).setAttribute("width", String(100 * judgement.open));
      const shut = one(share, ".share-shut", SVGRectElement);
      shut.setAttribute("x", String(100 - 100 * judgement.shut));
      shut.setAttribute("width", String(100 * judgement.shut));
      fill(share, "share", t("inside.share", { open: percent(judgement.open), shut: percent(judgement.shut) }));
    }
    const paths = one(article, "[data-slot=paths]", HTMLElement);
    paths.append(...gate.paths.map((path) => this.#path(gate, path)));
    fill(article, "sum", sumOf(gate));
    return article;
  }

  /**
   * The map over the photo, the values of channels as bars, or both.
   * @param {Gate} gate
   */
  #pictures({ kind, name, map }) {
    /** @type {HTMLElement[]} */
    const found = [];
    const { title, word } = named(kind);
    const plane = planeOf(map, kind);
    if (plane) {
      const element = document.createElement("gate-map");
      const label = t("inside.over-photo", { title: capital(title), name });
      const { view } = this.#section.dataset;
      Object.assign(element.dataset, { map: JSON.stringify(plane), view, size: this.dataset.size, label, photo: "result-photo" });
      found.push(element, caption(t("titled", { title: word, text: span(plane.min, plane.max) })));
    }
    if (Array.isArray(map)) {
      const order = falling(map);
      const label = t("inside.sorted", { title: capital(title), name, number: map.length });
      const [low, high] = [kind.lowest ?? Math.min(0, ...map), kind.highest ?? Math.max(0, ...map)];
      found.push(bars(map, order, low, high, kind.lowest ?? 0, label, kind.neutral));
      found.push(caption(t("inside.press", { word, span: span(Math.min(...map), Math.max(...map)) })));
    }
    return found;
  }

  /**
   * @param {Gate} gate
   * @param {Path} path
   */
  #path(gate, path) {
    const section = this.#template("path");
    const name = pathName(path.path);
    fill(section, "title", t("inside.path", { name: capital(name) }));
    const pictures = one(section, "[data-slot=pictures]", HTMLElement);
    if (Array.isArray(path.logits) && Array.isArray(gate.map)) {
      // In the order of the gate's own bars above, all paths on one scale.
      const most = Math.max(...gate.paths.flatMap(({ logits }) => (Array.isArray(logits) ? logits.map(Math.abs) : [])), 1e-6);
      const label = t("inside.logits-ordered", { name });
      pictures.append(bars(path.logits, falling(gate.map), -most, most, 0, label, 0));
      fill(section, "note", t("inside.logits-span", { span: span(Math.min(...path.logits), Math.max(...path.logits)) }));
    } else if (!Array.isArray(path.logits) && !Array.isArray(path.pooled)) {
      const most = Math.max(...gate.paths.flatMap(({ logits }) => (Array.isArray(logits) ? [] : [Math.abs(logits.min), Math.abs(logits.max)])), 1e-6);
      pictures.append(
        cells(path.pooled, t("inside.over-channels", { name: capital(name) })),
        cells(path.logits, t("inside.logits", { name }), most),
      );
      fill(section, "note", t("inside.plane-span", { pooled: span(path.pooled.min, path.pooled.max), logits: span(path.logits.min, path.logits.max) }));
    }
    return section;
  }

  /** @param {Features} features */
  #list({ channels, gates }) {
    const list = one(this.#panel, "[data-slot=channels]", HTMLElement);
    const items = channels.map((channel) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.channel = String(channel.index);
      const top = topOf(channel);
      const pair = document.createElement("span");
      pair.className = "before-after";
      pair.append(
        cells(channel.before, t("inside.channel-before", { index: channel.index }), top),
        cells(channel.after, t("inside.channel-behind", { index: channel.index }), top),
      );
      const text = document.createElement("span");
      text.className = "small";
      const value = valueOf(channel.index, gates);
      text.textContent = `${channel.index}${value === undefined ? "" : ` × ${value.toFixed(2)}`}`;
      button.append(pair, text);
      const item = document.createElement("li");
      item.append(button);
      return item;
    });
    list.replaceChildren(...items);
  }

  /** @param {number} index */
  async #chooseChannel(index) {
    const features = this.#shown;
    if (!features || index >= features.channel_count) return;
    this.#channel = index;
    const turn = this.#turn;
    let channel = features.channels.find((each) => each.index === index);
    let { gates } = features;
    if (!channel) {
      try {
        const more = await this.#source.of({ models: this.#model, block: this.#block, channels: String(index) });
        [channel, gates] = [more.channels[0], more.gates];
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        this.#trouble(error.title, error.detail);
        return;
      }
    }
    if (turn !== this.#turn || index !== this.#channel || !channel) return;
    for (const button of all(this.#panel, "[data-channel]", HTMLElement)) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.channel) === index));
    }
    for (const strip of all(this.#panel, "gate-bars", GateBars)) {
      strip.mark((strip.dataset.order ?? "").split(" ").indexOf(String(index)));
    }
    one(this.#panel, "[name=channel]", HTMLInputElement).value = String(index);
    this.#large(channel, gates);
  }

  /**
   * @param {Channel} channel
   * @param {Gate[]} gates
   */
  #large(channel, gates) {
    const top = topOf(channel);
    const shut = gates.flatMap((gate) => (gate.shut ? [readMap(gate.shut)] : []))[0];
    const closed = shut ? shut.values.reduce((sum, value) => sum + value, 0) : 0;
    const figure = one(this.#panel, "[data-slot=channel]", HTMLElement);
    const { index } = channel;
    /** @type {(map: MapMessage, side: "before" | "behind", crossed?: ArrayLike<number>) => HTMLElement} */
    const part = (map, side, crossed) => {
      const box = document.createElement("div");
      box.append(cells(map, t(`inside.channel-${side}`, { index }), top, crossed), caption(t(`inside.${side}`, { span: span(map.min, map.max) })));
      return box;
    };
    const words = document.createElement("figcaption");
    const value = valueOf(index, gates);
    const gate = value === undefined ? "" : `${t("inside.lets", { percent: percent(value) })} `;
    const places = shut ? t("inside.shuts", { number: closed, all: shut.values.length }) : "";
    words.textContent = `${t("inside.channel", { index })} ${gate}${places}`;
    const maps = document.createElement("div");
    maps.className = "channel-maps";
    maps.append(part(channel.before, "before"), part(channel.after, "behind", shut?.values));
    figure.replaceChildren(maps, words);
  }
}

customElements.define("inside-view", InsideView);
