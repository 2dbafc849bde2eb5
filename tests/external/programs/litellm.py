"""LiteLLM: an answer, a stream of the same, and its own error for a prompt that is too long."""

import json
import os
import sys

# This file has the package's name: it is not to be found in its place.
sys.path = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(__file__)]

# It would fetch a table of prices from elsewhere.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

asked = {
    "model": "openai/any",
    "api_base": sys.argv[1],
    "api_key": "any",
    "temperature": 0,
    "max_tokens": 8,
}
messages = [{"role": "user", "content": "Say hello."}]
whole = litellm.completion(messages=messages, **asked)
stream = litellm.completion(messages=messages, stream=True, **asked)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
try:
    litellm.completion(messages=[{"role": "user", "content": "word " * 20000}], **asked)
    error = ""
except litellm.ContextWindowExceededError as caught:
    error = type(caught).__name__
print(
    json.dumps(
        {
            "whole": whole.choices[0].message.content,
            "streamed": streamed,
            "tokens": whole.usage.completion_tokens,
            "error": error,
        }
    ),
    flush=True,
)
# Its threads do not end where there is no network.
os._exit(0)
