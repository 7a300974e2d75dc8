// @ts-check
// What the elements tell each other, by bubbling events:
//   "target-change"  another class is shown; detail: its label

const TARGET = "target-change";

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
