// @ts-check
// <what-if> presets, a control for each gate, <paint-mask>, <input name="gates"> as text, the answers </what-if>
//
// Changes gates and shows what the networks say then. The text is what is asked; the controls only
// write it, and the server's answer says what became of each gate, so that only the server reads it.
// While one answer is on its way, of several further changes only the last is asked.

import { HeatMap } from "../elements/heat-map.js";
import { PaintMask } from "../elements/paint-mask.js";
import { all, json, one } from "../lib/dom.js";
import { onTarget, sayGates } from "../lib/events.js";
import { language, t } from "../lib/words.js";

const PRESETS = ["open", "mean"];

class WhatIf extends HTMLElement {
  #asked = ""; // the text that the answers shown are about
  /** @type {string[]} */
  #past = []; // the texts before it, the latest last
  #base = ""; // the preset that the controls start from; empty: every gate its own
  /** @type {Map<string, string>} gate -> what becomes of it, where it is not what the base says */
  #exact = new Map();
  #running = false;
  /** @type {string | undefined} what is to be asked once the answer under way is there */
  #next;
  #painted = ""; // the gate that is painted
  #about = ""; // what was asked last, apart from the gates
  /** @type {Map<string, HTMLElement>} model -> an answer to that: it says what the model says as it is */
  #known = new Map();

  connectedCallback() {
    this.#text.setAttribute("form", "photo-form"); // sent with every further question
    this.#asked = this.#text.value.trim();
    const others = document.querySelectorAll("#photo-form select[name=family] option").length > 1;
    one(this, "[data-others]", HTMLElement).hidden = !others;
    this.addEventListener("click", (event) => this.#onClick(event));
    this.addEventListener("input", (event) => this.#onInput(event));
    this.#text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.#go(this.#text.value);
    });
    onTarget(() => {
      if (this.#asked) this.#ask(this.#asked);
    }, this.#result);
    this.#read(this.#asked);
    this.#shown();
  }

  get #text() {
    return one(this, "[name=gates]", HTMLInputElement);
  }

  get #mask() {
    return one(this, "paint-mask", PaintMask);
  }

