// OpenAI's own client: an answer, and a stream of the same.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any" });
const asked = { model: "", messages: [{ role: "user", content: "Say hello." }], temperature: 0, max_tokens: 8 };
const whole = await client.chat.completions.create(asked);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? "";
}
const response = await client.responses.create({ model: "", input: "Say hello.", temperature: 0, max_output_tokens: 16 });
const models = await client.models.list();
console.log(JSON.stringify({
  whole: whole.choices[0].message.content,
  streamed,
  tokens: whole.usage.completion_tokens,
  response: response.output_text,
  models: models.data.length,
}));
