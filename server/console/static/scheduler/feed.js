// The server's events of its scheduler. The browser connects again by itself.

/**
 * Listen until `close` of what is returned is called.
 * @param {object} told `all` and `news` are called with what the events hold, `lost` when there is no connection.
 */
export function listen({ all, news, lost }) {
  const source = new EventSource("/console/data/scheduler");
  source.addEventListener("all", (event) => all(JSON.parse(event.data)));
  source.addEventListener("news", (event) => news(JSON.parse(event.data)));
  source.addEventListener("error", lost);
  return source;
}

/** The seconds of a duration as JSON writes it: "0.05s". */
export const duration = (text) => (text ? Number.parseFloat(text) : 0);
