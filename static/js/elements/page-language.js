// @ts-check
// <page-language> <nav> <a href="?lang=ko" hreflang="ko"> … </nav> </page-language>
//
// The same answer in another language: a gallery photo's by its address; a photo of the reader's own is
// asked about again, from those that this browser keeps.

import { one } from "../lib/dom.js";
import { PhotoForm } from "./photo-form.js";

class PageLanguage extends HTMLElement {
  connectedCallback() {
    this.addEventListener("click", (event) => {
      const link = event.target instanceof Element && event.target.closest("a");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      const address = one(document, "photo-form", PhotoForm).address();
      address.searchParams.set("lang", link.hreflang);
      location.assign(address);
    });
  }
}

customElements.define("page-language", PageLanguage);
