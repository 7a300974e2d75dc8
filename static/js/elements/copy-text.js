// @ts-check
// <copy-text> <pre><code>curl http://127.0.0.1:8000/…</code></pre> <button type="button" hidden>Copy</button> </copy-text>
//
// Names the address that the page came from, and copies the text.

import { one } from "../lib/dom.js";
import { t } from "../lib/words.js";

class CopyText extends HTMLElement {
  connectedCallback() {
    const code = one(this, "pre code", HTMLElement);
    const button = one(this, "button", HTMLButtonElement);
    code.textContent = (code.textContent ?? "").replace("http://127.0.0.1:8000", location.origin);
    button.hidden = !navigator.clipboard; // only over https or on localhost
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.textContent ?? ""); // it may have changed
      button.textContent = t("copied");
    });
  }
}

customElements.define("copy-text", CopyText);
