// @ts-check
// A form to the server that says how much of it has gone: fetch says nothing until the answer comes.

/**
 * @typedef {object} Sent
 * @property {number} status
 * @property {string} text the whole answer
 *
 * @typedef {object} Sending
 * @property {Record<string, string>} headers
 * @property {AbortSignal} signal
 * @property {(share: number) => void} onSent called with the share of the form that has gone, 0..1
 */

/**
 * POST a form. Rejects with a TypeError without a connection, as fetch does, and with an AbortError.
 * @param {string} address
 * @param {FormData} body
 * @param {Sending} sending
 * @returns {Promise<Sent>}
 */
export function send(address, body, { headers, signal, onSent }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open("POST", address);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("loadstart", () => onSent(0));
    request.upload.addEventListener("progress", ({ loaded, total }) => onSent(total ? loaded / total : 0));
    request.upload.addEventListener("load", () => onSent(1));
    request.addEventListener("load", () => resolve({ status: request.status, text: request.responseText }));
    request.addEventListener("error", () => reject(new TypeError("No answer came.")));
    request.addEventListener("abort", () => reject(new DOMException("Given up.", "AbortError")));
    request.addEventListener("loadend", () => signal.removeEventListener("abort", stop));
    signal.addEventListener("abort", stop);
    if (signal.aborted) reject(new DOMException("Given up.", "AbortError"));
    else request.send(body);
  });
}
