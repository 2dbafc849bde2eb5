// The chat: conversations on the left, what was said in the middle, settings on the right.

import { byId, element } from "../dom.js";
import { hideTip } from "../tip.js";
import { Answer } from "./answer.js";
import { complete } from "./completion.js";
import { cut, newConversation, randomId, requestBody, say, titleOf } from "./conversation.js";
import { messageItem, update } from "./message.js";
import { fillSettings } from "./settings.js";
import { forget, loadAll, onChange, save } from "./store.js";

const DRAW_MS = 60;
const BOTTOM_PIXELS = 60;

export class ChatView {
  constructor(root) {
    this.root = root;
    this.conversations = loadAll();
    this.current = this.conversations[0] ?? newConversation();
    this.models = [];
    // The tokens of answers, by message; they are not stored.
    this.pieces = new WeakMap();
    this.running = null;
    this.#listen();
  }

  enter() {
    this.#draw();
    this.#loadModels();
    if (matchMedia("(pointer: fine)").matches) byId("prompt").focus();
  }

  leave() {
    hideTip();
  }

  // Drawing

  #draw() {
    byId("conversation-title").textContent = titleOf(this.current);
    byId("conversation-list").replaceChildren(...this.conversations.map((one) => this.#listed(one)));
    byId("messages").replaceChildren(...this.current.messages.map((message, index) =>
      messageItem(message, this.pieces.get(message), this.#actions(index))));
    fillSettings(byId("settings"), this.current.settings, this.models, () => this.#store());
    this.#toBottom(true);
    this.#showRunning();
  }

  #listed(conversation) {
    const chosen = conversation === this.current;
    const open = () => this.#open(conversation);
    return element("li", {},
      element("button.wide.quiet", { "aria-current": chosen ? "true" : undefined, on: { click: open } }, titleOf(conversation)),
      element("button.quiet.delete", { "aria-label": `Delete ${titleOf(conversation)}`, on: { click: () => this.#delete(conversation) } }, "×"));
  }

  #actions(index) {
    const { messages } = this.current;
    const message = messages[index];
    if (message.role === "user") return { edit: () => this.#edit(index) };
    return {
      retry: index === messages.length - 1 ? () => this.#retry(index) : null,
      explain: () => { location.hash = `scheduler/${encodeURIComponent(message.requestId)}`; },
    };
  }

  #showRunning() {
    const running = this.running?.conversation === this.current;
    byId("send").hidden = running;
    byId("stop").hidden = !running;
  }

  #toBottom(always) {
    const list = byId("messages");
    if (always || list.scrollHeight - list.scrollTop - list.clientHeight < BOTTOM_PIXELS) list.scrollTop = list.scrollHeight;
  }

  // What the user does

  #listen() {
    const prompt = byId("prompt");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#send();
      }
    });
    prompt.addEventListener("input", () => grow(prompt));
    byId("stop").addEventListener("click", () => this.#stop());
    byId("new-conversation").addEventListener("click", () => this.#open(newConversation(this.current)));
    this.root.addEventListener("keydown", (event) => event.key === "Escape" && this.#stop());
    for (const side of ["conversations", "settings"]) {
      byId(`toggle-${side}`).addEventListener("click", (event) => {
        const open = this.root.classList.toggle(`show-${side}`);
        event.target.setAttribute("aria-expanded", String(open));
      });
    }
    onChange(() => this.#reload());
  }

  #open(conversation) {
    this.current = conversation;
    this.root.classList.remove("show-conversations");
    this.#draw();
    byId("prompt").focus();
  }

  #delete(conversation) {
    if (this.running?.conversation === conversation) this.#stop();
    forget(conversation);
    this.conversations = this.conversations.filter((one) => one !== conversation);
    if (conversation === this.current) this.current = this.conversations[0] ?? newConversation(conversation);
    this.#draw();
  }

  #send() {
    const prompt = byId("prompt");
    if (!prompt.value.trim() || this.running) return;
    say(this.current, prompt.value);
    prompt.value = "";
    grow(prompt);
    this.#answer();
  }

  #retry(index) {
    if (this.running) return;
    cut(this.current, index);
    this.#answer();
  }

  #edit(index) {
    if (this.running) return;
    const item = byId("messages").children[index];
    const area = element("textarea", { value: this.current.messages[index].content, rows: 3, "aria-label": "Edit the message" });
    const done = (event) => {
      event.preventDefault();
      if (!area.value.trim() || this.running) return;
      cut(this.current, index);
      say(this.current, area.value);
      this.#answer();
    };
    item.replaceChildren(element("form.edit", { on: { submit: done } }, area,
      element("div", {}, element("button.primary", { type: "submit" }, "Ask again"),
        element("button", { type: "button", on: { click: () => this.#draw() } }, "Leave it"))));
    area.focus();
  }

  #stop() {
    this.running?.abort.abort();
  }

  // Answers

  async #answer() {
    const conversation = this.current;
    const body = requestBody(conversation);
    const message = { role: "assistant", content: "", streaming: true, requestId: `console-${randomId()}` };
    conversation.messages.push(message);
    const answer = new Answer(message);
    this.pieces.set(message, answer.pieces);
    const abort = new AbortController();
    this.running = { conversation, abort };
    this.#store();
    this.#draw();
    const drawing = new Drawing(() => this.#redraw(conversation, message));
    try {
      const request = { body, requestId: message.requestId, tenant: conversation.settings.tenant, signal: abort.signal };
      await complete(request, (part) => {
        answer.add(part);
        drawing.ask();
      });
    } catch (error) {
      if (abort.signal.aborted) message.stopped = true;
      else message.error = error instanceof TypeError ? "The connection to the server was lost." : error.message;
    }
    drawing.end();
    delete message.streaming;
    this.running = null;
    this.#store(conversation);
    if (conversation === this.current) this.#draw();
  }

  #redraw(conversation, message) {
    if (conversation !== this.current) return;
    const index = conversation.messages.indexOf(message);
    const item = byId("messages").children[index];
    if (item) update(item, message, this.pieces.get(message), {});
    this.#toBottom(false);
  }

  // What is kept

  #store(conversation = this.current) {
    if (!conversation.messages.length) return;
    if (!this.conversations.includes(conversation)) this.conversations.unshift(conversation);
    if (!save(conversation)) byId("server-status").textContent = "this browser has no room for more conversations";
  }

  #reload() {
    if (this.running) return;
    this.conversations = loadAll();
    this.current = this.conversations.find((one) => one.id === this.current.id) ?? this.current;
    this.#draw();
  }

  async #loadModels() {
    try {
      const answer = await fetch("/v1/models");
      this.models = (await answer.json()).data;
      fillSettings(byId("settings"), this.current.settings, this.models, () => this.#store());
    } catch {
      // The bar says that there is no connection.
    }
  }
}

/** Draws at most so often. */
class Drawing {
  constructor(draw) {
    this.draw = draw;
    this.timer = null;
  }

  ask() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.draw();
    }, DRAW_MS);
  }

  end() {
    clearTimeout(this.timer);
  }
}

function grow(area) {
  area.rows = Math.min(Math.max(area.value.split("\n").length, 1), 10);
}
