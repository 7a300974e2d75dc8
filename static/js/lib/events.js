// @ts-check
// What the elements tell each other, by bubbling events:
//   "target-change"  another class is shown; detail: its label
//   "class-choice"   a class was searched for and taken; detail: the field's name and the class.
//                    Whoever shows it without asking the server prevents the default.

const TARGET = "target-change";
const CHOICE = "class-choice";

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

/** @param {(label: string) => void} listener */
export function onTarget(listener) {
  document.addEventListener(TARGET, (event) => {
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
