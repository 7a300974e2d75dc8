// @ts-check
// <compare-view> <form class="controls" hidden> view, scale, opacity, <details class="more"> … </form>
//   <swipe-pair hidden> … </swipe-pair>
//   <div class="columns"> <article class="model-column"> <heat-map> … <button class="prediction" value="label"> … </article> … </div>
//   <section class="beside" hidden> … </section>
// </compare-view>
//
// Keeps the columns in step: one view, one scale, one opacity, one class, one part of the photo, and
// the same cell pointed at. Pressing a prediction shows that class in every column if its maps are all
// here; otherwise the button submits its form, as it does without scripts. Says "target-change" when
// it was done here. A second family can stand beside the first: its classes are others, so it shows
// the same class if it knows it, and else its own answer.

import { all, field, one } from "../lib/dom.js";
import { onChoice, sayTarget } from "../lib/events.js";
import { halfShare } from "../lib/maps.js";
import { HeatMap, WHOLE } from "../elements/heat-map.js";
import { language, t } from "../lib/words.js";
import { SwipePair } from "../elements/swipe-pair.js";

/** @import { Part, Place } from "../elements/heat-map.js" */

/** @typedef {{element: HTMLElement, heat: HeatMap, predictions: HTMLButtonElement[]}} Column */

/**
 * The columns of one family, all about one class.
 * @typedef {{columns: Column[], target: string}} Group
 */

/** @type {Record<string, string>} the reader's choices outlive one answer; by the name of their control */
let kept = {};
let isMore = false; // whether the rarer choices are unfolded
/** @type {{photo: string, part: Part}} the part in sight outlives an answer about the same photo */
let sight = { photo: "", part: WHOLE };

const MOST_ZOOM = 6;
const KEYS = /** @type {Record<string, [number, number]>} */ ({
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
});

class CompareView extends HTMLElement {
  /** @type {Group[]} the answer's own family first */
  #groups = [];
  /** @type {Place | null} */
  #pointed = null;
  #beside = new AbortController();

  connectedCallback() {
    this.#groups = [group(one(this, ".columns", HTMLElement), this.#result.dataset.target ?? "")];
    this.#controls.hidden = false;
    this.#offerFamilies();
    this.#restore();
    this.addEventListener("input", ({ target: changed }) => {
      if (!(changed instanceof Element) || !this.#controls.contains(changed)) return;
      this.#keep();
      if (changed.getAttribute("name") === "beside") this.#stand();
      if (changed.getAttribute("name") === "zoom") this.#zoom(Number(this.#slider("zoom").value), this.#middle);
      else this.#paint();
    });
    this.addEventListener("click", (event) => this.#onClick(event));
    this.addEventListener("heat-painted", () => this.#swipe.paint());
    one(this, ".more", HTMLDetailsElement).addEventListener("toggle", ({ target: more }) => {
      isMore = more instanceof HTMLDetailsElement && more.open;
    });
    onChoice(this, ({ name, target: label }, event) => {
      if (name !== "target" || !this.#knows(this.#groups[0], label)) return;
      event.preventDefault();
      this.#retarget(label);
    });
    this.#listenToPointers();
    this.#ready();
    if (kept.beside) this.#stand();
  }

  disconnectedCallback() {
    this.#beside.abort();
  }

  get #result() {
    return /** @type {HTMLElement} */ (this.closest("#result"));
  }

  get #controls() {
    return one(this, ".controls", HTMLFormElement);
  }

  get #swipe() {
    return one(this, "swipe-pair", SwipePair);
  }

  get #columns() {
    return this.#groups.flatMap(({ columns }) => columns);
  }

  /** @param {string} name */
  #slider(name) {
    return one(this.#controls, `input[name=${name}]`, HTMLInputElement);
  }

  /** What the toolbar says, by the name of the control. */
  get #choices() {
    const said = new FormData(this.#controls);
    const text = (/** @type {string} */ name) => String(said.get(name) ?? "");
    return {
      view: text("view"),
      scale: text("scale"),
      opacity: this.#slider("opacity").value, // not in the form's data while it is disabled
      colours: text("colours"),
      contour: text("contour"),
      swipe: text("swipe"), // "on", or empty
      beside: text("beside"),
    };
  }

