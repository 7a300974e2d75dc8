// <gate-row> … <label hidden><input type="checkbox" name="sorted"> … </label>
//   <li class="block"> pictures <button class="enlarge" hidden> <dialog> … [data-slot="pictures"] </li>
// </gate-row>
//
// The blocks of one model: sorts their bars together, opens a block's pictures large in its dialog.

class GateRow extends HTMLElement {
  connectedCallback() {
    for (const extra of this.querySelectorAll(".check, .enlarge")) extra.hidden = false;
    this.addEventListener("change", ({ target }) => {
      if (target.name !== "sorted") return;
      for (const bars of this.querySelectorAll("gate-bars")) bars.toggleAttribute("sorted", target.checked);
    });
    this.addEventListener("click", ({ target }) => {
      if (target.matches(".enlarge")) this.#open(target.closest(".block"));
    });
  }

  #open(block) {
    const dialog = block.querySelector("dialog");
    const pictures = [...block.querySelectorAll("figure > :is(gate-map, gate-bars)")];
    dialog.querySelector("[data-slot=pictures]").replaceChildren(
      ...pictures.map((picture) => picture.cloneNode(true)),
    );
    const mean = block.querySelector("gate-map")?.map.mean;
    if (mean !== undefined) {
      dialog.querySelector("[data-fill=spatial-mean]").textContent = `, mean ${mean.toFixed(3)}`;
    }
    dialog.showModal();
  }
}

customElements.define("gate-row", GateRow);
