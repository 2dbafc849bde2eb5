// The page: three views, one of which is shown. The address names it: #chat, #scheduler, #model.

import { byId } from "./dom.js";
import { ChatView } from "./chat/view.js";
import { ModelView } from "./model/view.js";
import { SchedulerView } from "./scheduler/view.js";
import { watchServer } from "./server-status.js";

const VIEWS = {
  chat: new ChatView(byId("view-chat")),
  scheduler: new SchedulerView(byId("view-scheduler")),
  model: new ModelView(byId("view-model")),
};
const NAMES = Object.keys(VIEWS);
let shown = null;

/** Show the view that the address names; what follows a slash is the view's own. */
function show() {
  const [wished, ...rest] = location.hash.slice(1).split("/");
  const name = wished in VIEWS ? wished : "chat";
  const detail = decodeURIComponent(rest.join("/"));
  if (shown !== name) {
    if (shown) VIEWS[shown].leave();
    for (const one of NAMES) {
      byId(`view-${one}`).hidden = one !== name;
      const tab = byId(`tab-${one}`);
      tab.setAttribute("aria-selected", String(one === name));
      tab.tabIndex = one === name ? 0 : -1;
    }
    shown = name;
    VIEWS[name].enter();
  }
  VIEWS[name].focus?.(detail);
}

for (const [index, name] of NAMES.entries()) {
  const tab = byId(`tab-${name}`);
  tab.addEventListener("click", () => { location.hash = name; });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = NAMES[(index + step + NAMES.length) % NAMES.length];
    location.hash = next;
    byId(`tab-${next}`).focus();
  });
}
window.addEventListener("hashchange", show);
watchServer(byId("server-status"));
show();
