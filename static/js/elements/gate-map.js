// @ts-check
// <gate-map data-map='MAP' data-view='{x0, y0, x1, y1}' data-size='[width, height]'
//           data-label="Spatial gate of …" data-photo="id of the <img>">server's picture</gate-map>
//
// A gate that varies over places, over the faded, grey view of the photo, from its least value to its greatest.

import { json } from "../lib/dom.js";
import { colours, enlarged, painted, pencil, readMap } from "../lib/maps.js";
import { photo } from "../lib/photo.js";

/** @import { MapMessage, Size, View } from "../lib/maps.js" */

const LONGEST_PX = 480;

export class GateMap extends HTMLElement {
  get map() {
    return readMap(/** @type {MapMessage} */ (json(this, "map")));
  }

  async connectedCallback() {
    const { x0, y0, x1, y1 } = /** @type {View} */ (json(this, "view"));
    const [photoWidth, photoHeight] = /** @type {Size} */ (json(this, "size"));
    const scale = LONGEST_PX / Math.max(x1 - x0, y1 - y0);
    const width = Math.max(1, Math.round((x1 - x0) * scale));
    const height = Math.max(1, Math.round((y1 - y0) * scale));

    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", this.dataset.label ?? "");
    const context = pencil(canvas);
    const image = await photo(this.dataset.photo ?? "");
    context.drawImage(image, -x0 * scale, -y0 * scale, photoWidth * scale, photoHeight * scale);
    // The server's mixture: 35 % grey photo, 65 % colour of the gate.
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "black";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = 0.65;
    context.drawImage(this.#coloured(width, height), 0, 0);
    this.replaceChildren(canvas);
  }

  /**
   * @param {number} width
   * @param {number} height
   */
  #coloured(width, height) {
    const map = this.map;
    const values = enlarged(map, width, height);
    const table = colours("viridis");
    const spread = map.max - map.min || 1; // a flat gate has the lowest colour everywhere
    return painted(width, height, (i) => [...table[Math.round(((values[i] - map.min) / spread) * 255)], 255]);
  }
}

customElements.define("gate-map", GateMap);
