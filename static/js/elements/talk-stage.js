// @ts-check
// <talk-stage data-talk="…/talks/attention.json" hidden> <p data-slot="say"> … buttons … </talk-stage>
//
// Presenter mode: large type, one point at a time. Each point is a page of its own, so that a reload or the
// browser's Back changes nothing; which talk and which point is kept for this tab.

import { all, one } from "../lib/dom.js";
import { decodeTalk, encodeTalk, readTalk } from "../lib/talk.js";
import { t } from "../lib/words.js";

/** @import { Talk } from "../lib/talk.js" */

const KEPT = "talk"; // in the tab's storage, and in an address
const NEXT = ["ArrowRight", "PageDown", " "];
const BACK = ["ArrowLeft", "PageUp"];

export class TalkStage extends HTMLElement {
  /** @type {{talk: Talk, at: number} | undefined} */
  #on;

  connectedCallback() {
    const doing = /** @type {Record<string, () => unknown>} */ ({
      next: () => this.#go(1),
      back: () => this.#go(-1),
      leave: () => this.#leave(),
      link: () => this.#copyLink(),
    });
    for (const button of all(this, "[data-do]", HTMLButtonElement)) {
      button.addEventListener("click", () => doing[button.dataset.do ?? ""]());
    }
    document.addEventListener("keydown", (event) => this.#onKey(event));
    this.#resume();
  }

  get presenting() {
    return this.#on !== undefined;
  }

  /** Begin with the talk that comes with the page. */
  async begin() {
    const response = await fetch(this.dataset.talk ?? "");
    this.start(readTalk(await response.text()));
  }

  /**
   * @param {Talk} talk
   * @param {number} [at]
   */
  start(talk, at = 0) {
    sessionStorage.setItem(KEPT, JSON.stringify({ talk, at }));
    const { say, ...question } = talk.steps[at];
    const families = document.querySelector("#photo-form [name=family]");
    const known = families instanceof HTMLSelectElement ? [...families.options].map(({ value }) => value) : [];
    const address = new URL(one(document, "#photo-form", HTMLFormElement).action);
    for (const [name, value] of Object.entries(question)) {
      if (value && (name !== "family" || known.includes(value))) address.searchParams.set(name, value);
    }
    location.assign(address);
  }

  /** Go on with the talk of this tab, or begin the one in the address. */
  #resume() {
    const asked = new URLSearchParams(location.search).get(KEPT);
    try {
      if (asked) {
        this.start(decodeTalk(asked));
        return;
      }
      const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
      if (!kept) return;
      const talk = readTalk(JSON.stringify(kept.talk));
      const at = Math.min(Math.max(Math.trunc(Number(kept.at)) || 0, 0), talk.steps.length - 1);
      this.#show({ talk, at });
    } catch (error) {
      sessionStorage.removeItem(KEPT);
      this.hidden = false;
      one(this, "[data-slot=say]", HTMLElement).textContent = error instanceof Error ? error.message : String(error);
    }
  }

  /** @param {{talk: Talk, at: number}} on */
  #show(on) {
    this.#on = on;
    const { talk, at } = on;
    document.documentElement.toggleAttribute("data-presenting", true);
    this.hidden = false;
    one(this, "[data-slot=say]", HTMLElement).textContent = talk.steps[at].say;
    one(this, "[data-slot=at]", HTMLElement).textContent = t(talk.title ? "talk.at" : "talk.at-untitled", { title: talk.title, at: at + 1, count: talk.steps.length });
    one(this, "[data-do=back]", HTMLButtonElement).disabled = at === 0;
    one(this, "[data-do=next]", HTMLButtonElement).disabled = at === talk.steps.length - 1;
    one(this, "[data-do=link]", HTMLButtonElement).hidden = !navigator.clipboard;
  }

  /** @param {number} by */
  #go(by) {
    if (!this.#on) return;
    const { talk, at } = this.#on;
    if (talk.steps[at + by]) this.start(talk, at + by);
  }

  #leave() {
    sessionStorage.removeItem(KEPT);
    this.#on = undefined;
    this.hidden = true;
    document.documentElement.toggleAttribute("data-presenting", false);
  }

  async #copyLink() {
    if (!this.#on) return;
    const address = new URL(one(document, "#photo-form", HTMLFormElement).action);
    address.searchParams.set(KEPT, encodeTalk(this.#on.talk));
    await navigator.clipboard.writeText(String(address));
    one(this, "[data-slot=at]", HTMLElement).textContent = t("talk.link-copied");
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (!this.#on || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const { target } = event;
    // What takes these keys itself keeps them: fields, sliders, buttons.
    if (target instanceof Element && target.closest("input, select, textarea, button, summary, [role=grid], [role=slider], [tabindex='0']")) {
      if (event.key !== "Escape" && !(target.closest("talk-stage") && event.key !== " ")) return;
    }
    if (event.key === "Escape") this.#leave();
    else if (NEXT.includes(event.key)) this.#go(1);
    else if (BACK.includes(event.key)) this.#go(-1);
    else return;
    event.preventDefault();
  }
}

customElements.define("talk-stage", TalkStage);
