// <heat-map data-maps='[{label, map: MAP}, …]' data-view='{x0, y0, x1, y1}' data-size='[width, height]'
//           data-name="CBAM-ResNet-18" data-photo="id of the <img>">server's picture</heat-map>
//
// Paints the heat map of one class on the view of the photo. `view` and `size` are in pixels of the
// original photo. element.show({target, view, opacity, top, reference}) changes what is seen; all
// keys are optional:
//   target     a label among data-maps (the first one)
//   view       "overlay", "map", "photo" or "difference"
//   opacity    of the hottest cell, 0..1
//   top        the raw value painted hottest (the map's own maximum)
//   reference  the <heat-map> that "difference" subtracts

import { colours, enlarged, hottest, painted, photo, readMap, role } from "../lib/maps.js";

const LONGEST_PX = 800;

class HeatMap extends HTMLElement {
  #shown = { view: "overlay", opacity: 0.7 };
  #maps;
  #canvas;
  #photo;
  #layers = new Map(); // what was painted before: a slider then only composes

  /** label -> raw map, read once. */
  get maps() {
    this.#maps ??= new Map(
      JSON.parse(this.dataset.maps).map(({ label, map }) => [label, readMap(map)]),
    );
    return this.#maps;
  }

  get #target() {
    return this.#shown.target ?? this.maps.keys().next().value;
  }

  async connectedCallback() {
    this.#photo = await photo(this.dataset.photo);
    const { naturalWidth: width, naturalHeight: height } = this.#photo;
    const scale = Math.min(1, LONGEST_PX / Math.max(width, height));
    this.#canvas = document.createElement("canvas");
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    this.#canvas.setAttribute("role", "img");
    this.replaceChildren(this.#canvas);
    this.#paint();
  }

  show(changes) {
    Object.assign(this.#shown, changes);
    if (this.#canvas) this.#paint();
  }

  #paint() {
    const { view, opacity, reference } = this.#shown;
    const map = this.maps.get(this.#target);
    const empty = map.max <= 0;
    const { width, height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    const draw = (picture, alpha, box) => {
      context.globalAlpha = alpha;
      context.drawImage(picture, ...box);
      context.globalAlpha = 1;
    };
    const frame = [0, 0, width, height];
    const box = this.#box();

    context.clearRect(...frame);
    if (view === "difference") {
      draw(this.#photo, 1, frame);
      this.#fade(context, 1);
      if (reference !== this) draw(this.#difference(box), 1, box);
    } else {
      draw(this.#photo, 1, frame);
      if (view === "overlay" && !empty) {
        this.#fade(context, opacity);
        draw(this.#heat(box, false), opacity, box);
      }
      if (view === "map" && !empty) draw(this.#heat(box, true), 1, box);
    }
    if (view !== "photo") this.#dimOutside(context, box);

    this.toggleAttribute("data-empty", empty && view !== "photo" && view !== "difference");
    this.#canvas.setAttribute("aria-label", this.#description(map));
  }

  /** The view in pixels of the canvas: [x, y, width, height]. */
  #box() {
    const { x0, y0, x1, y1 } = JSON.parse(this.dataset.view);
    const [width, height] = JSON.parse(this.dataset.size);
    const across = this.#canvas.width / width;
    const down = this.#canvas.height / height;
    return [x0 * across, y0 * down, (x1 - x0) * across, (y1 - y0) * down].map(Math.round);
  }

  /** The heat in colour; colder is more transparent unless `opaque`, as in cbam/render.py. */
  #heat([, , width, height], opaque) {
    const map = this.maps.get(this.#target);
    const top = this.#shown.top ?? map.max;
    return this.#layer(["heat", this.#target, top, opaque], () => {
      const values = enlarged(map, width, height);
      const table = colours("inferno");
      return painted(width, height, (i) => {
        const value = Math.min(Math.max(values[i] / top, 0), 1);
        return [...table[Math.round(value * 255)], opaque ? 255 : 255 * Math.sqrt(value)];
      });
    });
  }

  /** This map minus the reference's, both on one scale: more in one colour, less in another. */
  #difference([, , width, height]) {
    const other = this.#shown.reference.maps.get(this.#target);
    const own = this.maps.get(this.#target);
    return this.#layer(["difference", this.#target], () => {
      const top = Math.max(own.max, other.max) || 1;
      const [mine, its] = [enlarged(own, width, height), enlarged(other, width, height)];
      const [more, less] = [role("--change-more"), role("--change-less")];
      return painted(width, height, (i) => {
        const change = (mine[i] - its[i]) / top;
        return [...(change > 0 ? more : less), 230 * Math.abs(change)];
      });
    });
  }

  #layer(key, paint) {
    const name = key.join("|");
    if (!this.#layers.has(name)) {
      if (this.#layers.size > 8) this.#layers.clear();
      this.#layers.set(name, paint());
    }
    return this.#layers.get(name);
  }

  /** Takes colour from the photo, so that all colour is heat; the more, the more opaque the map is. */
  #fade(context, opacity) {
    context.globalAlpha = Math.min(0.8, opacity * 1.2);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "black";
    context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.globalCompositeOperation = "source-over";
    context.globalAlpha = 1;
  }

  /** What the model did not see, darkened. */
  #dimOutside(context, [x, y, width, height]) {
    const outside = new Path2D();
    outside.rect(0, 0, this.#canvas.width, this.#canvas.height);
    outside.rect(x, y, width, height);
    context.fillStyle = "rgb(0 0 0 / 50%)";
    context.fill(outside, "evenodd");
  }

  #description(map) {
    const { view } = this.#shown;
    const whose = `${this.dataset.name} for ${this.#target}`;
    if (view === "photo") return "The photo";
    if (map.max <= 0) return `${whose}: no positive evidence`;
    const kind = view === "difference" ? "Change of the heat map" : "Heat map";
    return `${kind} of ${whose}, hottest in the ${hottest(map)}`;
  }
}

customElements.define("heat-map", HeatMap);
