// @ts-check
// Every custom element of the page. The page works without them; each only adds to what the server rendered.

import "./elements/talk-stage.js"; // first: it reads the address before others change it
import "./elements/page-keys.js";
import "./elements/heat-map.js";
import "./elements/gate-map.js";
import "./elements/gate-bars.js";
import "./elements/paint-mask.js";
import "./elements/draw-box.js";
import "./views/compare-view.js";
import "./views/inside.js";
import "./views/what-if.js";
import "./views/methods.js";
import "./views/find-view.js";
import "./views/how.js";
import "./views/trust.js";
import "./views/live.js";
import "./elements/copy-text.js";
import "./elements/take-photo.js";
import "./elements/recent-photos.js";
import "./elements/take-away.js";
import "./elements/photo-form.js";
import "./elements/models-loading.js";
import "./elements/page-language.js";
import "./elements/class-search.js";
import "./elements/view-tabs.js"; // last: a view that it shows is ready
