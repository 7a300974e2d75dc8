// <compare-view> <form class="controls" hidden> view, scale, opacity </form>
//   <article class="model-column"> <heat-map> … <button class="prediction" value="label"> … </article> …
// </compare-view>
//
// Keeps the columns in step: one view, one scale, one opacity, one class. Pressing a prediction shows
// that class in every column if its maps are all here; otherwise the button submits its form, as it
// does without scripts. Fires "target-change" ({detail: label}) when it was done here.

import { halfShare } from "../lib/maps.js";

let kept = {}; // the reader's choices outlive one answer

class CompareView extends HTMLElement {
  #target;

  connectedCallback() {
    this.#target = this.closest("[data-target]").dataset.target;
    this.controls = this.querySelector(".controls");
    this.controls.hidden = false;
    for (const [name, value] of Object.entries(kept)) {
      const field = this.controls.elements[name];
      if (field) field.value = value;
    }
    this.addEventListener("input", () => {
      kept = Object.fromEntries(new FormData(this.controls));
      this.#paint();
    });
    this.addEventListener("click", (event) => {
      const button = event.target.closest(".prediction");
      if (!button || !this.#knows(button.value)) return;
      event.preventDefault();
      this.#retarget(button.value);
    });
    this.#describe();
    this.#paint();
  }

  get #columns() {
    return [...this.querySelectorAll(".model-column")].map((element) => ({
      element,
      heat: element.querySelector("heat-map"),
      predictions: [...element.querySelectorAll(".prediction")],
    }));
  }

  /** Whether every column has this class's map and probability at hand. */
  #knows(label) {
    return this.#columns.every(
      ({ heat, predictions }) =>
        heat.maps.has(label) && predictions.some((button) => button.value === label),
    );
  }

  #retarget(label) {
    this.#target = label;
    fill(this, "target", label);
    for (const { element, predictions } of this.#columns) {
      for (const button of predictions) {
        button.setAttribute("aria-pressed", button.value === label);
        if (button.value !== label) continue;
        fill(element, "probability", `${(button.dataset.probability * 100).toFixed(1)}\u00a0%`);
      }
      const agrees = predictions[0].value === label;
      show(element, "agrees", agrees);
      show(element, "differs", !agrees);
    }
    this.#describe();
    this.#paint();
    this.dispatchEvent(new CustomEvent("target-change", { detail: label, bubbles: true }));
  }

  /** The line of text under each map. */
  #describe() {
    for (const { element, heat } of this.#columns) {
      const map = heat.maps.get(this.#target);
      show(element, "evidence", map.max > 0);
      show(element, "nothing", map.max <= 0);
      if (map.max <= 0) continue;
      fill(element, "peak", String(Number(map.max.toPrecision(3))));
      fill(element, "spread", ` · half the heat on ${Math.round(halfShare(map) * 100)}\u00a0% of what it saw`);
    }
  }

  #paint() {
    const { view, scale, opacity } = Object.fromEntries(new FormData(this.controls));
    const columns = this.#columns;
    const peaks = columns.map(({ heat }) => heat.maps.get(this.#target).max);
    const top = scale === "shared" ? Math.max(...peaks) : undefined;
    for (const { heat } of columns) {
      heat.show({
        target: this.#target,
        view,
        top,
        opacity: Number(opacity),
        reference: columns[0].heat,
      });
    }
    show(this, "heat", view === "overlay" || view === "map");
    show(this, "difference", view === "difference");
    this.controls.elements.opacity.disabled = view !== "overlay";
  }
}

function fill(parent, name, text) {
  for (const element of parent.querySelectorAll(`[data-fill="${name}"]`)) element.textContent = text;
}

function show(parent, name, shown) {
  for (const element of parent.querySelectorAll(`[data-show="${name}"]`)) element.hidden = !shown;
}

customElements.define("compare-view", CompareView);
