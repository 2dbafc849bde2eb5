// The form of a conversation's settings. An empty field means the server's default.

import { element } from "../dom.js";

const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 100, step: 0.1 }],
  ["top_p", "Top p", { min: 0.01, max: 1, step: 0.01 }],
  ["top_k", "Top k", { min: 0, step: 1 }],
  ["min_p", "Min p", { min: 0, max: 1, step: 0.01 }],
  ["repetition_penalty", "Repetition penalty", { min: 0.1, max: 10, step: 0.05 }],
  ["max_tokens", "Tokens at most", { min: 1, step: 1 }],
  ["seed", "Seed", { min: 0, step: 1 }],
];
const CLASSES = ["low", "normal", "high", "critical"];

/**
 * Fill the form for a conversation.
 * @param {HTMLFormElement} form The form.
 * @param {object} settings Written into, as the user changes them.
 * @param {object[]} models Those that there are, as /v1/models tells them.
 * @param {function} changed Called after each change.
 */
export function fillSettings(form, settings, models, changed) {
  const set = (name, value) => {
    settings[name] = value;
    changed();
  };
  const names = models.map((model) => model.id);
  const defaults = (models.find((model) => model.id === settings.model) ?? models[0])?.default_sampling ?? {};
  const number = ([name, label, limits]) => field(label, element("input", {
    type: "number", name, placeholder: defaults[name] ?? "default", value: settings[name] ?? "", ...limits,
    on: { change: (event) => set(name, Number.isFinite(event.target.valueAsNumber) && event.target.validity.valid ? event.target.valueAsNumber : null) },
  }));
  form.replaceChildren(...[
    element("h2", {}, "Settings"),
    models.length > 1 && field("Model", choice("model", names, settings.model || names[0], set)),
    field("System prompt", element("textarea", {
      name: "system", rows: 4, value: settings.system, placeholder: "None",
      on: { change: (event) => set("system", event.target.value) },
    })),
    element("div.numbers", {}, ...NUMBERS.map(number)),
    field("Priority", choice("priority", CLASSES, settings.priority, set)),
    field("Tenant", element("input", {
      name: "tenant", value: settings.tenant, placeholder: "none", autocomplete: "off",
      on: { change: (event) => set("tenant", event.target.value.trim()) },
    })),
    element("label.check", {}, element("input", {
      type: "checkbox", name: "logprobs", checked: settings.logprobs,
      on: { change: (event) => set("logprobs", event.target.checked) },
    }), "Probabilities of each token"),
    element("p.faint", {}, "Point at a word of an answer to see which tokens the model weighed there."),
  ].filter(Boolean));
  form.onsubmit = (event) => event.preventDefault();
}

function choice(name, values, chosen, set) {
  return element("select", { name, on: { change: (event) => set(name, event.target.value) } },
    ...values.map((value) => element("option", { value, selected: value === chosen }, value)));
}

const field = (label, control) => element("label.field", {}, element("span", {}, label), control);
