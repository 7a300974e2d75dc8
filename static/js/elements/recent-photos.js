// @ts-check
// <recent-photos hidden> … <button data-do="clear">Clear</button> <ul></ul> </recent-photos>
//
// The reader's last photos as small pictures; pressing one asks about it again ("photo-given").
// They are kept in this browser alone, see lib/photo-store.js. Hidden while there are none.

import { one } from "../lib/dom.js";
import { sayPhoto } from "../lib/events.js";
import { forget, keep, kept } from "../lib/photo-store.js";
import { pencil } from "../lib/maps.js";

/** @import { LocalPhoto } from "../lib/photo.js" */

const SIDE_PX = 208; // twice as many as are shown, for sharp screens

export class RecentPhotos extends HTMLElement {
  /** @type {string[]} addresses of the pictures shown */
  #urls = [];

  connectedCallback() {
    one(this, "[data-do=clear]", HTMLButtonElement).addEventListener("click", async () => {
      await forget();
      await this.#list();
    });
    this.#list();
  }

  /**
   * Keep a photo that was answered.
   * @param {LocalPhoto} photo
   */
  async add(photo) {
    await keep(photo.file, await thumbnail(photo));
    await this.#list();
  }

  async #list() {
    const photos = await kept();
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
    one(this, "ul", HTMLUListElement).replaceChildren(...photos.map((photo) => this.#item(photo)));
    this.hidden = photos.length === 0;
  }

  /** @param {{file: File, thumbnail: Blob | null}} photo */
  #item({ file, thumbnail: small }) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.title = file.name;
    if (small) {
      const picture = new Image(104, 104);
      picture.src = URL.createObjectURL(small);
      picture.alt = file.name;
      this.#urls.push(picture.src);
      button.append(picture);
    } else {
      button.textContent = file.name;
    }
    button.addEventListener("click", () => sayPhoto(this, file));
    item.append(button);
    return item;
  }
}

/**
 * The middle of a photo as a small square; null if the browser does not show it.
 * @param {LocalPhoto} photo
 */
async function thumbnail({ image, decoded }) {
  if (!(await decoded)) return null;
  const { naturalWidth: width, naturalHeight: height } = image;
  const side = Math.min(width, height);
  const canvas = new OffscreenCanvas(SIDE_PX, SIDE_PX);
  const place = /** @type {const} */ ([(width - side) / 2, (height - side) / 2, side, side]);
  pencil(canvas).drawImage(image, ...place, 0, 0, SIDE_PX, SIDE_PX);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
}

customElements.define("recent-photos", RecentPhotos);
