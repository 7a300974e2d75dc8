// @ts-check
// The reader's last photos, kept in this browser alone (IndexedDB), so that one of them can be asked
// about again. Where the browser keeps nothing, as in some private windows, there are none.

const KEPT = 8; // photos; an older one goes when another comes
const MOST_BYTES = 40 * 2 ** 20;
const STORE = "photos";

/** @typedef {{id: number, file: File, thumbnail: Blob | null}} Kept newest: the greatest id */

/**
 * The last photos, the newest first.
 * @returns {Promise<Kept[]>}
 */
export async function kept() {
  const found = await withStore("readonly", (store) => store.getAll());
  return /** @type {Kept[]} */ (found ?? []).reverse();
}

/**
 * Keep a photo as the newest one; the same file is kept once.
 * @param {File} file
 * @param {Blob | null} thumbnail a small picture, if the browser can show the photo
 */
export async function keep(file, thumbnail) {
  const before = await kept();
  const same = before.filter((each) => isSame(each.file, file));
  const others = before.filter((each) => !same.includes(each));
  let bytes = file.size;
  const old = others.filter((each, place) => (bytes += each.file.size) > MOST_BYTES || place >= KEPT - 1);
  await withStore("readwrite", (store) => {
    for (const { id } of [...same, ...old]) store.delete(id);
    return store.add({ file, thumbnail });
  });
}

/** Forget them all. */
export async function forget() {
  await withStore("readwrite", (store) => store.clear());
}

/**
 * @param {File} one
 * @param {File} other
 */
function isSame(one, other) {
  return one.name === other.name && one.size === other.size && one.lastModified === other.lastModified;
}

/**
 * What a request to the store answers; undefined where the browser keeps nothing.
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} ask
 * @returns {Promise<unknown>}
 */
async function withStore(mode, ask) {
  try {
    const base = await opened();
    try {
      return await new Promise((resolve, reject) => {
        const transaction = base.transaction(STORE, mode);
        const request = ask(transaction.objectStore(STORE));
        transaction.addEventListener("complete", () => resolve(request.result));
        transaction.addEventListener("abort", () => reject(transaction.error));
      });
    } finally {
      base.close();
    }
  } catch {
    return undefined;
  }
}

/** @returns {Promise<IDBDatabase>} */
function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("cbam-lens", 1);
    request.addEventListener("upgradeneeded", () => {
      request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    });
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error));
    request.addEventListener("blocked", () => reject(new DOMException("Another tab holds the photos.", "InvalidStateError")));
  });
}
