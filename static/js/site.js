// Every custom element of the page. The page works without them; each only adds to what the server rendered.

import "./heat-map.js";
import "./gate-map.js";
import "./gate-bars.js";
import "./gate-row.js";
import "./compare-view.js";
import "./copy-text.js";
import "./photo-form.js";
