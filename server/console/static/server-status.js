// Whether the server answers, in the bar.

const INTERVAL_MS = 5000;

/** Keep an element up to date, while the page is seen. */
export function watchServer(place) {
  const look = async () => {
    if (document.hidden) return;
    const [state, text] = await ask();
    place.className = `status ${state}`;
    place.textContent = text;
  };
  look();
  setInterval(look, INTERVAL_MS);
  document.addEventListener("visibilitychange", look);
}

async function ask() {
  try {
    const answer = await fetch("/console/data/models", { cache: "no-store" });
    const model = (await answer.json()).models.find((one) => one.is_default);
    const state = model.state.replace("MODEL_STATE_", "").toLowerCase();
    const words = { ready: model.name, loading: `${model.name} is loading`, failed: `${model.name} has failed`, draining: "shutting down" };
    return [state, words[state] ?? state];
  } catch {
    return ["failed", "no connection"];
  }
}
