// @ts-check
// <live-view data-url="…/api/v1/live"> <input type="radio" name="task" value="classify | find"> …
//   <button data-do="start"> … <div data-task="classify" data-models='["…"]'> <article data-model="…"> …
// </live-view>
//
// Sends the camera's pictures to the server while this view is in sight, and paints each answer on the
// picture that it is about: heat maps of the networks, or boxes of the detectors. Of pictures that come
// faster than answers, the server takes the latest.

import { all, json, one } from "../lib/dom.js";
import { colours, enlarged, painted, pencil, readMap } from "../lib/maps.js";
import { of, t } from "../lib/words.js";

/**
 * @import { MapMessage, View } from "../lib/maps.js"
 * @typedef {{label: string, probability: number}} Said
 * @typedef {{model: string, predictions: Said[], target_probability: number, view: View,
 *     heatmap: {label: string, map: MapMessage}, gate: {block: string, kind: string, map: MapMessage} | null}} LiveResult
 * @typedef {{frame: number, skipped: number, width: number, height: number, target: {label: string}, ms: number, results: LiveResult[]}} LiveAnswer
 * @typedef {{box: View, label: string, score: number}} LiveBox
 * @typedef {{frame: number, skipped: number, width: number, height: number, ms: number, results: {model: string, detections: LiveBox[]}[]}} LiveFound
 * @typedef {{problem: {title: string, status: number, detail: string}}} LiveProblem
 */

const LONGEST_PX = 480; // of a picture that is sent
const QUALITY = 0.85;
const UNDERWAY = 2; // pictures on their way: the next one is there when an answer is done
const HEAT_PX = 96; // a map's width before it is enlarged smoothly
const COUNTED = 12; // answers over which the rate is counted
const WAIT_MS = 1000; // after a refusal

class LiveView extends HTMLElement {
  /** @type {MediaStream | undefined} */
  #camera;
  /** @type {WebSocket | undefined} */
  #socket;
  #facing = "environment";
  #sent = 0;
  #answered = 0;
  /** @type {Map<number, HTMLCanvasElement>} */
  #frames = new Map(); // on their way, by number
  /** @type {number[]} */
  #times = []; // of the latest answers
  #pausedUntil = 0;
  #sending = false;
  // Made here: in Chromium a <video> of the answer as parsed would keep all of that answer for ever.
  #video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, hidden: true });
  #hidden = () => document.hidden && this.#stop(t("live.hidden"));

  connectedCallback() {
    const doing = /** @type {Record<string, () => void>} */ ({
      start: () => this.#start(),
      stop: () => this.#stop(""),
      turn: () => this.#turn(),
    });
    for (const button of all(this, "[data-do]", HTMLButtonElement)) {
      button.addEventListener("click", () => doing[button.dataset.do ?? ""]());
    }
    for (const radio of all(this, "[name=task]", HTMLInputElement)) radio.addEventListener("change", () => this.#choose());
    this.#choose();
    this.append(this.#video);
    document.addEventListener("visibilitychange", this.#hidden);
    const view = this.closest(".view");
    if (view) {
      new MutationObserver(() => {
        if (!view.hasAttribute("data-shown")) this.#stop("");
      }).observe(view, { attributeFilter: ["data-shown"] });
    }
  }

  disconnectedCallback() {
    document.removeEventListener("visibilitychange", this.#hidden);
    this.#stop("");
  }

  /** What is asked: "classify", or "find" where there are detectors. */
  get #task() {
    return all(this, "[name=task]", HTMLInputElement).find(({ checked }) => checked)?.value ?? "classify";
  }

  get #columns() {
    return one(this, `.live-columns[data-task=${this.#task}]`, HTMLElement);
  }

  /**
   * @param {ParentNode} place
   * @param {string} slot
   * @param {string} text
   */
  #fill(place, slot, text) {
    one(place, `[data-slot=${slot}]`, HTMLElement).textContent = text;
  }

  /** Show what belongs to the task; a camera that runs goes on with it. */
  #choose() {
    for (const each of all(this, ".live-note [data-task]", HTMLElement)) each.hidden = each.dataset.task !== this.#task;
    for (const each of all(this, ".live-columns", HTMLElement)) each.hidden = true; // until its first answer
    if (!this.#socket) return;
    this.#socket.close();
    this.#connect();
  }

  /** @param {boolean} on */
  #buttons(on) {
    for (const button of all(this, "[data-do]", HTMLButtonElement)) button.hidden = (button.dataset.do === "start") === on;
  }

  async #start() {
    if (!navigator.mediaDevices) {
      this.#fill(this, "said", t("live.insecure"));
      return;
    }
    this.#buttons(true);
    this.#fill(this, "said", t("live.waiting"));
    try {
      const video = { facingMode: this.#facing, width: { ideal: 640 }, height: { ideal: 480 } };
      const camera = await navigator.mediaDevices.getUserMedia({ video, audio: false });
      if (one(this, "[data-do=stop]", HTMLElement).hidden) { // stopped while the browser asked
        for (const track of camera.getTracks()) track.stop();
        return;
      }
      this.#camera = camera;
      this.#video.srcObject = camera;
      await this.#video.play();
    } catch (error) {
      if (one(this, "[data-do=stop]", HTMLElement).hidden) return; // stopped before the first picture: it said why
      const denied = error instanceof DOMException && error.name === "NotAllowedError";
      this.#stop(denied ? t("live.denied") : t("live.no-camera"));
      return;
    }
    this.#connect();
  }

