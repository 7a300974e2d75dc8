// @ts-check
// <class-search data-url="…/classes?family=imagenet" data-label="Classes">
//   <label for="a">…</label> <input id="a" name="target">
// </class-search>
//
// A text field that suggests classes while one types: the combobox of ARIA 1.2 with a list below it,
// https://www.w3.org/WAI/ARIA/apg/patterns/combobox/. Arrows, Home and End move in the list, Enter or
// a click takes a class, Escape closes the list and then empties the field. Says "class-choice".
// Without scripts it stays a text field, whose text the server resolves.

import { one } from "../lib/dom.js";
import { sayChoice } from "../lib/events.js";
import { t } from "../lib/words.js";

const PAUSE_MS = 120; // after a keystroke, before the server is asked
const LIMIT = 12; // suggestions

/**
 * A result of /api/v1/classes.
 * @typedef {{target: string, label: string, indices: number[], matched: string}} Found
 * @typedef {{total: number, classes: Found[]}} Answer
 */

/** @type {Map<string, Promise<Answer>>} */
const known = new Map(); // answers by address

class ClassSearch extends HTMLElement {
  /** @type {Found[]} */
  #found = [];
  #active = -1; // the position of the suggestion that Enter takes; -1: none yet
  #asked = ""; // the text that the suggestions are for
  #timer = 0;

  connectedCallback() {
    const { id } = this.#input;
    const list = element("ul", { id: `${id}-list`, role: "listbox", "aria-label": this.dataset.label ?? "" });
    const popup = element("div", { class: "suggestions", hidden: "" });
    popup.append(list, element("p", { class: "small count", "aria-hidden": "true" }));
    this.append(popup, element("p", { class: "unseen", role: "status" }));
    set(this.#input, {
      role: "combobox",
      "aria-autocomplete": "list",
      "aria-expanded": "false",
      "aria-controls": list.id,
    });
    this.#input.addEventListener("input", () => this.#onInput());
    this.#input.addEventListener("keydown", (event) => this.#onKey(event));
    this.addEventListener("focusout", () => this.#close());
    popup.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    list.addEventListener("click", ({ target }) => {
      const option = target instanceof Element && target.closest("[role=option]");
      if (option) this.#take(this.#found[[...list.children].indexOf(option)]);
    });
  }

  get #input() {
    return one(this, "input", HTMLInputElement);
  }

  get #popup() {
    return one(this, ".suggestions", HTMLElement);
  }

  get #list() {
    return one(this, "[role=listbox]", HTMLElement);
  }

  get #text() {
    return this.#input.value.trim();
  }

  #onInput() {
    clearTimeout(this.#timer);
    if (this.#text) this.#timer = setTimeout(() => this.#suggest(), PAUSE_MS);
    else this.#close();
  }

  /** @param {KeyboardEvent} event */
  async #onKey(event) {
    if (event.isComposing || event.ctrlKey || event.metaKey) return;
    const last = this.#found.length - 1;
    const open = !this.#popup.hidden;
    switch (event.key) {
      case "ArrowDown":
      case "ArrowUp":
        if (!this.#text) return;
        event.preventDefault();
        if (!open) await this.#suggest();
        if (event.key === "ArrowDown") this.#activate(this.#active < this.#found.length - 1 ? this.#active + 1 : 0);
        else this.#activate(this.#active > 0 ? this.#active - 1 : this.#found.length - 1);
        return;
      case "Home":
      case "End":
        if (!open || this.#active < 0) return; // moves in the text
        event.preventDefault();
        this.#activate(event.key === "Home" ? 0 : last);
        return;
      case "Escape":
        if (!open && !this.#text) return;
        event.preventDefault();
        if (open) this.#close();
        else this.#input.value = "";
        return;
      case "Enter":
        event.preventDefault(); // the list's answer, not the form's
        if (this.#text && this.#asked !== this.#text) await this.#suggest();
        this.#take(this.#text ? this.#found[Math.max(this.#active, 0)] : undefined);
    }
  }

  /** Ask the server what the text may mean, and show it. */
  async #suggest() {
    clearTimeout(this.#timer);
    const text = this.#text;
    try {
      const { total, classes } = await answerTo(`${this.dataset.url}&limit=${LIMIT}&q=${encodeURIComponent(text)}`);
      if (text !== this.#text) return; // typed on
      this.#asked = text;
      this.#show(classes, total);
    } catch {
      this.#show([], 0); // the text itself can still be sent
    }
  }

  /**
   * @param {Found[]} found
   * @param {number} total
   */
  #show(found, total) {
    this.#found = found;
    this.#list.replaceChildren(...found.map((each, position) => this.#option(each, position)));
    this.#activate(-1);
    const said =
      total === 0 ? t("search.none") : total > found.length ? t("search.some", { shown: found.length, total }) : t("search.count", { count: total });
    one(this, ".count", HTMLElement).textContent = said;
    one(this, "[role=status]", HTMLElement).textContent = `${said}.`;
    this.#popup.hidden = false;
    this.#input.setAttribute("aria-expanded", String(found.length > 0));
  }

  /**
   * @param {Found} found
   * @param {number} position
   */
  #option(found, position) {
    const option = element("li", { id: `${this.#list.id}-${position}`, role: "option", "aria-selected": "false" });
    option.append(element("span", { class: "name" }, found.label));
    const more = found.indices.length > 1 ? t("search.count", { count: found.indices.length }) : found.matched;
    if (more) option.append(" ", element("span", { class: "aside" }, more));
    return option;
  }

  /** @param {number} position */
  #activate(position) {
    this.#active = position;
    const options = [...this.#list.children];
    for (const [at, option] of options.entries()) option.setAttribute("aria-selected", String(at === position));
    const chosen = options[position];
    if (chosen) {
      this.#input.setAttribute("aria-activedescendant", chosen.id);
      chosen.scrollIntoView({ block: "nearest" });
    } else {
      this.#input.removeAttribute("aria-activedescendant");
    }
  }

  #close() {
    clearTimeout(this.#timer);
    this.#popup.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#activate(-1);
  }

  /**
   * A suggestion is taken, or the text as it stands.
   * @param {Found | undefined} found
   */
  #take(found) {
    const target = found?.target ?? this.#text;
    this.#close();
    this.#input.value = target;
    this.#asked = ""; // the suggestions were for another text
    const isShown = sayChoice(this, { name: this.#input.name, target });
    if (isShown) this.#input.value = ""; // as in a new answer
  }
}

/**
 * The server's answer, asked for once; a failed one is asked for again.
 * @param {string} address
 */
function answerTo(address) {
  const asked = known.get(address) ?? ask(address);
  if (known.size > 200) known.clear();
  known.set(address, asked);
  asked.catch(() => known.delete(address));
  return asked;
}

/**
 * @param {string} address
 * @returns {Promise<Answer>}
 */
async function ask(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return response.json();
}

/**
 * @param {string} name
 * @param {Record<string, string>} attributes
 * @param {string} [text]
 */
function element(name, attributes, text = "") {
  const made = document.createElement(name);
  set(made, attributes);
  made.textContent = text;
  return made;
}

/**
 * @param {Element} on
 * @param {Record<string, string>} attributes
 */
function set(on, attributes) {
  for (const [key, value] of Object.entries(attributes)) on.setAttribute(key, value);
}

customElements.define("class-search", ClassSearch);
