// Conversations in this browser, each under a key of its own, so that two tabs do not undo each other.

const PREFIX = "llm-serving-engine.conversation.";

/** All of them, the latest first. */
export function loadAll() {
  const found = [];
  for (let index = 0; index < localStorage.length; index += 1) {
    const key = localStorage.key(index);
    if (!key.startsWith(PREFIX)) continue;
    try {
      const one = JSON.parse(localStorage.getItem(key));
      if (Array.isArray(one.messages) && one.settings) found.push(one);
    } catch {
      localStorage.removeItem(key);
    }
  }
  return found.sort((a, b) => b.changed - a.changed);
}

/** Keep one; whether there was room for it. */
export function save(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

/** Forget one. */
export const forget = (conversation) => localStorage.removeItem(PREFIX + conversation.id);

/** Be told when another tab has changed something. */
export function onChange(listener) {
  window.addEventListener("storage", (event) => {
    if (event.key === null || event.key.startsWith(PREFIX)) listener();
  });
}
