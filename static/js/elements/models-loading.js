// @ts-check
// <models-loading data-queue="address"> … </models-loading>
//
// In place of an answer while the server loads its models: asks whether they are there, and says so once they are.

import { sayReady } from "../lib/events.js";

const AGAIN_MS = 1000;

class ModelsLoading extends HTMLElement {
  #timer = 0;

  connectedCallback() {
    this.#later();
  }

  disconnectedCallback() {
    clearTimeout(this.#timer);
  }

  #later() {
    this.#timer = setTimeout(() => this.#look().catch(() => this.#later()), AGAIN_MS); // no connection: it may come back
  }

  async #look() {
    const response = await fetch(this.dataset.queue ?? "");
    const { loading } = await response.json();
    if (!this.isConnected) return;
    if (loading) this.#later();
    else sayReady(this);
  }
}

customElements.define("models-loading", ModelsLoading);
