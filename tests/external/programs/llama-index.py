"""LlamaIndex: an answer, and a stream of the same."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    api_base=sys.argv[1],
    api_key="any",
    model="any",
    is_chat_model=True,
    temperature=0,
    max_tokens=8,
)
messages = [ChatMessage(role="user", content="Say hello.")]
whole = model.chat(messages)
streamed = "".join(part.delta or "" for part in model.stream_chat(messages))
tokens = whole.raw.usage.completion_tokens
print(json.dumps({"whole": whole.message.content, "streamed": streamed, "tokens": tokens}))
