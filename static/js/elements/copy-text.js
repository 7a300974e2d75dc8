// <copy-text> <pre>curl http://127.0.0.1:8000/…</pre> <button type="button" hidden>Copy</button> </copy-text>
//
// Names the address that the page came from, and copies the text.

class CopyText extends HTMLElement {
  connectedCallback() {
    const text = this.querySelector("pre code");
    const button = this.querySelector("button");
    text.textContent = text.textContent.replace("http://127.0.0.1:8000", location.origin);
    button.hidden = !navigator.clipboard; // only over https or on localhost
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    });
  }
}

customElements.define("copy-text", CopyText);
