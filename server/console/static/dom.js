// Elements, made without markup: text stays text.

/**
 * Make an element.
 * @param {string} tag Its name, with classes after dots: "div.card.wide".
 * @param {object} properties Set on the element; `data` goes into its dataset, `on` are listeners,
 *     and names with a dash are attributes.
 * @param {...(Node|string|null|undefined|false)} children Appended; what is empty is left out.
 */
export function element(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  made.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key === "data") Object.assign(made.dataset, value);
    else if (key === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child || child === 0).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** The element with an id, which must be there. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found;
}

/** A table of two columns. */
export function pairs(rows) {
  return element("table", {}, element("tbody", {}, ...rows.filter(Boolean).map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)))));
}