  #keep() {
    kept = this.#choices;
  }

  #restore() {
    for (const [name, value] of Object.entries(kept)) {
      const control = this.#controls.elements.namedItem(name);
      if (control instanceof HTMLInputElement && control.type === "checkbox") control.checked = value === "on";
      else if (control instanceof HTMLSelectElement) {
        if ([...control.options].some((option) => option.value === value)) control.value = value;
      } else if (control instanceof RadioNodeList || control instanceof HTMLInputElement) control.value = value;
    }
    one(this, ".more", HTMLDetailsElement).open = isMore;
    const photo = document.getElementById("result-photo")?.getAttribute("src") ?? "";
    if (sight.photo !== photo) sight = { photo, part: WHOLE };
    this.#slider("zoom").value = String(sight.part.zoom);
  }

  /** After the columns have changed: what can be swiped, what is said, what is seen. */
  #ready() {
    this.#swipe.offer(this.#columns.map(({ heat }) => heat));
    for (const { heat } of this.#columns) {
      heat.tabIndex = 0;
      heat.setAttribute("role", "group");
      heat.setAttribute("aria-label", t("compare.keys", { name: heat.dataset.name ?? "" }));
    }
    this.#describe();
    this.#paint();
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const button = event.target instanceof Element && event.target.closest(".prediction");
    if (!(button instanceof HTMLButtonElement)) return;
    const [first, second] = this.#groups;
    if (second?.columns.some(({ element }) => element.contains(button))) {
      event.preventDefault(); // its form is the first family's
      if (this.#knows(second, button.value)) this.#retarget(button.value);
      else this.#stand(button.value);
    } else if (this.#knows(first, button.value)) {
      event.preventDefault();
      this.#retarget(button.value);
    }
  }

  /**
   * Whether every column of a family has this class's map and probability at hand.
   * @param {Group} family
   * @param {string} label
   */
  #knows({ columns }, label) {
    return columns.every(
      ({ heat, predictions }) =>
        heat.maps.has(label) && predictions.some((button) => button.value === label),
    );
  }

  /**
   * Show another class in each family that has it at hand.
   * @param {string} label
   */
  #retarget(label) {
    for (const family of this.#groups) {
      if (!this.#knows(family, label)) continue;
      family.target = label;
      if (family === this.#groups[0]) fill(one(this, ".looking", HTMLElement), "target", label);
      for (const { element, predictions } of family.columns) {
        fill(element, "target", label);
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
    }
    this.#describe();
    this.#paint();
    if (this.#groups[0].target !== label) return;
    this.#result.dataset.target = label; // whoever asks about this answer asks about that class
    sayTarget(this, label);
  }

  /** The line of text under each map, and over the second family. */
  #describe() {
    for (const { columns, target } of this.#groups) {
      for (const { element, heat } of columns) {
        const map = heat.map(target);
        show(element, "evidence", map.max > 0);
        show(element, "nothing", map.max <= 0);
        if (map.max <= 0) continue;
        fill(element, "peak", rounded(map.max));
        fill(element, "spread", t("compare.spread", { percent: `${Math.round(halfShare(map) * 100)}\u00a0%` }));
      }
    }
    const [first, second] = this.#groups;
    if (!second) return;
    const { target } = first;
    fill(this, "beside-target", second.target === target ? t("compare.also", { target }) : t("compare.their-own", { own: second.target, target }));
  }

  #paint() {
    const { view, scale, opacity, colours, contour, swipe } = this.#choices;
    const isShared = scale === "shared";
    for (const { columns, target } of this.#groups) {
      const top = Math.max(...columns.map(({ heat }) => heat.map(target).max)); // logits of one family
      for (const { heat } of columns) {
        heat.show({
          target,
          view,
          top: isShared ? top : undefined,
          reference: columns[0].heat,
          opacity: Number(opacity),
          colours,
          contour: Number(contour),
          part: sight.part,
        });
      }
      if (columns !== this.#groups[0].columns) continue;
      const { unit = "" } = columns[0].heat.dataset;
      fill(this, "top", !isShared || top <= 0 ? t("compare.most") : `${rounded(top)} ${unit}`.trim());
      fill(this, "bottom", isShared ? "0" : t("compare.none"));
    }
    for (const strip of all(this, "[data-scale]", HTMLElement)) strip.hidden = strip.dataset.scale !== colours;
    fill(this, "contour", Number(contour) ? `${Math.round(Number(contour) * 100)}\u00a0%` : t("compare.no-contour"));
    fill(this, "zoom", `${Number(sight.part.zoom.toFixed(1))}×`);
    show(this, "heat", view === "overlay" || view === "map");
    show(this, "difference", view === "difference");
    this.#slider("opacity").disabled = view !== "overlay";
    this.#swipe.hidden = !swipe;
    this.#swipe.paint();
    this.#point(this.#pointed);
  }

  // The part in sight, and the cell pointed at

  #listenToPointers() {
    /** @type {{heat: HeatMap, from: Place, part: Part} | null} */
    let dragged = null;
    const heatOf = (/** @type {Event} */ { target }) => {
      const heat = target instanceof Element ? target.closest("heat-map") : null;
      return heat instanceof HeatMap ? heat : null;
    };
    this.addEventListener("pointermove", (event) => {
      const heat = dragged?.heat ?? heatOf(event);
      const place = heat && heat.place(event);
      if (dragged && place) {
        const { from, part } = dragged; // the place under the pointer stays under it
        this.#see({ ...part, x: sight.part.x + from.x - place.x, y: sight.part.y + from.y - place.y });
      } else {
        this.#point(place ?? null);
      }
    });
    this.addEventListener("pointerdown", (event) => {
      const heat = heatOf(event);
      const from = heat && heat.place(event);
      if (!heat || !from || sight.part.zoom === 1) return;
      dragged = { heat, from, part: sight.part };
      heat.setPointerCapture(event.pointerId);
    });
    for (const end of ["pointerup", "pointercancel"]) this.addEventListener(end, () => (dragged = null));
    this.addEventListener("pointerleave", () => this.#point(null));
    this.addEventListener("dblclick", (event) => {
      const place = heatOf(event)?.place(event);
      if (place) this.#zoom(sight.part.zoom > 1 ? 1 : 3, place);
    });
    this.addEventListener(
      "wheel",
      (event) => {
        const place = event.ctrlKey && heatOf(event)?.place(event); // pinched on a trackpad, too
        if (!place) return;
        event.preventDefault();
        this.#zoom(sight.part.zoom * Math.exp(-event.deltaY / 200), place);
      },
      { passive: false },
    );
    this.addEventListener("keydown", (event) => {
      const heat = heatOf(event);
      if (!heat || event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key in KEYS) this.#point(heat.beside(this.#pointed ?? this.#middle, ...KEYS[event.key]));
      else if (event.key === "+" || event.key === "-") this.#zoom(sight.part.zoom * (event.key === "+" ? 1.5 : 1 / 1.5), this.#middle);
      else if (event.key === "Escape" && this.#pointed) this.#point(null);
      else return;
      event.preventDefault();
    });
    this.addEventListener("focusout", () => this.#point(null));
  }

  /** The place to enlarge around: the one pointed at, or the middle of what is in sight. */
  get #middle() {
    const { x, y, zoom } = sight.part;
    return this.#pointed ?? { x: x + 0.5 / zoom, y: y + 0.5 / zoom };
  }

  /**
   * @param {number} zoom
   * @param {Place} around it stays where it is in the picture
   */
  #zoom(zoom, around) {
    const { part } = sight;
    const wanted = Math.min(Math.max(zoom, 1), MOST_ZOOM);
    const stay = part.zoom / wanted;
    this.#see({ x: around.x - (around.x - part.x) * stay, y: around.y - (around.y - part.y) * stay, zoom: wanted });
  }

  /** @param {Part} part */
  #see({ x, y, zoom }) {
    const most = 1 - 1 / zoom;
    sight.part = { x: Math.min(Math.max(x, 0), most), y: Math.min(Math.max(y, 0), most), zoom };
    this.#slider("zoom").value = String(zoom);
    this.#paint();
  }

  /**
   * The same cell in every map, with its value.
   * @param {Place | null} place
   */
  #point(place) {
    this.#pointed = place;
    const isChange = this.#choices.view === "difference";
    for (const { element, heat } of this.#columns) {
      const found = heat.mark(place);
      const { unit = "" } = heat.dataset;
      const value = !found ? "" : isChange && found.change !== null ? signed(found.change) : rounded(found.value);
      fill(element, "here", value && `${value} ${unit}`.trim());
      show(element, "here", Boolean(place));
    }
  }

  // A second family

  #offerFamilies() {
    const form = document.getElementById("photo-form");
    const family = form instanceof HTMLFormElement ? field(form, "family", HTMLSelectElement) : null;
    const select = one(this.#controls, "[name=beside]", HTMLSelectElement);
    const own = this.#result.dataset.family;
    for (const { value, text } of family?.options ?? []) {
      if (value !== own) select.add(new Option(text, value));
    }
    show(this.#controls, "beside", select.options.length > 1);
  }

  /**
   * Let the chosen family stand beside the first, or none.
   * @param {string} [target] a class of its own; by default the one that is shown
   */
  async #stand(target = this.#groups[0].target) {
    this.#beside.abort();
    const { signal } = (this.#beside = new AbortController());
    const select = one(this.#controls, "[name=beside]", HTMLSelectElement);
    const place = one(this, ".beside", HTMLElement);
    place.hidden = !select.value;
    if (!select.value) {
      this.#groups.length = 1;
      one(place, ".columns", HTMLElement).replaceChildren();
      this.#ready();
      return;
    }
    fill(this, "beside", select.selectedOptions[0].text);
    fill(this, "beside-target", "…");
    try {
      const isKnown = await knows(select.value, target, signal);
      const columns = await columnsOf(select.value, isKnown ? target : "", signal);
      if (signal.aborted) return;
      if (!columns) throw new TypeError("No columns came.");
      const slot = one(place, ".columns", HTMLElement);
      slot.replaceChildren(...columns.elements);
      this.#groups = [this.#groups[0], group(slot, columns.target)];
      this.#ready();
    } catch {
      if (!signal.aborted) fill(this, "beside-target", t("compare.no-beside"));
    }
  }
}

/**
 * @param {HTMLElement} parent
 * @param {string} target
 * @returns {Group}
 */
function group(parent, target) {
  const columns = all(parent, ".model-column", HTMLElement).map((element) => ({
    element,
    heat: one(element, "heat-map", HeatMap),
    predictions: all(element, ".prediction", HTMLButtonElement),
  }));
  return { columns, target };
}

/**
 * Whether a family has this class or word.
 * @param {string} family
 * @param {string} target
 * @param {AbortSignal} signal
 */
async function knows(family, target, signal) {
  const address = new URL("api/v1/classes", one(document, "#photo-form", HTMLFormElement).action);
  address.search = String(new URLSearchParams({ family, q: target, limit: "100" }));
  const response = await fetch(address, { signal });
  /** @type {{classes: {target: string, label: string}[]}} */
  const { classes } = await response.json();
  return classes.some((found) => found.target === target || found.label === target);
}

/**
 * Another family's columns, as the server writes them; null if it refuses the question.
 * @param {string} family
 * @param {string} target
 * @param {AbortSignal} signal
 */
async function columnsOf(family, target, signal) {
  const form = one(document, "#photo-form", HTMLFormElement);
  const photo = one(document, "#result", HTMLElement).dataset.photo;
  const body = new FormData();
  const file = one(form, "[name=image]", HTMLInputElement).files?.[0];
  if (photo) body.set("photo", photo);
  else if (file) body.set("image", file);
  const method = one(form, "[name=method]", HTMLSelectElement).value;
  for (const [name, value] of Object.entries({ family, target, method, top_k: "10" })) body.set(name, value);
  const headers = { Accept: "text/html", "X-Fragment": "answer", ...language() };
  const response = await fetch(form.action, { method: "POST", headers, body, signal });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const result = page.getElementById("result");
  if (!result) return null;
  const elements = all(result, ".model-column", HTMLElement).map((each) => document.importNode(each, true));
  return { elements, target: result.dataset.target ?? "" };
}

/** @param {number} value */
function rounded(value) {
  return String(Number(value.toPrecision(3)));
}

/** @param {number} value */
function signed(value) {
  return `${value < 0 ? "−" : "+"}${rounded(Math.abs(value))}`;
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
