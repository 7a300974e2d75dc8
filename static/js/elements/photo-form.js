// @ts-check
// <photo-form data-max-mb="10" data-formats="JPEG, PNG, WebP" data-queue="address"> <form id="photo-form"> … </form> </photo-form>
//
// The form without a reload: takes a photo that is picked, dropped or pasted anywhere on the page, taken
// with the camera (take-photo), kept from before (recent-photos) or of the gallery, asks the server for the answer alone (see app/routes/pages.py) and puts it in
// place. A photo of the reader's own is drawn from its file. A gallery photo's answer is kept in the address, so that it can be shared.

import { all, field, one } from "../lib/dom.js";
import { onChoice, onGates, onPhoto, onReady, onTarget } from "../lib/events.js";
import { isHeic, LocalPhoto } from "../lib/photo.js";
import { kept } from "../lib/photo-store.js";
import { send } from "../lib/send.js";
import { language, t } from "../lib/words.js";
import { RecentPhotos } from "./recent-photos.js";

/**
 * What the server is asked: without a `target` about the one asked for last; `parts`: what it sends.
 * @typedef {{target?: string, parts?: string}} Question
 */

const MIB = 2 ** 20;
const PASSING = [408, 429, 500, 502, 503, 504]; // the same question may work a moment later
const QUEUE_MS = 1000; // between two questions after the queue
const AGAIN = "ask-again"; // in the tab's storage: the photo kept last is to be asked about

export class PhotoForm extends HTMLElement {
  #photo = ""; // the gallery photo being explained; empty: the file in the form
  /** @type {LocalPhoto | undefined} */
  #local; // the file in the form
  #target = ""; // the class asked for; empty: the first model's own answer
  #request = new AbortController();
  #waiting = new AbortController(); // for an answer, once the photo has gone
  /** @type {Question} */
  #last = {};

  connectedCallback() {
    document.addEventListener("submit", (event) => this.#onSubmit(event));
    this.#file.addEventListener("change", () => this.#takeFile(this.#file.files?.[0]));
    this.#form.addEventListener("change", ({ target }) => this.#onOption(target));
    document.addEventListener("paste", ({ clipboardData }) => this.#takeFiles(clipboardData));
    onTarget((label) => this.#onTarget(label));
    onChoice(document, ({ name, target }) => {
      if (name !== "target") this.#askAgain();
      else if (target) this.#ask({ target });
    });
    onGates(() => this.#remember());
    onReady(() => {
      if (this.#hasPhoto) this.#ask(this.#last);
      else location.reload(); // the server has an example
    });
    onPhoto(this, (file) => this.#give([file]));
    this.#stopper.addEventListener("click", () => {
      if (this.#stopper.value === "cancel") this.#cancel();
      else this.#ask(this.#last);
    });
    this.#listenForDrops();
    this.#resume();
    this.#offerVersus();
  }

  get #form() {
    return one(this, "form", HTMLFormElement);
  }

  get #file() {
    return one(this.#form, "[name=image]", HTMLInputElement);
  }

  get #method() {
    return one(this.#form, "[name=method]", HTMLSelectElement);
  }

  /** The class to contrast with, typed where there are too many to list; not there if no method contrasts. */
  get #versus() {
    return field(this.#form, "versus", HTMLSelectElement) ?? field(this.#form, "versus", HTMLInputElement);
  }

  get #hasPhoto() {
    return this.#photo !== "" || Boolean(this.#file.files?.length);
  }

  get #status() {
    return one(this, "#status", HTMLElement);
  }

  get #progress() {
    return one(this, "progress", HTMLProgressElement);
  }

  /** Cancels, and asks again after that. */
  get #stopper() {
    return one(this, ".stopper", HTMLButtonElement);
  }

