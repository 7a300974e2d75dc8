// @ts-check
// A part of the page as one picture, as it is seen: its elements are copied with their styles into an SVG, canvases
// and photos as pictures, and that SVG is painted. Nothing leaves the browser.

import { pencil } from "./maps.js";
import { t } from "./words.js";

const SCALE = 2; // pixels of the picture for each of the page, if the canvas may be so large
const LARGEST_PX = 16_000; // a side of a canvas
const MARGIN = 24;
const SLACK_PX = 32; // text may break a line more than on the page
const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {HTMLElement} element
 * @param {string} title above it
 * @param {string} caption below it
 * @returns {Promise<Blob>} PNG
 */
export async function snapshot(element, title, caption) {
  const box = element.getBoundingClientRect();
  const [width, height] = [box.width, box.height + SLACK_PX];
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(drawing(element, width, height))}`;
  await picture.decode();
  const { fontFamily, color, backgroundColor } = getComputedStyle(document.documentElement);
  const heading = getComputedStyle(document.querySelector("h1") ?? document.body).fontFamily;
  const canvas = document.createElement("canvas");
  const context = pencil(canvas);
  /** @type {[string, string, number][]} text, font and height of a line */
  const above = wrapped(context, title, `500 26px ${heading}`, 34, width);
  const below = wrapped(context, caption, `13px ${fontFamily}`, 19, width);
  const [head, foot] = [above, below].map((lines) => lines.reduce((sum, [, , line]) => sum + line, 12));
  const whole = { width: width + 2 * MARGIN, height: head + height + foot + 2 * MARGIN };
  const scale = Math.min(SCALE, LARGEST_PX / Math.max(whole.width, whole.height));
  Object.assign(canvas, { width: Math.ceil(whole.width * scale), height: Math.ceil(whole.height * scale) });
  context.scale(scale, scale);
  context.fillStyle = backgroundColor;
  context.fillRect(0, 0, whole.width, whole.height);
  context.fillStyle = color;
  write(context, above, MARGIN);
  context.drawImage(picture, 0, 0, width, height, MARGIN, MARGIN + head, width, height);
  write(context, below, MARGIN + head + height + 12);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(t("failed.cannot-save")))));
  });
}

/**
 * @param {import("./maps.js").Pencil} context
 * @param {string} text
 * @param {string} font
 * @param {number} height
 * @param {number} width
 * @returns {[string, string, number][]}
 */
function wrapped(context, text, font, height, width) {
  context.font = font;
  /** @type {string[]} */
  const lines = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
    if (lines.length && context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.map((line) => [line, font, height]);
}

/**
 * @param {import("./maps.js").Pencil} context
 * @param {[string, string, number][]} lines
 * @param {number} top
 */
function write(context, lines, top) {
  context.textBaseline = "top";
  for (const [line, font, height] of lines) {
    context.font = font;
    context.fillText(line, MARGIN, top);
    top += height;
  }
}

/**
 * The element as an SVG of this size.
 * @param {HTMLElement} element
 * @param {number} width
 * @param {number} height
 */
function drawing(element, width, height) {
  const copies = document.implementation.createHTMLDocument(""); // where no element of ours comes alive
  const root = getComputedStyle(document.documentElement);
  const svg = copies.createElementNS(SVG, "svg");
  // As wide as the window: widths in the style sheets may be shares of it.
  svg.setAttribute("width", String(document.documentElement.clientWidth));
  svg.setAttribute("height", String(Math.ceil(height)));
  svg.style.fontSize = root.fontSize;
  const style = copies.createElementNS(SVG, "style");
  style.textContent = styles();
  const frame = copies.createElementNS(SVG, "foreignObject");
  frame.setAttribute("width", String(width));
  frame.setAttribute("height", String(height));
  svg.append(style, frame);
  /** @type {Element} */
  let place = frame;
  // The elements around it, for rules that name them, but without a shape of their own.
  for (const around of ancestors(element)) {
    const copy = copies.importNode(around, false);
    copy.style.cssText = `all: unset; display: block; font: ${root.font}; color: ${root.color}; overflow-wrap: anywhere;`;
    place.append(copy);
    place = copy;
  }
  const copy = copied(element, copies);
  if (copy) place.append(copy);
  return new XMLSerializer().serializeToString(svg);
}

/**
 * From the outermost inwards.
 * @param {HTMLElement} element
 * @returns {HTMLElement[]}
 */
function ancestors(element) {
  const parent = element.parentElement;
  return parent ? [...ancestors(parent), parent] : [];
}

/**
 * An element and what is in it, as it is now; null if it is not shown.
 * @param {Element} element
 * @param {Document} copies
 * @returns {Element | null}
 */
function copied(element, copies) {
  if (element.matches("script, template, dialog:not([open])")) return null;
  if (getComputedStyle(element).display === "none") return null;
  if (element instanceof HTMLCanvasElement || element instanceof HTMLImageElement) return pictured(element, copies);
  const copy = copies.importNode(element, false);
  if (element instanceof HTMLInputElement) {
    copy.setAttribute("value", element.value);
    copy.toggleAttribute("checked", element.checked);
  }
  if (element instanceof HTMLOptionElement) copy.toggleAttribute("selected", element.selected);
  for (const child of element.childNodes) {
    const inner = child instanceof Element ? copied(child, copies) : child instanceof Text ? copies.importNode(child) : null;
    if (inner) copy.append(inner);
  }
  return copy;
}

/**
 * What a canvas or an <img> shows, as an <img> that needs nothing else.
 * @param {HTMLCanvasElement | HTMLImageElement} element
 * @param {Document} copies
 */
function pictured(element, copies) {
  const image = copies.createElement("img");
  for (const { name, value } of element.attributes) {
    if (!["src", "srcset", "loading"].includes(name)) image.setAttribute(name, value);
  }
  const { width, height } = element.getBoundingClientRect();
  const { objectFit } = getComputedStyle(element);
  Object.assign(image.style, { width: `${width}px`, height: `${height}px`, objectFit });
  image.setAttribute("src", uri(element));
  return image;
}

/** @param {HTMLCanvasElement | HTMLImageElement} element */
function uri(element) {
  if (element instanceof HTMLCanvasElement) return element.toDataURL();
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, 1024 / Math.max(element.naturalWidth, element.naturalHeight, 1));
  canvas.width = Math.max(1, Math.round(element.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(element.naturalHeight * scale));
  if (element.complete && element.naturalWidth) pencil(canvas).drawImage(element, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL();
}

/** Every rule that holds now, for this width and these colours. */
function styles() {
  return [...document.styleSheets, ...document.adoptedStyleSheets].map(({ cssRules }) => texts(cssRules)).join("\n");
}

/**
 * @param {CSSRuleList} rules
 * @returns {string}
 */
function texts(rules) {
  return [...rules]
    .map((rule) => {
      if (rule instanceof CSSImportRule) return rule.styleSheet ? texts(rule.styleSheet.cssRules) : "";
      if (rule instanceof CSSMediaRule) return matchMedia(rule.conditionText).matches ? texts(rule.cssRules) : "";
      return rule.cssText;
    })
    .join("\n");
}
