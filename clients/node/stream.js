// Streams what the model says after a prompt:
//   node stream.js "Once upon a time" [HOST:PORT]
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [prompt = "Once upon a time", address = "127.0.0.1:50051"] = process.argv.slice(2);

const definition = protoLoader.loadSync("llm_serving_engine/v1/inference.proto", {
  includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))],
  keepCase: true, // field names as in the proto files
  longs: String, // a seed has 64 bits, more than a JavaScript number
  enums: String, // "FINISH_REASON_MAX_TOKENS" rather than 3
  oneofs: true, // response.event names the field that is set
});
const { InferenceService } = grpc.loadPackageDefinition(definition).llm_serving_engine.v1;
const client = new InferenceService(address, grpc.credentials.createInsecure());

const request = { prompt, max_tokens: 64, sampling: { temperature: 0 } };
const call = client.Stream(request, { deadline: Date.now() + 60_000 });

process.on("SIGINT", () => call.cancel()); // frees the model for others at once

call.on("data", (response) => {
  if (response.event === "delta") process.stdout.write(response.delta.text);
  if (response.event === "finished") {
    const { finish_reason, usage } = response.finished;
    console.log(`\n\n${finish_reason}, ${usage.completion_tokens} tokens`);
  }
});
call.on("error", (error) => {
  console.error(`\n${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
});
call.on("end", () => client.close());
