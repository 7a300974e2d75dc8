// <div id="swagger-ui" data-openapi="/openapi.json">: the API's documentation, from this server alone.
const place = document.querySelector("#swagger-ui");
window.SwaggerUIBundle({ url: place.dataset.openapi, domNode: place, deepLinking: true });
