// @ts-check
// Elements that a script relies on: there, and of the kind that it expects, or an error that names them.

/**
 * The first such element in `parent`.
 * @template {Element} E
 * @param {ParentNode} parent
 * @param {string} selector
 * @param {new () => E} kind
 * @returns {E}
 */
export function one(parent, selector, kind) {
  const found = parent.querySelector(selector);
  if (!(found instanceof kind)) throw new TypeError(`The page has no ${kind.name} "${selector}".`);
  return found;
}

/**
 * All such elements in `parent`.
 * @template {Element} E
 * @param {ParentNode} parent
 * @param {string} selector
 * @param {new () => E} kind
 * @returns {E[]}
 */
export function all(parent, selector, kind) {
  return [...parent.querySelectorAll(selector)].flatMap((found) => (found instanceof kind ? [found] : []));
}

/**
 * What an attribute `data-…` holds as JSON.
 * @param {HTMLElement} element
 * @param {string} name as in `dataset`
 */
export function json(element, name) {
  const text = element.dataset[name];
  if (text === undefined) throw new TypeError(`<${element.localName}> has no data-${name}.`);
  return JSON.parse(text);
}

/**
 * A field of a form, or null if the server left it out.
 * @template {Element} E
 * @param {HTMLFormElement} form
 * @param {string} name
 * @param {new () => E} kind
 * @returns {E | null}
 */
export function field(form, name, kind) {
  const found = form.elements.namedItem(name);
  return found instanceof kind ? found : null;
}
