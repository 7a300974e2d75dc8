// @ts-check
// What the elements tell each other, by bubbling events:
//   "target-change"  another class is shown; detail: its label
//   "class-choice"   a class was searched for and taken; detail: the field's name and the class.
//                    Whoever shows it without asking the server prevents the default.
//   "photo-given"    a photo comes from the camera or from those kept; detail: the file
//   "gates-change"   other gates are changed; the form's field "gates" says which
//   "view-choice"    another view of the answer is wanted; detail: its name
//   "models-ready"   the server has loaded its models
// and, on a view alone, without bubbling: "view-shown", it is shown now.

const TARGET = "target-change";
const CHOICE = "class-choice";
const GATES = "gates-change";
const VIEW = "view-choice";
const SHOWN = "view-shown";
const PHOTO = "photo-given";
const READY = "models-ready";

/**
 * What was taken: for which field, and the class as the server takes it; empty: none.
 * @typedef {{name: string, target: string}} Choice
 */

/**
 * @param {Element} element where it happened
 * @param {string} label
 */
export function sayTarget(element, label) {
  element.dispatchEvent(new CustomEvent(TARGET, { detail: label, bubbles: true }));
}

/**
 * @param {(label: string) => void} listener
 * @param {EventTarget} [place] an element around it
 */
export function onTarget(listener, place = document) {
  place.addEventListener(TARGET, (event) => {
    if (event instanceof CustomEvent) listener(event.detail);
  });
}

/**
 * @param {Element} element where it happened
 * @param {Choice} choice
 * @returns {boolean} whether it is shown already
 */
export function sayChoice(element, choice) {
  return !element.dispatchEvent(new CustomEvent(CHOICE, { detail: choice, bubbles: true, cancelable: true }));
}

/**
 * @param {EventTarget} place an element around the field, or the document
 * @param {(choice: Choice, event: Event) => void} listener
 */
export function onChoice(place, listener) {
  place.addEventListener(CHOICE, (event) => {
    if (event instanceof CustomEvent && !event.defaultPrevented) listener(event.detail, event);
  });
}

/**
 * @param {Element} element where it happened
 * @param {File} file
 */
export function sayPhoto(element, file) {
  element.dispatchEvent(new CustomEvent(PHOTO, { detail: file, bubbles: true }));
}

/**
 * @param {EventTarget} place an element around it
 * @param {(file: File) => void} listener
 */
export function onPhoto(place, listener) {
  place.addEventListener(PHOTO, (event) => {
    if (event instanceof CustomEvent) listener(event.detail);
  });
}

/** @param {Element} element where it happened */
export function sayReady(element) {
  element.dispatchEvent(new CustomEvent(READY, { bubbles: true }));
}

/** @param {() => void} listener */
export function onReady(listener) {
  document.addEventListener(READY, listener);
}

/** @param {Element} element where it happened */
export function sayGates(element) {
  element.dispatchEvent(new CustomEvent(GATES, { bubbles: true }));
}

/** @param {() => void} listener */
export function onGates(listener) {
  document.addEventListener(GATES, listener);
}

/**
 * Ask for another view of the answer.
 * @param {string} name
 */
export function sayView(name) {
  document.dispatchEvent(new CustomEvent(VIEW, { detail: name }));
}

/**
 * @param {(name: string) => void} listener
 * @returns {() => void} stops listening
 */
export function onView(listener) {
  const heard = (/** @type {Event} */ event) => {
    if (event instanceof CustomEvent) listener(event.detail);
  };
  document.addEventListener(VIEW, heard);
  return () => document.removeEventListener(VIEW, heard);
}

/** @param {HTMLElement} view */
export function sayShown(view) {
  view.dispatchEvent(new CustomEvent(SHOWN));
}

/**
 * Hear each time that the view around an element comes into sight, and now if it is in sight.
 * @param {HTMLElement} element
 * @param {() => void} listener
 */
export function onShown(element, listener) {
  const view = element.closest(".view");
  if (!(view instanceof HTMLElement)) throw new TypeError(`<${element.localName}> stands in no view.`);
  view.addEventListener(SHOWN, listener);
  // Before <view-tabs> is connected, it says so itself.
  if ("shown" in view.dataset && view.closest("view-tabs:defined")) listener();
}
