"""llm-serving-engine: batching, scheduling, and streaming for local language models over gRPC."""
