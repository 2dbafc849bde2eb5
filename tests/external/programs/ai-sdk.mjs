// Vercel's AI SDK: an answer, and a stream of the same.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "local", baseURL: process.argv[2] });
const models = await (await fetch(`${process.argv[2]}/models`)).json();
const asked = { model: provider(models.data[0].id), prompt: "Say hello.", temperature: 0, maxOutputTokens: 8 };
const whole = await generateText(asked);
let streamed = "";
for await (const text of streamText(asked).textStream) {
  streamed += text;
}
console.log(JSON.stringify({ whole: whole.text, streamed, tokens: whole.usage.outputTokens }));
