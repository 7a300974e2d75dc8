// @ts-check
// <div id="swagger-ui" data-openapi="/openapi.json">: the API's documentation, from this server alone.

import { one } from "../lib/dom.js";

/** @typedef {(options: {url: string | undefined, domNode: Element, deepLinking: boolean}) => void} Swagger */

const place = one(document, "#swagger-ui", HTMLElement);
const { SwaggerUIBundle } = /** @type {typeof window & {SwaggerUIBundle: Swagger}} */ (window);
SwaggerUIBundle({ url: place.dataset.openapi, domNode: place, deepLinking: true });
