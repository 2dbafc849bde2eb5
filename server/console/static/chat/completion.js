// One answer of the model, streamed over the server's own /v1/chat/completions.

import { events } from "./events.js";

/**
 * Ask for an answer, and tell of it as it comes.
 * @param {object} request `body`, `requestId`, `tenant`, and `signal` to stop it by.
 * @param {function} told Called with parts: {text, reasoning, tokens} and at the end {finish, usage, timings}.
 * @throws {Error} What the server says is wrong, or AbortError.
 */
export async function complete({ body, requestId, tenant, signal }, told) {
  const headers = { "content-type": "application/json", "x-request-id": requestId };
  if (tenant) headers["x-tenant-id"] = tenant;
  const answer = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error(await failure(answer));
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices[0];
    if (!choice) continue;
    const { content = "", reasoning_content: reasoning = "" } = choice.delta;
    const tokens = choice.logprobs?.content ?? [];
    if (content || reasoning || tokens.length) told({ text: content ?? "", reasoning: reasoning ?? "", tokens });
    if (choice.finish_reason) told({ finish: choice.finish_reason, usage: chunk.usage, timings: chunk.timings });
  }
}

async function failure(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the server answered ${answer.status}`;
  }
}
