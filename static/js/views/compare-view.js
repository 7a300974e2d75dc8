// @ts-check
// <compare-view> <form class="controls" hidden> view, scale, opacity </form>
//   <article class="model-column"> <heat-map> … <button class="prediction" value="label"> … </article> …
// </compare-view>
//
// Keeps the columns in step: one view, one scale, one opacity, one class. Pressing a prediction shows
// that class in every column if its maps are all here; otherwise the button submits its form, as it
// does without scripts. Says "target-change" when it was done here.

import { all, one } from "../lib/dom.js";
import { onChoice, sayTarget } from "../lib/events.js";
import { halfShare } from "../lib/maps.js";
import { HeatMap } from "../elements/heat-map.js";

/** @typedef {{element: HTMLElement, heat: HeatMap, predictions: HTMLButtonElement[]}} Column */

/**
 * What the toolbar says.
 * @typedef {{view: string, scale: string, opacity: string}} Choices
 */

/** @type {Partial<Choices>} */
let kept = {}; // the reader's choices outlive one answer

class CompareView extends HTMLElement {
  #target = "";
  /** @type {Column[]} */
  #columns = [];

  connectedCallback() {
    this.#target = /** @type {HTMLElement | null} */ (this.closest("[data-target]"))?.dataset.target ?? "";
    this.#columns = all(this, ".model-column", HTMLElement).map((element) => ({
      element,
      heat: one(element, "heat-map", HeatMap),
      predictions: all(element, ".prediction", HTMLButtonElement),
    }));
    this.#controls.hidden = false;
    this.#restore();
    this.addEventListener("input", () => {
      kept = this.#choices;
      this.#paint();
    });
    this.addEventListener("click", (event) => {
      const button = event.target instanceof Element && event.target.closest(".prediction");
      if (!(button instanceof HTMLButtonElement) || !this.#knows(button.value)) return;
      event.preventDefault();
      this.#retarget(button.value);
    });
    onChoice(this, ({ name, target }, event) => {
      if (name !== "target" || !this.#knows(target)) return;
      event.preventDefault();
      this.#retarget(target);
    });
    this.#describe();
    this.#paint();
  }

  get #controls() {
    return one(this, ".controls", HTMLFormElement);
  }

  get #slider() {
    return one(this, "[name=opacity]", HTMLInputElement);
  }

  /** @returns {Choices} */
  get #choices() {
    const form = new FormData(this.#controls);
    const { value } = this.#slider; // not in the form's data while it is disabled
    return { view: String(form.get("view")), scale: String(form.get("scale")), opacity: value };
  }

  #restore() {
    for (const [name, value] of Object.entries(kept)) {
      const control = this.#controls.elements.namedItem(name);
      const takes = control instanceof RadioNodeList || control instanceof HTMLInputElement;
      if (takes) control.value = value;
    }
  }

  /**
   * Whether every column has this class's map and probability at hand.
   * @param {string} label
   */
  #knows(label) {
    return this.#columns.every(
      ({ heat, predictions }) =>
        heat.maps.has(label) && predictions.some((button) => button.value === label),
    );
  }

  /** @param {string} label */
  #retarget(label) {
    this.#target = label;
    fill(this, "target", label);
    for (const { element, predictions } of this.#columns) {
      for (const button of predictions) {
        button.setAttribute("aria-pressed", String(button.value === label));
        if (button.value !== label) continue;
        const percent = Number(button.dataset.probability) * 100;
        fill(element, "probability", `${percent.toFixed(1)}\u00a0%`);
      }
      const agrees = predictions[0].value === label;
      show(element, "agrees", agrees);
      show(element, "differs", !agrees);
    }
    this.#describe();
    this.#paint();
    sayTarget(this, label);
  }

  /** The line of text under each map. */
  #describe() {
    for (const { element, heat } of this.#columns) {
      const map = heat.map(this.#target);
      show(element, "evidence", map.max > 0);
      show(element, "nothing", map.max <= 0);
      if (map.max <= 0) continue;
      fill(element, "peak", String(Number(map.max.toPrecision(3))));
      fill(element, "spread", ` · half the heat on ${Math.round(halfShare(map) * 100)}\u00a0% of its view`);
    }
  }

  #paint() {
    const { view, scale, opacity } = this.#choices;
    const peaks = this.#columns.map(({ heat }) => heat.map(this.#target).max);
    for (const { heat } of this.#columns) {
      heat.show({
        target: this.#target,
        view,
        top: scale === "shared" ? Math.max(...peaks) : undefined,
        reference: this.#columns[0].heat,
        opacity: Number(opacity),
      });
    }
    show(this, "heat", view === "overlay" || view === "map");
    show(this, "difference", view === "difference");
    this.#slider.disabled = view !== "overlay";
  }
}

/**
 * @param {ParentNode} parent
 * @param {string} name
 * @param {string} text
 */
function fill(parent, name, text) {
  for (const element of parent.querySelectorAll(`[data-fill="${name}"]`)) element.textContent = text;
}

/**
 * @param {ParentNode} parent
 * @param {string} name
 * @param {boolean} shown
 */
function show(parent, name, shown) {
  for (const element of all(parent, `[data-show="${name}"]`, HTMLElement)) element.hidden = !shown;
}

customElements.define("compare-view", CompareView);
