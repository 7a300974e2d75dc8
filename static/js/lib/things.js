// @ts-check
// What several detectors found in a photo, as things: boxes around the same place, of the same class,
// are the same thing, by the rule of `counterparts` in cbam/explain/detection.py. A thing is one class.

import { listed, t } from "./words.js";

/**
 * In pixels of the photo.
 * @typedef {{x0: number, y0: number, x1: number, y1: number}} Rectangle
 *
 * As /api/v1/detect says it, the surest first.
 * @typedef {{box: Rectangle, index: number, label: string, score: number}} Detection
 *
 * @typedef {{model: string, detections: Detection[]}} Answer
 *
 * One thing. By model: which of its boxes is around it; which box would be, were it surer; and which
 * box says that it is something else.
 * @typedef {{label: string, score: number, boxes: Map<string, number>, nearly: Map<string, number>,
 *     instead: Map<string, number>}} Thing
 */

export const OVERLAP = 0.5; // least IoU of boxes around the same thing

/**
 * Intersection over union.
 * @param {Rectangle} one
 * @param {Rectangle} other
 */
export function overlap(one, other) {
  const width = Math.min(one.x1, other.x1) - Math.max(one.x0, other.x0);
  const height = Math.min(one.y1, other.y1) - Math.max(one.y0, other.y0);
  const shared = Math.max(0, width) * Math.max(0, height);
  const area = (/** @type {Rectangle} */ { x0, y0, x1, y1 }) => (x1 - x0) * (y1 - y0);
  const whole = area(one) + area(other) - shared;
  return whole > 0 ? shared / whole : 0;
}

/**
 * The things that are found with a score of `least`, the surest first.
 * @param {Answer[]} answers
 * @param {number} least
 * @returns {Thing[]}
 */
export function things(answers, least) {
  /** @type {(Thing & {rectangles: Rectangle[]})[]} */
  const found = [];
  for (const { model, detections } of answers) {
    const free = new Set(clear(detections, least));
    for (const thing of [...found].sort((one, other) => other.score - one.score)) {
      const number = best(thing, detections, [...free].filter((each) => detections[each].label === thing.label));
      if (number === undefined) continue;
      free.delete(number);
      thing.boxes.set(model, number);
      thing.rectangles.push(detections[number].box);
      thing.score = Math.max(thing.score, detections[number].score);
    }
    for (const number of free) {
      const { label, score, box } = detections[number];
      found.push({ label, score, boxes: new Map([[model, number]]), nearly: new Map(), instead: new Map(), rectangles: [box] });
    }
  }
  for (const thing of found) {
    for (const { model, detections } of answers) {
      if (thing.boxes.has(model)) continue;
      const all = [...detections.keys()];
      const nearly = best(thing, detections, all.filter((each) => detections[each].score < least && detections[each].label === thing.label));
      const instead = best(thing, detections, clear(detections, least).filter((each) => detections[each].label !== thing.label));
      if (nearly !== undefined) thing.nearly.set(model, nearly);
      if (instead !== undefined) thing.instead.set(model, instead);
    }
  }
  return found.sort((one, other) => other.score - one.score);
}

/**
 * The boxes with a score of `least`. Where a detector names several classes, only the surest counts.
 * @param {Detection[]} detections
 * @param {number} least
 * @returns {number[]}
 */
function clear(detections, least) {
  /** @type {number[]} */
  const kept = [];
  for (const [number, { box, label, score }] of detections.entries()) {
    const other = (/** @type {number} */ each) => detections[each].label !== label && overlap(detections[each].box, box) >= OVERLAP;
    if (score >= least && !kept.some(other)) kept.push(number);
  }
  return kept;
}

/**
 * Which of these boxes overlaps most with a thing's; none, if it does not overlap enough.
 * @param {{rectangles: Rectangle[]}} thing
 * @param {Detection[]} detections
 * @param {number[]} numbers
 */
function best({ rectangles }, detections, numbers) {
  const share = (/** @type {number} */ number) =>
    Math.max(...rectangles.map((each) => overlap(each, detections[number].box)));
  const able = numbers.filter((number) => share(number) >= OVERLAP);
  return able.sort((one, other) => share(other) - share(one))[0];
}

const ORDINALS = 10; // the second to the tenth of a class have a word for it

/**
 * A thing among all of them, with an article: "a sheep", "a second sheep".
 * @param {Thing[]} all
 * @param {Thing} thing
 */
export function named(all, thing) {
  const same = all.filter(({ label }) => label === thing.label);
  const number = same.indexOf(thing) + 1;
  const { label } = thing;
  if (number <= 1) return article(label);
  return article(t(number > ORDINALS ? "nth.more" : `nth.${number}`, { label }));
}

/** @param {string} words */
function article(words) {
  return t(/^[aeiou]/i.test(words) ? "find.an" : "find.a", { words });
}

/**
 * Things by class, with how many there are of each: "horse (2) and a dog".
 * @param {Thing[]} all
 */
export function counted(all) {
  const labels = [...new Set(all.map(({ label }) => label))];
  const count = (/** @type {string} */ label) => all.filter((thing) => thing.label === label).length;
  return listed(labels.map((label) => (count(label) > 1 ? `${label} (${count(label)})` : article(label))));
}

/**
 * For a thing that not all found, who did and who did not, as a sentence; empty if all did.
 * @param {Thing[]} all
 * @param {Thing} thing
 * @param {Map<string, string>} titles by model
 * @param {Answer[]} answers
 */
export function difference(all, thing, titles, answers) {
  const title = (/** @type {string} */ model) => titles.get(model) ?? model;
  const finders = answers.filter(({ model }) => thing.boxes.has(model));
  const others = answers.filter(({ model }) => !thing.boxes.has(model));
  if (!others.length) return "";
  const who = listed(finders.map(({ model }) => title(model)));
  const missing = listed(others.map(({ model }) => title(model)));
  const asides = others.flatMap(({ model, detections }) => {
    const instead = thing.instead.get(model);
    const nearly = thing.nearly.get(model);
    if (instead !== undefined) return [t("find.says-instead", { name: title(model), label: detections[instead].label })];
    if (nearly !== undefined) return [t("find.gives-only", { name: title(model), score: percent(detections[nearly].score) })];
    return [];
  });
  const aside = asides.length ? ` (${asides.join("; ")})` : "";
  const [some, many] = [finders.length > 1, others.length > 1].map((each) => (each ? "many" : "one"));
  return t(`find.differs-${some}-${many}`, { who, thing: named(all, thing), missing, aside });
}

/**
 * A share as people read it.
 * @param {number} share 0..1
 */
export function percent(share) {
  return `${Math.round(share * 100)}\u00a0%`;
}