  #connect() {
    const address = new URL(this.dataset.url ?? "", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("task", this.#task);
    for (const name of json(this.#columns, "models")) address.searchParams.append("models", name);
    const socket = (this.#socket = new WebSocket(address));
    this.#sent = this.#answered = 0;
    this.#frames.clear();
    this.#times = [];
    this.#pausedUntil = 0;
    this.#fill(this, "said", t("live.waiting-answer"));
    socket.addEventListener("open", () => this.#pump(socket));
    socket.addEventListener("message", ({ data }) => {
      if (this.#socket !== socket) return; // of the task before
      const message = JSON.parse(data);
      if ("problem" in message) this.#refused(message);
      else this.#show(message);
    });
    socket.addEventListener("close", ({ reason, wasClean }) => {
      if (this.#socket !== socket) return;
      this.#stop(reason || (wasClean ? t("live.ended") : t("live.refused")));
    });
  }

  /**
   * Send the camera's pictures one after the other, no more than the server keeps up with.
   * @param {WebSocket} socket
   */
  #pump(socket) {
    if (this.#socket !== socket || socket.readyState !== WebSocket.OPEN) return;
    requestAnimationFrame(() => this.#pump(socket));
    if (this.#sending || this.#sent - this.#answered >= UNDERWAY || performance.now() < this.#pausedUntil) return;
    const { videoWidth, videoHeight } = this.#video;
    if (!videoWidth) return;
    const scale = Math.min(1, LONGEST_PX / Math.max(videoWidth, videoHeight));
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: Math.round(videoWidth * scale), height: Math.round(videoHeight * scale) });
    pencil(canvas).drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    this.#sending = true;
    canvas.toBlob(
      (blob) => {
        this.#sending = false;
        if (!blob || this.#socket !== socket || socket.readyState !== WebSocket.OPEN) return;
        this.#frames.set(++this.#sent, canvas);
        socket.send(blob);
      },
      "image/jpeg",
      QUALITY,
    );
  }

  /** @param {LiveProblem} message */
  #refused({ problem }) {
    this.#answered = this.#sent; // whatever was on its way
    this.#pausedUntil = performance.now() + WAIT_MS;
    this.#fill(this, "said", problem.detail);
  }

  /** @param {LiveAnswer | LiveFound} answer */
  #show(answer) {
    const frame = this.#frames.get(answer.frame);
    for (const number of this.#frames.keys()) if (number <= answer.frame) this.#frames.delete(number);
    this.#answered = Math.max(this.#answered, answer.frame);
    if (!frame) return;
    const columns = this.#columns;
    columns.hidden = false;
    this.#fill(this, "said", "");
    const column = (/** @type {string} */ model) => one(columns, `article[data-model="${CSS.escape(model)}"]`, HTMLElement);
    if ("target" in answer) for (const result of answer.results) this.#column(column(result.model), frame, answer, result);
    else for (const { model, detections } of answer.results) this.#boxes(column(model), frame, answer, detections);
    const now = performance.now();
    this.#times = [...this.#times, now].slice(-COUNTED);
    const span = now - this.#times[0];
    const rate = span ? (((this.#times.length - 1) / span) * 1000).toFixed(1) : "";
    this.#fill(this, "rate", t(rate ? "live.rate" : "live.ms", { rate, ms: Math.round(answer.ms) }));
    this.dataset.frames = String(Number(this.dataset.frames ?? 0) + 1);
  }

  /**
   * @param {HTMLElement} column
   * @param {HTMLCanvasElement} frame
   * @param {LiveAnswer} answer
   * @param {LiveResult} result
   */
  #column(column, frame, answer, result) {
    const [top, ...others] = result.predictions;
    this.#fill(column, "label", top.label);
    this.#fill(column, "chance", percent(top.probability));
    this.#fill(column, "others", others.map(({ label, probability }) => `${label} ${percent(probability)}`).join(" · "));
    paintHeat(one(column, ".live-heat", HTMLCanvasElement), frame, scaled(result.view, frame.width / answer.width), result.heatmap.map);
    const figure = one(column, "figure", HTMLElement);
    figure.hidden = !result.gate;
    if (!result.gate) return;
    const { block, kind, map } = result.gate;
    paintGate(one(column, ".live-gate", HTMLCanvasElement), frame, scaled(result.view, frame.width / answer.width), map);
    this.#fill(column, "gate", t("live.gate", { title: of(`gate.${kind}.title`, `${kind} gate`), block, low: map.min.toFixed(2), high: map.max.toFixed(2) }));
  }

  /**
   * @param {HTMLElement} column
   * @param {HTMLCanvasElement} frame
   * @param {LiveFound} answer
   * @param {LiveBox[]} detections
   */
  #boxes(column, frame, answer, detections) {
    const canvas = one(column, ".live-boxes", HTMLCanvasElement);
    paintBoxes(canvas, frame, detections.map((each) => ({ ...each, at: scaled(each.box, frame.width / answer.width) })));
    const words = detections.map(({ label, score }) => `${label} ${percent(score)}`).join(" · ");
    this.#fill(column, "found", words || t("live.nothing"));
  }

  #turn() {
    this.#facing = this.#facing === "user" ? "environment" : "user";
    this.#stop("");
    this.#start();
  }

  /** @param {string} why for the reader; empty: they did it themselves */
  #stop(why) {
    for (const track of this.#camera?.getTracks() ?? []) track.stop();
    const socket = this.#socket;
    this.#camera = this.#socket = undefined;
    socket?.close();
    this.#video.srcObject = null;
    this.#buttons(false);
    this.#fill(this, "rate", "");
    this.#fill(this, "said", why);
  }
}

/** @param {number} probability */
function percent(probability) {
  return `${(probability * 100).toFixed(1)}\u00a0%`;
}

/**
 * @param {View} view
 * @param {number} scale
 * @returns {[number, number, number, number]} left, top, width, height
 */
function scaled({ x0, y0, x1, y1 }, scale) {
  return [x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale];
}

/**
 * A map in colour, small.
 * @param {MapMessage} message
 * @param {"inferno" | "viridis"} name
 * @param {boolean} clear whether colder is more transparent
 */
function coloured(message, name, clear) {
  const map = readMap(message);
  const table = colours(name);
  const values = enlarged(map, HEAT_PX, HEAT_PX);
  const [low, high] = clear ? [0, map.max] : [map.min, map.max];
  return painted(HEAT_PX, HEAT_PX, (i) => {
    const value = high > low ? Math.min(Math.max((values[i] - low) / (high - low), 0), 1) : 0;
    return [...table[Math.round(value * 255)], clear ? 255 * Math.sqrt(value) : 255];
  });
}

/**
 * The heat map over the picture; the part that was seen loses its colour, so that all colour is heat.
 * @param {HTMLCanvasElement} canvas
 * @param {HTMLCanvasElement} frame
 * @param {[number, number, number, number]} box
 * @param {MapMessage} map
 */
function paintHeat(canvas, frame, box, map) {
  Object.assign(canvas, { width: frame.width, height: frame.height });
  const context = pencil(canvas);
  context.drawImage(frame, 0, 0);
  if (map.max <= 0) return;
  grey(context, box, 0.8);
  context.globalAlpha = 0.7;
  context.drawImage(coloured(map, "inferno", true), ...box);
}

/**
 * The gate over the grey view, from its least to its greatest value.
 * @param {HTMLCanvasElement} canvas
 * @param {HTMLCanvasElement} frame
 * @param {[number, number, number, number]} box
 * @param {MapMessage} map
 */
function paintGate(canvas, frame, box, map) {
  const [x, y, width, height] = box;
  Object.assign(canvas, { width: Math.round(width), height: Math.round(height) });
  const context = pencil(canvas);
  context.drawImage(frame, -x, -y);
  grey(context, [0, 0, width, height], 1);
  context.globalAlpha = 0.65;
  context.drawImage(coloured(map, "viridis", false), 0, 0, width, height);
}

/**
 * The picture with boxes and their classes, the surest on top: a white line inside a dark one is seen on
 * every picture.
 * @param {HTMLCanvasElement} canvas
 * @param {HTMLCanvasElement} frame
 * @param {{at: [number, number, number, number], label: string}[]} boxes the surest first
 */
function paintBoxes(canvas, frame, boxes) {
  Object.assign(canvas, { width: frame.width, height: frame.height });
  const context = pencil(canvas);
  context.drawImage(frame, 0, 0);
  const line = Math.max(2, frame.width / 160);
  const size = Math.max(11, Math.round(frame.width / 28));
  context.font = `600 ${size}px sans-serif`;
  context.textBaseline = "top";
  for (const { at: [x, y, width, height], label } of [...boxes].reverse()) {
    for (const [style, wide] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 60%)", 2 * line], ["#fff", line]])) {
      Object.assign(context, { strokeStyle: style, lineWidth: wide });
      context.strokeRect(x, y, width, height);
    }
    const [left, top] = [Math.max(0, x), Math.max(0, y)];
    context.fillStyle = "rgb(20 16 22 / 82%)";
    context.fillRect(left, top, context.measureText(label).width + size, size * 1.4);
    context.fillStyle = "#fff";
    context.fillText(label, left + size / 2, top + size * 0.2);
  }
}

/**
 * @param {import("../lib/maps.js").Pencil} context
 * @param {[number, number, number, number]} box
 * @param {number} share
 */
function grey(context, box, share) {
  context.globalAlpha = share;
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "black";
  context.fillRect(...box);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 1;
}

customElements.define("live-view", LiveView);
