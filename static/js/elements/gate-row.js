// @ts-check
// <gate-row> … <label hidden><input type="checkbox" name="sorted"> … </label>
//   <li class="block"> pictures <button class="enlarge" hidden> <dialog> … [data-slot="pictures"] </li>
// </gate-row>
//
// The blocks of one model: sorts their bars together, opens a block's pictures large in its dialog.

import { all, one } from "../lib/dom.js";
import { GateMap } from "./gate-map.js";

class GateRow extends HTMLElement {
  connectedCallback() {
    for (const extra of all(this, ".check, .enlarge", HTMLElement)) extra.hidden = false;
    this.addEventListener("change", ({ target }) => {
      if (!(target instanceof HTMLInputElement) || target.name !== "sorted") return;
      for (const bars of this.querySelectorAll("gate-bars")) bars.toggleAttribute("sorted", target.checked);
    });
    this.addEventListener("click", ({ target }) => {
      if (!(target instanceof Element) || !target.matches(".enlarge")) return;
      const block = target.closest(".block");
      if (block) this.#open(block);
    });
  }

  /** @param {Element} block */
  #open(block) {
    const dialog = one(block, "dialog", HTMLDialogElement);
    const pictures = all(block, "figure > :is(gate-map, gate-bars)", HTMLElement);
    one(dialog, "[data-slot=pictures]", HTMLElement).replaceChildren(
      ...pictures.map((picture) => picture.cloneNode(true)),
    );
    for (const { map } of all(block, "figure > gate-map", GateMap)) {
      one(dialog, "[data-fill=spatial-mean]", HTMLElement).textContent = `, mean ${map.mean.toFixed(3)}`;
    }
    dialog.showModal();
  }
}

customElements.define("gate-row", GateRow);
