// @ts-check
// What the elements tell each other, by bubbling events:
//   "target-change"  another class is shown; detail: its label
//   "class-choice"   a class was searched for and taken; detail: the field's name and the class.
//                    Whoever shows it without asking the server prevents the default.
//   "gates-change"   other gates are changed; the form's field "gates" says which

const TARGET = "target-change";
const CHOICE = "class-choice";
const GATES = "gates-change";

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

/** @param {Element} element where it happened */
export function sayGates(element) {
  element.dispatchEvent(new CustomEvent(GATES, { bubbles: true }));
}

/** @param {() => void} listener */
export function onGates(listener) {
  document.addEventListener(GATES, listener);
}
