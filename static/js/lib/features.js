// @ts-check
// The answers of POST /api/v1/features, asked once for each model, block and choice of channels.

import { ask } from "./ask.js";

/** @import { MapMessage } from "./maps.js" */

/**
 * One value per channel, or a map.
 * @typedef {number[] | MapMessage} Values
 *
 * @typedef {{path: string, pooled: Values, hidden: number[] | null, logits: Values, window: number[][] | null}} Path
 *
 * @typedef {{state: string, said: import("./words.js").Said, open: number | null, shut: number | null, spread: number,
 *   usual_spread: number | null, moved: number | null}} Judgement
 *
 * @typedef {{name: string, axes: string, word: string, says: string, text: string, title: string, use: string,
 *   lowest: number | null, highest: number | null, neutral: number | null}} Kind
 *
 * @typedef {{name: string, kind: Kind, map: Values, judgement: Judgement | null, paths: Path[], bias: number,
 *   dilation: number, shut: MapMessage | null}} Gate
 *
 * @typedef {{index: number, before: MapMessage, after: MapMessage, weights: number[] | null, bias: number | null}} Channel
 *
 * @typedef {{model: string, block: string, channel_count: number, gates: Gate[], channels: Channel[]}} Features
 */

/** Keeps what was asked about one answer. */
export class FeatureSource {
  /** @type {Map<string, Promise<Features>>} */
  #asked = new Map();

  /**
   * @param {Record<string, string | number>} fields models, block, pick, channels, count
   * @returns {Promise<Features>}
   */
  of(fields) {
    const key = JSON.stringify(fields);
    const known = this.#asked.get(key) ?? this.#ask(fields);
    this.#asked.set(key, known);
    known.catch(() => this.#asked.delete(key)); // it can be tried again
    return known;
  }

  /** @param {Record<string, string | number>} fields */
  async #ask(fields) {
    const answer = await ask("features", fields, { takes: [] });
    return (await answer.json()).results[0];
  }
}
