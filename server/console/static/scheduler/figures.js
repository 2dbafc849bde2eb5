// The numbers above the lanes, and the tables below them, from the state of the scheduler.

import { element } from "../dom.js";
import { bytes, count, digits, percent, seconds } from "../format.js";
import { duration } from "./feed.js";

/** The row of figures. */
export function figures(state) {
  const running = state.slots.filter((slot) => slot.request_id).length;
  const waiting = sum(state.queues, "requests");
  const step = state.last_step;
  const totals = state.totals ?? {};
  const outcomes = Object.values(state.outcomes ?? {}).reduce((all, one) => all + Number(one), 0);
  return [
    figure("tokens/s", digits(state.tokens_per_second ?? 0), `${digits(state.prefill_tokens_per_second ?? 0)} of prompts`),
    figure("running", `${running} of ${state.slots.length}`, `${count(waiting)} waiting`),
    figure("last step", step ? seconds(duration(step.duration)) : "–", step ? `target ${seconds(duration(step.target))}` : ""),
    figure("prefix hits", count(Number(totals.prefix_hits ?? 0)), `${count(Number(totals.prefix_tokens ?? 0))} tokens reused`),
    figure("preemptions", count(Number(totals.preemptions ?? 0)), `${count(Number(totals.saves ?? 0))} saved · ${count(Number(totals.moves ?? 0))} moves`),
    figure("saved caches", bytes(Number(state.saved_cache_bytes ?? 0)), `of ${bytes(Number(state.saved_cache_bytes_max ?? 0))}`),
    figure("ended", count(outcomes), Object.entries(state.outcomes ?? {}).map(([name, n]) => `${count(Number(n))} ${name}`).join(" · ")),
  ];
}

function figure(name, value, detail) {
  return element("div.figure", {}, element("span.name", {}, name), element("strong.number", {}, value), element("span.detail.number", {}, detail));
}

/** The queue by class. */
export function queueTable(state) {
  const rows = state.queues.map((queue) => {
    const name = queue.priority.replace("PRIORITY_", "").toLowerCase();
    const latency = (state.latencies ?? []).find((one) => one.priority === queue.priority);
    const first = latency?.time_to_first_token;
    return element("tr", {},
      element("th", { scope: "row" }, element(`span.dot.${name}`), name),
      element("td.number", {}, count(queue.requests ?? 0)),
      element("td.number", {}, count(Number(queue.tokens ?? 0))),
      element("td.number", {}, first ? seconds(duration(first.p50)) : "–"),
      element("td.number", {}, first ? seconds(duration(first.p95)) : "–"));
  });
  return table(["class", "waiting", "tokens", "first token p50", "p95"], rows);
}

/** The tenants. */
export function tenantTable(state) {
  const rows = (state.tenants ?? []).slice(0, 12).map((tenant) => element("tr", {},
    element("th", { scope: "row" }, tenant.tenant || "(none)"),
    element("td.number", {}, count(tenant.running ?? 0)),
    element("td.number", {}, count(sum(tenant.queues, "requests"))),
    element("td.number", {}, tenant.service === undefined ? "–" : count(tenant.service)),
    element("td.number", {}, count(Number(tenant.prompt_tokens ?? 0) + Number(tenant.completion_tokens ?? 0)))));
  return rows.length ? table(["tenant", "running", "waiting", "ahead by", "tokens"], rows) : element("p.faint", {}, "No request has come yet.");
}

/** How full the slots' caches are. */
export function cacheTable(state, context) {
  const held = state.slots.filter((slot) => slot.tokens);
  const rows = held.map((slot) => element("tr", {},
    element("th", { scope: "row" }, String(slot.index ?? 0)),
    element("td", {}, slot.state.replace("SLOT_STATE_", "").toLowerCase()),
    element("td", {}, context ? element("meter", { min: 0, max: context, value: slot.tokens }) : ""),
    element("td.number", {}, count(slot.tokens)),
    element("td.number", {}, context ? percent(slot.tokens, context) : "")));
  return rows.length ? table(["slot", "state", "", "tokens", "of context"], rows) : element("p.faint", {}, "All slots are empty.");
}

function table(heads, rows) {
  const head = heads.map((name, index) => element(index && name ? "th.number" : "th", { scope: "col" }, name));
  return element("div.table-scroll", {}, element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
}

const sum = (parts, name) => (parts ?? []).reduce((all, one) => all + Number(one[name] ?? 0), 0);
