// @ts-check
// <page-keys> <dialog> the list of keys … <input name="keys"> … <input type="file" name="talk"> </dialog> </page-keys>
//
// Single keys for what the page's buttons do, listed under "?". They can be switched off: speech input types them.

import { all, one } from "../lib/dom.js";
import { sayView } from "../lib/events.js";
import { readTalk } from "../lib/talk.js";
import { TalkStage } from "./talk-stage.js";

const OFF = "keys-off"; // kept in the browser
const MODES = /** @type {Record<string, string>} */ ({ o: "overlay", m: "map", f: "photo", d: "difference" });

class PageKeys extends HTMLElement {
  connectedCallback() {
    document.addEventListener("keydown", (event) => this.#onKey(event));
    for (const button of all(document, "[data-keys]", HTMLButtonElement)) {
      button.addEventListener("click", () => (button.dataset.keys === "present" ? this.#stage.begin() : this.#dialog.showModal()));
    }
    const on = one(this, "[name=keys]", HTMLInputElement);
    on.checked = !localStorage.getItem(OFF);
    on.addEventListener("change", () => (on.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
    const file = one(this, "[name=talk]", HTMLInputElement);
    file.addEventListener("change", async () => {
      const said = one(this, "[role=status]", HTMLElement);
      try {
        const chosen = file.files?.[0];
        if (chosen) this.#stage.start(readTalk(await chosen.text()));
      } catch (error) {
        said.textContent = error instanceof Error ? error.message : String(error);
      }
      file.value = "";
    });
  }

  get #dialog() {
    return one(this, "dialog", HTMLDialogElement);
  }

  get #stage() {
    return one(document, "talk-stage", TalkStage);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || localStorage.getItem(OFF)) return;
    if (target instanceof Element && target.closest("input:not([type=radio], [type=checkbox], [type=range]), select, textarea")) return;
    if (document.querySelector("dialog[open]")) return;
    if (this.#does(key)) event.preventDefault();
  }

  /**
   * @param {string} key
   * @returns {boolean} whether it did anything
   */
  #does(key) {
    if (key === "?") this.#dialog.showModal();
    else if (key === "p") this.#stage.begin();
    else if (/^[1-9]$/.test(key)) return view(Number(key));
    else if (key === "j" || key === "k") return step(all(document, ".model-column:first-of-type .predictions ol .prediction", HTMLButtonElement), "aria-pressed", key === "j" ? 1 : -1);
    else if (key === "n" || key === "b") return step(all(document, ".gallery button[name=photo]", HTMLButtonElement), "aria-current", key === "n" ? 1 : -1);
    else if (key in MODES) return press(`.controls [name=view][value=${MODES[key]}]`);
    else return false;
    return true;
  }
}

/** @param {number} number */
function view(number) {
  const link = all(document, ".views a", HTMLAnchorElement)[number - 1];
  if (!link) return false;
  sayView(link.dataset.view ?? "");
  link.focus({ preventScroll: true });
  return true;
}

/**
 * Press the button after or before the marked one.
 * @param {HTMLButtonElement[]} buttons
 * @param {string} mark
 * @param {number} by
 */
function step(buttons, mark, by) {
  const at = buttons.findIndex((button) => button.getAttribute(mark) === "true");
  const next = buttons[at < 0 ? 0 : at + by];
  next?.click();
  return next !== undefined;
}

/** @param {string} selector */
function press(selector) {
  const input = document.querySelector(selector);
  if (!(input instanceof HTMLInputElement) || !input.checkVisibility?.()) return false;
  input.click();
  return true;
}

customElements.define("page-keys", PageKeys);
