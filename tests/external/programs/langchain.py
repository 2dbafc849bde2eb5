"""LangChain: an answer, and a stream of the same."""

import json
import sys

from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url=sys.argv[1], api_key="any", model="", temperature=0, max_tokens=8)
whole = model.invoke("Say hello.")
streamed = "".join(str(chunk.content) for chunk in model.stream("Say hello."))
tokens = whole.usage_metadata["output_tokens"]
print(json.dumps({"whole": whole.content, "streamed": streamed, "tokens": tokens}))