  get #answer() {
    return one(document, "#answer", HTMLElement);
  }

  #listenForDrops() {
    const dragging = (/** @type {boolean} */ on) => document.documentElement.toggleAttribute("data-dragging", on);
    const hasFile = (/** @type {DragEvent} */ { dataTransfer }) => dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault(); // or the browser would leave the page for the file
      dragging(true);
    });
    document.addEventListener("dragleave", ({ relatedTarget }) => {
      if (!relatedTarget) dragging(false); // left the window
    });
    document.addEventListener("drop", (event) => {
      dragging(false);
      if (!hasFile(event)) return;
      event.preventDefault();
      this.#takeFiles(event.dataTransfer);
    });
  }

  /** Go on where the address or the server's answer says. */
  #resume() {
    const asked = new URLSearchParams(location.search);
    const result = document.getElementById("result");
    this.#photo = result?.dataset.photo || asked.get("photo") || "";
    this.#target = asked.get("target") ?? "";
    for (const name of ["method", "layer", "versus"]) {
      const choice = field(this.#form, name, HTMLSelectElement);
      if (!choice) continue;
      choice.value = asked.get(name) ?? choice.value;
      if (choice.selectedIndex === -1) choice.selectedIndex = 0; // no such method: the usual one
    }
    const typed = field(this.#form, "versus", HTMLInputElement);
    if (typed) typed.value = asked.get("versus") ?? typed.value;
    if (sessionStorage.getItem(AGAIN)) this.#resumeOwn(asked);
    else if (this.#photo && !result && !document.getElementById("error")) this.#ask();
  }

  /**
   * Go on with the reader's own photo, see `address`.
   * @param {URLSearchParams} asked
   */
  async #resumeOwn(asked) {
    sessionStorage.removeItem(AGAIN);
    const [photo] = await kept();
    if (!photo) return; // this browser keeps nothing
    const gates = field(this.#form, "gates", HTMLInputElement);
    if (gates) gates.value = asked.get("gates") ?? "";
    this.#photo = "";
    this.#choose(photo.file);
    await this.#ask();
  }

  /** @param {SubmitEvent} event */
  #onSubmit(event) {
    const { target: form, submitter } = event;
    if (!(form instanceof HTMLFormElement) || !["photo-form", "retarget-form"].includes(form.id)) return;
    event.preventDefault();
    const { name, value } = submitter instanceof HTMLButtonElement ? submitter : { name: "", value: "" };
    if (name === "photo") this.#takeGallery(value);
    else this.#ask({ target: name === "target" ? value : "" });
  }

  /** A class to contrast with, only for methods that do. */
  #offerVersus() {
    const versus = this.#versus;
    if (!versus) return;
    versus.disabled = !("versus" in this.#method.selectedOptions[0].dataset); // not sent then
    const field = /** @type {HTMLElement | null} */ (versus.closest("class-search, label"));
    if (field) field.hidden = versus.disabled;
  }

  /** @param {EventTarget | null} changed */
  #onOption(changed) {
    if (!(changed instanceof HTMLSelectElement)) return;
    const { name, value } = changed;
    if (name === "method") this.#offerVersus();
    if (name === "family") location.search = String(new URLSearchParams({ family: value })); // other classes, other layers
    else this.#askAgain();
  }

  /** The same photo and class with other options, if there is a photo. */
  #askAgain() {
    if (this.#hasPhoto) this.#ask();
  }

  /** @param {string} label */
  #onTarget(label) {
    this.#target = label;
    this.#status.textContent = t("form.showing", { label });
    this.#remember();
  }

  /** @param {string} name */
  #takeGallery(name) {
    this.#photo = name;
    this.#file.value = "";
    this.#preview();
    this.#ask({ target: "" });
  }

  /**
   * What was dropped or pasted.
   * @param {DataTransfer | null} transfer
   */
  #takeFiles(transfer) {
    this.#give([...(transfer?.files ?? [])]);
  }

  /**
   * The first of these files becomes the form's file.
   * @param {File[]} given
   */
  #give([file]) {
    if (!file || !this.#usable(file)) return;
    this.#choose(file);
    this.#ask({ target: "" });
  }

  /** @param {File} file for the form */
  #choose(file) {
    const files = new DataTransfer();
    files.items.add(file);
    this.#file.files = files.files;
    this.#photo = "";
    this.#preview(file);
  }

  /** @param {File | undefined} file */
  #takeFile(file) {
    if (!file) return;
    if (!this.#usable(file)) {
      this.#file.value = "";
      return;
    }
    this.#photo = "";
    this.#preview(file);
    this.#ask({ target: "" });
  }

  /**
   * Says at once what the server would refuse after the upload.
   * @param {File} file
   */
  #usable(file) {
    const { maxMb = "", formats = "" } = this.dataset;
    const { name, type } = file;
    const size = (file.size / MIB).toFixed(1);
    const types = this.#file.accept.split(",");
    if (file.type && !types.includes(file.type)) {
      this.#fail(t("form.unreadable"), t("form.use", { name, type, formats }));
    } else if (file.size > Number(maxMb) * MIB) {
      this.#fail(t("form.too-large"), t("form.at-most", { name, size, most: maxMb }));
    } else {
      return true;
    }
    return false;
  }

  /**
   * The chosen file beside its field, the chosen gallery photo marked.
   * @param {File} [file]
   */
  #preview(file) {
    this.querySelector(".preview, .not-shown")?.remove();
    for (const button of all(this, "button[name=photo]", HTMLButtonElement)) {
      if (button.value === this.#photo) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    if (!file) return;
    const { image } = this.#localOf(file);
    Object.assign(image, { className: "preview", alt: t("form.chosen") });
    image.addEventListener("error", () => {
      if (isHeic(file)) image.replaceWith(unseen(file));
      else image.remove(); // the server says what is wrong with it
    });
    one(this, ".drop", HTMLElement).append(image);
  }

  /**
   * The browser's own picture of a file, made once.
   * @param {File} file
   */
  #localOf(file) {
    if (this.#local?.file !== file) {
      this.#local?.letGo();
      this.#local = new LocalPhoto(file);
    }
    return this.#local;
  }

  /** Whether the form's file is a HEIC photo that this browser doesn't show: the answer has to bring it. */
  async #isUnseen() {
    const file = this.#file.files?.[0];
    if (this.#photo || !file || !isHeic(file)) return false;
    return !(await this.#localOf(file).decoded);
  }

  /**
   * Ask the server for the answer.
   * @param {Question} question
   */
  async #ask(question = {}) {
    let { target, parts = "answer" } = question;
    const isNewPhoto = target === "";
    this.#last = question;
    this.#target = target ?? this.#target;
    const body = new FormData(this.#form);
    body.set("target", this.#target);
    if (this.#photo) {
      body.delete("image");
      body.set("photo", this.#photo);
    }
    this.#request.abort(); // only the latest question counts
    const request = (this.#request = new AbortController());
    this.#busy(true);
    const file = this.#photo ? undefined : this.#file.files?.[0];
    try {
      if (await this.#isUnseen()) parts = "answer, photo";
      const { status, text } = await send(this.#form.action, body, {
        headers: { Accept: "text/html", "X-Fragment": parts, ...language() },
        signal: request.signal,
        onSent: (share) => this.#sent(share, Boolean(file)),
      });
      const page = new DOMParser().parseFromString(text, "text/html");
      const isComplete = await this.#bringPhoto(page);
      if (request.signal.aborted) return;
      if (!isComplete && parts === "answer") {
        await this.#ask({ ...question, parts: "answer, photo" });
        return;
      }
      const isAnswered = this.#put(page, status);
      if (isNewPhoto && isAnswered) {
        this.#scroll();
        if (file) one(this, "recent-photos", RecentPhotos).add(this.#localOf(file));
      }
    } catch {
      if (request.signal.aborted) return;
      this.#fail(t("failed.no-answer"), t("failed.connection"), true);
    }
    this.#busy(false);
  }

  /**
   * How much of the question has gone; all of it: the networks are at work.
   * @param {number} share
   * @param {boolean} isUpload whether a photo goes with it
   */
  #sent(share, isUpload) {
    if (share < 1) {
      this.#progress.value = share;
      if (isUpload) this.#status.textContent = t("form.sending"); // said once: the bar moves
    } else if (!this.#progress.hidden) {
      this.#progress.removeAttribute("value");
      this.#status.textContent = t("form.asking");
      this.#watchQueue();
    }
  }

  /** Say how many questions are before this one, if it takes long. */
  async #watchQueue() {
    this.#waiting.abort();
    const { signal } = (this.#waiting = new AbortController());
    let ahead = Infinity; // those that come later wait behind: the fewest ever seen counts
    const look = async () => {
      if (signal.aborted) return;
      const response = await fetch(this.dataset.queue ?? "", { signal });
      ahead = Math.min(ahead, (await response.json()).waiting - 1);
      this.#status.textContent = ahead > 0 ? t("form.queue", { count: ahead }) : t("form.asking");
      next();
    };
    const next = () => setTimeout(() => look().catch(() => {}), QUEUE_MS); // the answer itself will say
    next();
  }

  #cancel() {
    this.#request.abort();
    this.#busy(false);
    Object.assign(this.#stopper, { hidden: false, value: "again", textContent: t("form.again") });
    this.#status.textContent = t("cancelled");
  }

  /**
   * Give the answer the photo that the server did not send, as it is the reader's own. False if the
   * browser does not decode that file as the server does.
   * @param {Document} page
   */
  async #bringPhoto(page) {
    const place = page.querySelector("#result-photo:not([src])");
    const file = this.#file.files?.[0];
    if (!(place instanceof HTMLImageElement)) return true;
    const local = file && this.#localOf(file);
    const [width, height] = ["width", "height"].map((name) => Number(place.getAttribute(name)));
    if (!local || !(await local.hasSize(width, height))) return false;
    place.src = local.url;
    return true;
  }

  /**
   * The server's answer in place of the one shown; after an error the last answer stays.
   * @param {Document} page
   * @param {number} status
   * @returns {boolean} whether there is an answer
   */
  #put(page, status) {
    const error = page.getElementById("error");
    const result = page.getElementById("result");
    if (!error && !result) {
      this.#fail(t("failed.cannot"), t("failed.status", { status }), true);
      return false;
    }
    document.getElementById("error")?.remove();
    const asksAgain = error?.localName === "models-loading"; // by itself
    if (error) this.#alert(document.importNode(error, true), !asksAgain && PASSING.includes(status));
    if (error || !result) return false;
    const { activeElement } = document;
    const focused = activeElement?.closest("#result") ? activeElement.id : "";
    document.getElementById("result")?.remove();
    this.#answer.append(document.importNode(result, true)); // import first: children upgrade, then connect
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true }); // it went with the old answer
    document.title = page.title;
    const said = one(this.#answer, ".verdict h2", HTMLElement).textContent ?? "";
    this.#status.textContent = said.replace(/\s+/g, " ").trim();
    this.#remember();
    return true;
  }

  /**
   * @param {string} title
   * @param {string} detail
   * @param {boolean} [passing] whether the same question may work a moment later
   */
  #fail(title, detail, passing = false) {
    document.getElementById("error")?.remove();
    const box = document.createElement("div");
    Object.assign(box, { id: "error", className: "error", role: "alert" });
    const [heading, text] = [document.createElement("strong"), document.createElement("p")];
    heading.textContent = title;
    text.textContent = detail;
    box.append(heading, text);
    this.#alert(box, passing);
  }

  /**
   * @param {HTMLElement} box
   * @param {boolean} passing
   */
  #alert(box, passing) {
    if (passing) {
      const again = Object.assign(document.createElement("button"), { type: "button", textContent: t("form.try-again") });
      again.addEventListener("click", () => this.#ask(this.#last));
      box.append(again);
    }
    this.#answer.prepend(box);
    box.scrollIntoView({ block: "nearest" });
    this.#status.textContent = "";
  }

  /** @param {boolean} on */
  #busy(on) {
    this.#waiting.abort();
    this.#progress.hidden = !on;
    this.#progress.removeAttribute("value");
    Object.assign(this.#stopper, { hidden: !on, value: "cancel", textContent: t("cancel") });
    this.#answer.setAttribute("aria-busy", String(on));
    if (on) this.#status.textContent = t("form.asking");
  }

  #scroll() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.getElementById("result")?.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  }

  /** A gallery photo's question as the page's address; an uploaded photo has none. */
  #remember() {
    history.replaceState(null, "", this.#address(this.#photo !== ""));
  }

  /** Where this question is asked again; of the reader's own photo only once, and in this tab. */
  address() {
    const isOwn = !this.#photo && Boolean(this.#file.files?.length);
    if (isOwn) sessionStorage.setItem(AGAIN, "1");
    return this.#address(isOwn || this.#photo !== "");
  }

  /** @param {boolean} full whether it names the question, and not only the view */
  #address(full) {
    const address = new URL(location.href);
    const versus = this.#versus;
    const question = {
      photo: this.#photo,
      target: this.#target,
      method: this.#method.selectedIndex > 0 ? this.#method.value : "",
      layer: one(this.#form, "[name=layer]", HTMLSelectElement).value,
      versus: !versus || versus.disabled ? "" : versus.value,
      gates: field(this.#form, "gates", HTMLInputElement)?.value ?? "", // not there without gates
      family: field(this.#form, "family", HTMLSelectElement)?.value ?? "", // hidden if there is one only
    };
    const view = address.searchParams.get("view"); // <view-tabs> keeps it
    address.search = "";
    for (const [name, value] of Object.entries(question)) {
      if (full && value) address.searchParams.set(name, value);
    }
    if (view) address.searchParams.set("view", view);
    return address;
  }
}

/**
 * In place of a preview: what the reader chose, and where its picture will be.
 * @param {File} file
 */
function unseen(file) {
  const text = document.createElement("span");
  text.className = "not-shown small";
  text.textContent = t("form.unseen", { name: file.name });
  return text;
}

customElements.define("photo-form", PhotoForm);
