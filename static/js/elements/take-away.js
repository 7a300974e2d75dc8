// @ts-check
// <take-away data-target='"goldfish"'> <button data-save="png"> … <p role="status"> <div data-line="curl"> <copy-text> … </take-away>
//
// Saves the answer that is shown: a picture of the view, a bundle, HTML, JSON. Keeps the lines that ask the same
// again in step with the class that is shown.

import { ask } from "../lib/ask.js";
import { all, json, one } from "../lib/dom.js";
import { onTarget } from "../lib/events.js";
import { snapshot } from "../lib/snapshot.js";
import { t } from "../lib/words.js";

const TAKES = ["target", "method", "layer", "versus", "gates"];
const TOP_K = 10; // as many as the page shows

/** How each line names its target. @type {Record<string, (target: string | number) => string>} */
const NAMED = {
  curl: (target) => `-F ${shell(`target=${target}`)}`,
  command: (target) => `--target ${shell(String(target))}`,
  python: (target) => `target=${python(target)}`,
};

class TakeAway extends HTMLElement {
  /** @type {string | number} */
  #target = "";

  connectedCallback() {
    this.#target = json(this, "target");
    this.addEventListener("click", ({ target }) => {
      const button = target instanceof Element && target.closest("button[data-save]");
      if (button instanceof HTMLButtonElement) this.#save(button);
    });
    const heard = (/** @type {string} */ label) => this.isConnected && this.#retarget(label);
    onTarget(heard, one(document, "#result", HTMLElement));
    const link = this.querySelector("[data-link]");
    if (link instanceof HTMLButtonElement) {
      link.hidden = !navigator.clipboard;
      link.addEventListener("click", async () => {
        await navigator.clipboard.writeText(location.href);
        this.#say(t("take.link-copied"));
      });
    }
  }

  get #status() {
    return one(this, "[role=status]", HTMLElement);
  }

  /** @param {string} text */
  #say(text) {
    this.#status.textContent = text;
  }

  /** @param {HTMLButtonElement} button */
  async #save(button) {
    const kind = button.dataset.save ?? "";
    button.disabled = true;
    this.#say(t("take.making"));
    try {
      const [blob, name] = await this.#file(kind);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      this.#say(t("take.saved", { name }));
    } catch (error) {
      this.#say(error instanceof Error ? error.message : String(error));
    }
    button.disabled = false;
  }

  /**
   * @param {string} kind
   * @returns {Promise<[Blob, string]>} the file and its name
   */
  async #file(kind) {
    const result = one(document, "#result", HTMLElement);
    const fields = { top_k: TOP_K, target: String(this.#target) };
    const photo = (result.dataset.photo ?? "").replace(/\.\w+$/, "") || "photo";
    const stem = `cbam-lens-${photo}`;
    if (kind === "png") {
      const view = one(result, ".view[data-shown]", HTMLElement);
      const title = one(result, "#result-title", HTMLElement).textContent ?? "";
      return [await snapshot(view, title.trim(), this.#caption(view)), `${stem}-${view.dataset.view}.png`];
    }
    if (kind === "json") {
      const gates = document.querySelector("#gates");
      const changes = gates instanceof HTMLInputElement && gates.value.trim();
      const response = await ask(changes ? "intervene" : "explain", fields, { takes: TAKES });
      return [await response.blob(), `${stem}.json`];
    }
    const response = await ask("bundle", { ...fields, format: kind }, { takes: TAKES, accept: "*/*" });
    return [await response.blob(), `${stem}.${kind}`];
  }

  /** @param {HTMLElement} view */
  #caption(view) {
    const models = all(document, "#result .model-column header h3", HTMLElement).map(({ firstChild }) => firstChild?.textContent?.trim());
    const { method, photo } = one(document, "#result", HTMLElement).dataset;
    const where = photo ? location.href : t("take.own-photo");
    return t("take.caption", {
      view: view.getAttribute("aria-label") ?? "",
      target: this.#target,
      method: method ?? "",
      models: models.join(", "),
      where,
    });
  }

  /** @param {string} label */
  #retarget(label) {
    for (const line of all(this, "[data-line]", HTMLElement)) {
      const named = NAMED[line.dataset.line ?? ""];
      const code = one(line, "code", HTMLElement);
      code.textContent = (code.textContent ?? "").replace(named(this.#target), () => named(label));
    }
    this.#target = label;
  }
}

/**
 * As Python's shlex.quote.
 * @param {string} text
 */
function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

/**
 * As Python's repr.
 * @param {string | number} value
 */
function python(value) {
  if (typeof value === "number") return String(value);
  const text = value.replaceAll("\\", "\\\\");
  return text.includes("'") && !text.includes('"') ? `"${text}"` : `'${text.replaceAll("'", "\\'")}'`;
}

customElements.define("take-away", TakeAway);
