// @ts-check
// <take-photo hidden> <button data-do="open"> <dialog> <video> <p data-slot="trouble">
//   <button data-do="take"> <button data-do="other" hidden> <button data-do="close"> </dialog> </take-photo>
//
// A photo from the camera ("photo-given"). The camera runs only while the dialog is open and the page
// is seen. Of a phone's cameras the rear one comes first. Hidden where a page may not ask for a camera.

import { one } from "../lib/dom.js";
import { sayPhoto } from "../lib/events.js";
import { pencil } from "../lib/maps.js";
import { t } from "../lib/words.js";

/** What went wrong, and what would work. @type {Record<string, string>} */
const TROUBLE = {
  NotAllowedError: "camera.blocked",
  NotFoundError: "camera.none",
  NotReadableError: "camera.taken",
};

class TakePhoto extends HTMLElement {
  /** @type {MediaStream | undefined} */
  #stream;
  #opened = 0; // counts starts: a camera that comes too late is let go

  connectedCallback() {
    this.hidden = !navigator.mediaDevices?.getUserMedia; // an address without HTTPS
    this.addEventListener("click", ({ target }) => {
      const button = target instanceof Element && target.closest("button");
      if (button) this.#do(button.dataset.do ?? "");
    });
    this.#dialog.addEventListener("close", () => this.#stop());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#dialog.close();
    });
  }

  get #dialog() {
    return one(this, "dialog", HTMLDialogElement);
  }

  get #video() {
    return one(this, "video", HTMLVideoElement);
  }

  /** @param {string} name */
  #button(name) {
    return one(this, `[data-do=${name}]`, HTMLButtonElement);
  }

  /** @param {string} what */
  #do(what) {
    if (what === "close") this.#dialog.close();
    if (what === "take") this.#take();
    if (what === "other") this.#other();
    if (what !== "open") return;
    this.#dialog.showModal();
    this.#start({ facingMode: { ideal: "environment" } });
  }

  /** @param {MediaTrackConstraints} which */
  async #start(which) {
    this.#stop();
    const turn = this.#opened;
    this.#say("");
    try {
      const video = { width: { ideal: 1280 }, height: { ideal: 960 }, ...which };
      const stream = await navigator.mediaDevices.getUserMedia({ video });
      if (turn !== this.#opened || !this.#dialog.open) {
        for (const track of stream.getTracks()) track.stop();
        return;
      }
      this.#stream = stream;
      this.#video.srcObject = stream;
      await this.#video.play();
    } catch (error) {
      if (turn !== this.#opened) return;
      const name = error instanceof DOMException ? error.name : "";
      this.#say(t(TROUBLE[name] ?? "camera.fails"));
      return;
    }
    const cameras = await this.#cameras();
    this.#video.toggleAttribute("data-mirrored", this.#settings.facingMode === "user");
    this.#button("take").disabled = false;
    this.#button("other").hidden = cameras.length < 2;
  }

  get #settings() {
    return this.#stream?.getVideoTracks()[0]?.getSettings() ?? {};
  }

  async #cameras() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter(({ kind }) => kind === "videoinput").map(({ deviceId }) => deviceId);
  }

  /** From rear to front on a phone; elsewhere the next camera. */
  async #other() {
    const { facingMode, deviceId } = this.#settings;
    const cameras = await this.#cameras();
    if (facingMode) {
      this.#start({ facingMode: { ideal: facingMode === "user" ? "environment" : "user" } });
    } else {
      const next = cameras[(cameras.indexOf(deviceId ?? "") + 1) % cameras.length];
      this.#start({ deviceId: { exact: next } });
    }
  }

  async #take() {
    const { videoWidth, videoHeight } = this.#video;
    const canvas = new OffscreenCanvas(videoWidth, videoHeight);
    pencil(canvas).drawImage(this.#video, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
    this.#dialog.close();
    sayPhoto(this, new File([blob], "camera.jpg", { type: blob.type }));
  }

  #stop() {
    this.#opened += 1;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = undefined;
    this.#video.srcObject = null;
    this.#button("take").disabled = true;
  }

  /** @param {string} text */
  #say(text) {
    one(this, "[data-slot=trouble]", HTMLElement).textContent = text;
    this.#video.hidden = text !== "";
  }
}

customElements.define("take-photo", TakePhoto);
