// What is loaded, what it takes, its settings, and what the self-check found.

import { element, pairs } from "../dom.js";
import { bytes, count, digits } from "../format.js";

const INTERVAL_MS = 3000;

export class ModelView {
  constructor(root) {
    this.root = root;
    this.timer = null;
  }

  enter() {
    this.#load();
    this.timer = setInterval(() => document.hidden || this.#load(), INTERVAL_MS);
  }

  leave() {
    clearInterval(this.timer);
  }

  async #load() {
    try {
      const answer = await fetch("/console/data/models", { cache: "no-store" });
      const text = await answer.text();
      if (text === this.shown) return;
      this.shown = text;
      const { models, build } = JSON.parse(text);
      this.root.replaceChildren(...[...models.map(modelSection), buildSection(build)].filter(Boolean));
    } catch {
      this.shown = null;
      this.root.replaceChildren(element("p.notice", {}, "The server does not answer."));
    }
  }
}

function modelSection(model) {
  const state = model.state.replace("MODEL_STATE_", "").toLowerCase();
  return element("section", {},
    element("h1.model-name", {}, model.name, " ", element(`span.badge.${state}`, {}, state), model.is_default && element("span.badge", {}, "default")),
    model.state_reason && element("p.failure", {}, model.state_reason),
    ...(model.notes ?? []).map((note) => element("p.note", {}, note)),
    element("div.cards", {}, about(model), memory(model), abilities(model), sampling(model), settings(model)));
}

const card = (title, ...content) => element("article.card", {}, element("h2", {}, title), ...content);

function about(model) {
  return card("Model", pairs([
    model.description && ["Description", model.description],
    model.architecture && ["Architecture", model.architecture],
    model.parameter_count && ["Parameters", `${digits(Number(model.parameter_count) / 1e6)} million`],
    model.quantization && ["Weights", model.quantization],
    model.vocabulary_size && ["Vocabulary", `${count(model.vocabulary_size)} tokens`],
    model.training_context && ["Trained context", `${count(model.training_context)} tokens`],
    ["Backend", model.backend],
  ]));
}

function memory(model) {
  const parts = Object.entries(model.memory_parts ?? {});
  const whole = parts.reduce((sum, [, size]) => sum + size, 0);
  return card("Memory",
    pairs([["Runner's process", Number(model.memory_bytes) ? bytes(Number(model.memory_bytes)) : "–"]]),
    parts.length > 0 && element("table", {}, element("tbody", {}, ...parts.map(([name, size]) => element("tr", {},
      element("th", { scope: "row" }, name),
      element("td", {}, element("meter", { min: 0, max: whole, value: size })),
      element("td.number", {}, bytes(size)))))));
}

function abilities({ capabilities }) {
  if (!capabilities) return null;
  const words = Object.entries(capabilities).map(([name, value]) => {
    const shown = typeof value === "boolean" ? (value ? "yes" : "no") : typeof value === "number" ? count(value) : String(value);
    return [name.replaceAll("_", " "), shown];
  });
  return card("Capabilities", pairs(words));
}

function sampling({ default_sampling: defaults }) {
  const rows = Object.entries(defaults ?? {}).map(([name, value]) => [name.replaceAll("_", " "), String(value)]);
  return rows.length ? card("Where a request says nothing", pairs(rows)) : null;
}

function settings({ settings: chosen }) {
  const rows = Object.entries(chosen ?? {}).sort(([a], [b]) => a.localeCompare(b));
  return rows.length ? card("Settings in force", pairs(rows)) : null;
}

function buildSection(build) {
  if (!build) return null;
  const checks = Object.entries(build.checks);
  return element("section", {}, element("h1.model-name", {}, "llama.cpp on this machine"),
    element("div.cards", {},
      card("Build", pairs([
        ["Compiled for", build.features],
        build.cost && ["Cost", build.cost],
        build.compiler && ["Compiler", build.compiler],
        build.cpu && ["Checked on", build.cpu],
        build.library_features.length && ["Uses", build.library_features.join(" ")],
      ]), ...build.attempts.map((one) => element("p.note", {}, `${one.features} failed: ${one.failure}`))),
      card("Self-check", checks.length ? checkTable(checks) : element("p.faint", {}, "not done"),
        element("p.faint", {}, "The distance of the logits from a reference computed by NumPy, relative to their size."))));
}

function checkTable(checks) {
  return element("table", {}, element("tbody", {}, ...checks.map(([type, check]) => element("tr", {},
    element("th", { scope: "row" }, type),
    element(check.outcome === "ok" ? "td.right" : "td.failure", {}, check.outcome === "ok" ? "right" : `${check.outcome} ${check.detail}`),
    element("td.number.faint", {}, check.error === null ? "" : check.error.toPrecision(2))))));
}