  /** The answer that this belongs to. */
  get #result() {
    return /** @type {HTMLElement} */ (this.closest("#result"));
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const button = event.target instanceof Element && event.target.closest("button");
    if (!button) return;
    const { gates, do: does } = button.dataset;
    if (gates) this.#go(gates);
    else if (does === "reset") this.#go("");
    else if (does === "undo") this.#undo();
    else if (does === "apply") {
      event.preventDefault(); // the form would send it, without scripts
      this.#go(this.#text.value);
    }
  }

  /** @param {Event} event */
  #onInput({ target }) {
    if (target instanceof PaintMask) {
      this.#say(this.#painted, target.painted ? target.value : "own");
      return;
    }
    if (target instanceof HTMLInputElement && target.name === "others") {
      if (this.#asked) this.#ask(this.#asked);
      else one(this, "[data-slot=others]", HTMLElement).replaceChildren();
      return;
    }
    const control = target instanceof Element && target.closest(".gate-control");
    if (!(control instanceof HTMLElement)) return;
    const gate = control.dataset.gate ?? "";
    const select = one(control, "select", HTMLSelectElement);
    if (target instanceof HTMLInputElement) {
      select.value = "own";
      this.#say(gate, Number(target.value) === 1 ? "own" : target.value);
    } else if (select.value === "mask") {
      this.#paint(gate, "");
      this.#mask.scrollIntoView({ block: "nearest" });
    } else {
      this.#say(gate, select.value);
    }
  }

  /**
   * A control's change, as text.
   * @param {string} gate
   * @param {string} how
   */
  #say(gate, how) {
    const usual = { open: "off", mean: "mean" }[this.#base] ?? "own";
    if (how === usual) this.#exact.delete(gate);
    else this.#exact.set(gate, how);
    const exact = [...this.#exact].map(([name, what]) => `${name}=${what}`);
    this.#go([this.#base, ...exact].filter(Boolean).join(", "), true);
  }

  /**
   * Ask about this text, which can be undone.
   * @param {string} text
   * @param {boolean} [ours] whether the controls wrote it
   */
  #go(text, ours = false) {
    const wanted = text.trim();
    const last = this.#next ?? this.#asked;
    if (!ours) this.#read(wanted);
    if (wanted === last) return;
    this.#past.push(last);
    this.#ask(wanted);
  }

  #undo() {
    const text = this.#past.pop();
    if (text === undefined) return;
    this.#read(text);
    this.#ask(text);
  }

  /**
   * What the controls go on from: a preset and what it is followed by. Of any other text, the
   * server's answer says what becomes of each gate.
   * @param {string} text
   */
  #read(text) {
    const [first, ...rest] = text.split(",").map((part) => part.trim());
    this.#base = PRESETS.includes(first) ? first : "";
    this.#exact = new Map(
      this.#base ? rest.map((entry) => /** @type {[string, string]} */ (entry.split("="))) : [],
    );
  }

  /** @param {string} text */
  async #ask(text) {
    this.#text.value = text;
    this.#buttons(text);
    if (this.#running) {
      this.#next = text;
      return;
    }
    this.#running = true;
    this.#asked = text;
    try {
      await this.#answer(text);
    } finally {
      this.#running = false;
    }
    const next = this.#next;
    this.#next = undefined;
    if (next !== undefined && this.isConnected) await this.#ask(next);
  }

  /**
   * Put the answers to this text in place.
   * @param {string} text
   */
  async #answer(text) {
    const changes = one(this, "[data-slot=changes]", HTMLElement);
    const others = one(this, "[data-slot=others]", HTMLElement);
    if (!text) {
      changes.replaceChildren();
      others.replaceChildren();
      this.#shown();
      sayGates(this);
      return;
    }
    this.setAttribute("aria-busy", "true");
    const { family, ...rest } = this.#families();
    this.#put(changes, await this.#fromKnown(text, family));
    this.#shown();
    // Other families have other gates: what holds for all of them is a preset.
    const preset = PRESETS.includes(text) && one(this, "[name=others]", HTMLInputElement).checked;
    const found = [];
    for (const name of preset ? Object.values(rest).flat() : []) {
      const title = document.createElement("h3");
      title.textContent = this.#titleOf(name);
      const box = document.createElement("div");
      this.#put(box, await this.#fetched(this.#question(text, name, false)));
      found.push(title, box);
    }
    others.replaceChildren(...found);
    sayGates(this); // a gallery photo's address says it, too
    this.removeAttribute("aria-busy");
  }

  /** The family of the answer, and the others. */
  #families() {
    const choice = document.querySelector("#photo-form [name=family]");
    const options = choice instanceof HTMLSelectElement ? [...choice.options].map(({ value }) => value) : [];
    const family = choice instanceof HTMLSelectElement || choice instanceof HTMLInputElement ? choice.value : "";
    return { family, others: options.filter((name) => name !== family) };
  }

  /** @param {string} family */
  #titleOf(family) {
    const option = document.querySelector(`#photo-form [name=family] option[value="${CSS.escape(family)}"]`);
    return option?.textContent?.trim() ?? family;
  }

  /**
   * The server's answer. What networks say as they are is asked for once: gates do not change that.
   * @param {string} text
   * @param {string} family
   */
  async #fromKnown(text, family) {
    const question = this.#question(text, family);
    const fields = [...question].filter(([name, value]) => name !== "gates" && typeof value === "string");
    const about = JSON.stringify(fields);
    if (about !== this.#about) this.#known.clear();
    this.#about = about;
    if (this.#known.size) {
      const page = await this.#fetched(question, ["what-if", "after"]);
      const answers = all(page, ".change", HTMLElement);
      if (answers.every(({ dataset }) => this.#known.has(dataset.model ?? ""))) {
        for (const answer of answers) this.#beside(answer);
        return page;
      }
    }
    const page = await this.#fetched(question);
    for (const answer of all(page, ".change", HTMLElement)) this.#known.set(answer.dataset.model ?? "", answer);
    return page;
  }

  /**
   * Put what is known of before into an answer that only knows after.
   * @param {HTMLElement} answer
   */
  #beside(answer) {
    const known = /** @type {HTMLElement} */ (this.#known.get(answer.dataset.model ?? ""));
    answer.dataset.before = known.dataset.before;
    const [blank, after] = all(answer, "figure", HTMLElement);
    const before = document.importNode(one(known, "figure", HTMLElement), true);
    blank.replaceWith(before);
    const said = "[data-side=before]";
    one(answer, said, HTMLElement).textContent = one(known, said, HTMLElement).textContent;
    const [was, now] = [before.dataset, after.dataset];
    const isFlip = was.index !== now.index;
    const sides = isFlip
      ? { before: `${was.label} (${was.percent})`, after: `${now.label} (${now.percent})` }
      : { label: was.label ?? "", before: was.percent ?? "", after: now.percent ?? "" };
    const moved = one(answer, ".flips, .stays", HTMLElement);
    moved.className = isFlip ? "flips" : "stays";
    moved.textContent = t(isFlip ? "changes.flips" : "changes.stays", sides);
  }

  /**
   * A question's fields.
   * @param {string} text
   * @param {string} family
   * @param {boolean} [same] whether its classes and layers are those of the answer
   */
  #question(text, family, same = true) {
    const form = one(document, "#photo-form", HTMLFormElement);
    const body = new FormData(form);
    body.set("gates", text);
    body.set("family", family);
    body.set("top_k", "3");
    body.set("target", same ? this.#target : "");
    if (!same) for (const name of ["layer", "versus"]) body.delete(name);
    const photo = this.#result.dataset.photo;
    if (photo) {
      body.delete("image");
      body.set("photo", photo);
    }
    return body;
  }

  /**
   * The server's answer; an alert if there is none.
   * @param {FormData} question
   * @param {string[]} [parts] of the page
   */
  async #fetched(question, parts = ["what-if"]) {
    try {
      const headers = { Accept: "text/html", "X-Fragment": parts.join(), ...language() };
      const { action } = one(document, "#photo-form", HTMLFormElement);
      const response = await fetch(action, { method: "POST", headers, body: question });
      return new DOMParser().parseFromString(await response.text(), "text/html");
    } catch {
      const page = new DOMParser().parseFromString("<div class='error' role='alert'><strong></strong></div>", "text/html");
      one(page, "strong", HTMLElement).textContent = t("failed.no-answer");
      return page;
    }
  }

  /** The class that is shown above, which may have been pressed meanwhile. */
  get #target() {
    const pressed = this.#result.querySelector(".prediction[aria-pressed=true]");
    return pressed instanceof HTMLButtonElement ? pressed.value : (this.#result.dataset.target ?? "");
  }

  /**
   * @param {HTMLElement} place
   * @param {Document} page
   */
  #put(place, page) {
    const error = page.querySelector(".error");
    error?.removeAttribute("id"); // the form has one of that name
    const found = error ?? page.querySelector(".changes");
    place.replaceChildren(...(found ? [document.importNode(found, true)] : []));
  }

  /** Bring everything in line with the answers that are shown. */
  #shown() {
    for (const pair of all(this, ".pair", HTMLElement)) {
      const maps = all(pair, "heat-map", HeatMap);
      const top = Math.max(...maps.map((heat) => heat.map().max));
      for (const heat of maps) heat.show({ top });
    }
    const changes = this.querySelector("[data-slot=changes] .changes");
    /** @type {Record<string, string>} */
    const changed = changes instanceof HTMLElement ? json(changes, "changed") : {};
    if (!this.#base && this.#next === undefined) this.#exact = new Map(Object.entries(changed));
    this.#controls(changed);
    this.#buttons(this.#asked);
    const moved = all(this, "[data-slot=changes] .change", HTMLElement).map((each) =>
      `${one(each, "h3", HTMLElement).textContent}: ${one(each, ".moved", HTMLElement).textContent}`.replace(/\s+/g, " ").trim(),
    );
    one(this, "[data-slot=said]", HTMLElement).textContent = moved.join(" · ");
  }

  /** @param {Record<string, string>} changed */
  #controls(changed) {
    if (this.#next !== undefined) return; // it says what is asked next
    for (const control of all(this, ".gate-control", HTMLElement)) {
      const gate = control.dataset.gate ?? "";
      const how = changed[gate] ?? "own";
      const select = one(control, "select", HTMLSelectElement);
      const slider = control.querySelector("input");
      const strength = how === "off" ? 0 : Number(how);
      if (slider) slider.value = String(Number.isNaN(strength) ? 1 : strength);
      const kind = how.startsWith("mask:") ? "mask" : Number.isNaN(Number(how)) ? how : "own";
      select.value = [...select.options].some(({ value }) => value === kind) ? kind : "other";
      control.toggleAttribute("data-changed", how !== "own");
      if (kind === "mask" && !this.#painted) this.#paint(gate, how);
    }
    if (this.#painted && !changed[this.#painted]?.startsWith("mask:")) {
      const select = this.#selectOf(this.#painted);
      if (select && select.value !== "mask") this.#paint("", "");
    }
  }

  /** @param {string} gate */
  #selectOf(gate) {
    const found = this.querySelector(`[data-gate="${CSS.escape(gate)}"] select`);
    return found instanceof HTMLSelectElement ? found : undefined;
  }

  /**
   * Offer the mask of this gate; of none, if it is empty.
   * @param {string} gate
   * @param {string} how
   */
  #paint(gate, how) {
    this.#painted = gate;
    this.#mask.hidden = !gate;
    this.#mask.value = how;
    this.#mask.setAttribute("aria-label", gate ? t("mask.paint", { gate }) : "");
    const control = this.#selectOf(gate)?.closest("fieldset");
    control?.append(this.#mask); // beside what it belongs to
  }

  /** @param {string} text */
  #buttons(text) {
    one(this, "[data-do=undo]", HTMLButtonElement).disabled = !this.#past.length;
    one(this, "[data-do=reset]", HTMLButtonElement).disabled = !text;
    for (const preset of all(this, "[data-gates]", HTMLButtonElement)) {
      preset.setAttribute("aria-pressed", String(preset.dataset.gates === text));
    }
  }
}

customElements.define("what-if", WhatIf);
