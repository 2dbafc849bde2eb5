// Colours of requests, from the style sheet, so that dark and light both suit.

const TENANTS = ["#3d7be0", "#d98200", "#2a9d5c", "#b0409c", "#d0312d", "#00939b", "#8a6844", "#7b8794"];
const NAMES = ["ink", "faint", "line", "panel", "paper", "raised", "low", "normal", "high", "critical", "accent", "bad"];

/** The style sheet's colours, by name, as they are now. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** What gives a request its colour: a function of the request. */
export function colouring(by, run, colours) {
  if (by === "class") return (request) => colours[request.class] ?? colours.normal;
  const tenants = run.tenants();
  return (request) => TENANTS[tenants.indexOf(request.tenant) % TENANTS.length];
}

/** What the colours mean: pairs of name and colour. */
export function legend(by, run, colours) {
  if (by === "class") return ["critical", "high", "normal", "low"].map((name) => [name, colours[name]]);
  return run.tenants().slice(0, TENANTS.length).map((name, index) => [name || "(none)", TENANTS[index]]);
}
