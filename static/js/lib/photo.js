// @ts-check
// The photo that everything is painted on: the gallery's, the server's picture, or the reader's own file.

import { pencil } from "./maps.js";

const LONGEST_PX = 1024; // no canvas of the page shows more

/** @type {WeakMap<HTMLImageElement, Promise<OffscreenCanvas>>} */
const drawables = new WeakMap();

/**
 * An <img>'s picture in a size that is quick to draw, made once.
 * @param {string} id of the <img>
 */
export function photo(id) {
  const image = document.getElementById(id);
  if (!(image instanceof HTMLImageElement)) throw new TypeError(`The page has no picture #${id}.`);
  const drawable = drawables.get(image) ?? shrunk(image);
  drawables.set(image, drawable);
  return drawable;
}

/** @param {HTMLImageElement} image */
async function shrunk(image) {
  await image.decode();
  const { naturalWidth, naturalHeight } = image;
  const scale = Math.min(1, LONGEST_PX / Math.max(naturalWidth, naturalHeight));
  const width = Math.max(1, Math.round(naturalWidth * scale));
  const height = Math.max(1, Math.round(naturalHeight * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = pencil(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return canvas;
}

/** @type {WeakMap<OffscreenCanvas, OffscreenCanvas>} */
const greys = new WeakMap();

/**
 * The same picture without its colour, made once.
 * @param {OffscreenCanvas} picture
 */
export function greyed(picture) {
  const known = greys.get(picture) ?? grey(picture);
  greys.set(picture, known);
  return known;
}

/** @param {OffscreenCanvas} picture */
function grey(picture) {
  const { width, height } = picture;
  const canvas = new OffscreenCanvas(width, height);
  const context = pencil(canvas);
  context.drawImage(picture, 0, 0);
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "black";
  context.fillRect(0, 0, width, height);
  return canvas;
}

/**
 * Whether a file says that it is HEIC, as phones write it: most browsers don't show that.
 * @param {File} file
 */
export function isHeic({ name, type }) {
  return /^image\/hei[cf]/.test(type) || /\.hei[cf]$/i.test(name);
}

/** A file of the reader's, decoded by the browser. Let go of it when another one is chosen. */
export class LocalPhoto {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.url = URL.createObjectURL(file);
    this.image = new Image();
    this.image.src = this.url;
    /** Whether the browser can decode it. */
    this.decoded = this.image.decode().then(
      () => true,
      () => false,
    );
  }

  /**
   * Whether the browser decodes it to the size that the server says it has; if not, they do not mean
   * the same picture, turned or cut otherwise.
   * @param {number} width
   * @param {number} height
   */
  async hasSize(width, height) {
    if (!(await this.decoded)) return false;
    return this.image.naturalWidth === width && this.image.naturalHeight === height;
  }

  letGo() {
    URL.revokeObjectURL(this.url);
  }
}
