// @ts-check
// <view-tabs> <nav class="views"> <a href="#view-inside" data-view="inside"> … </nav>
//   <section class="view" id="view-inside" data-view="inside"> … </section> …
// </view-tabs>
//
// Shows one view of an answer at a time and keeps its name in the address. The next answer opens in
// the same view.

import { all } from "../lib/dom.js";
import { onView, sayShown } from "../lib/events.js";

const FIELD = "view"; // of the address

class ViewTabs extends HTMLElement {
  /** @type {HTMLElement | undefined} */
  #shown;

  connectedCallback() {
    this.addEventListener("click", (event) => {
      const link = event.target instanceof Element && event.target.closest(".views a");
      if (!(link instanceof HTMLAnchorElement)) return;
      event.preventDefault();
      this.show(link.dataset.view ?? "");
    });
    this.#release = onView((name) => this.show(name));
    const wanted = new URLSearchParams(location.search).get(FIELD);
    this.show(this.names.find((name) => name === wanted) ?? this.#first, false);
  }

  disconnectedCallback() {
    this.#release();
  }

  #release = () => {};

  /** The names of the views that this answer has, in their order. */
  get names() {
    return this.#views.map(({ dataset }) => dataset.view ?? "");
  }

  get #views() {
    return all(this, ".view", HTMLElement).filter((view) => view.closest("view-tabs") === this);
  }

  /** The view that the server chose. */
  get #first() {
    const shown = this.#views.find((view) => "shown" in view.dataset) ?? this.#views[0];
    return shown.dataset.view ?? "";
  }

  /**
   * Show this view, if the answer has it.
   * @param {string} name
   * @param {boolean} [keep] whether the address is to name it
   */
  show(name, keep = true) {
    const view = this.#views.find(({ dataset }) => dataset.view === name);
    if (!view) return;
    for (const each of this.#views) each.toggleAttribute("data-shown", each === view);
    for (const link of all(this, ".views a", HTMLElement)) {
      if (link.dataset.view === name) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (keep) {
      const address = new URL(location.href);
      address.searchParams.set(FIELD, name);
      history.replaceState(null, "", address);
    }
    if (this.#shown === view) return;
    this.#shown = view;
    sayShown(view);
  }
}

customElements.define("view-tabs", ViewTabs);
