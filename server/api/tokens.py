"""`POST /tokenize` and `/detokenize`, and `GET /tokenizer_info`."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams

from llm_serving_engine.server.api.body import read_body
from llm_serving_engine.server.api.caller import caller_of
from llm_serving_engine.server.api.http_exchange import HttpExchange
from llm_serving_engine.server.api.token_types import DetokenizeBody, TokenizeBody
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.service.inference import Inference


class Tokens:
    """Turns text into tokens, and tokens into text."""

    def __init__(self, inference: Inference, catalog: Catalog) -> None:
        self._inference = inference
        self._catalog = catalog

    async def tokenize(self, exchange: HttpExchange) -> None:
        """Tell the tokens of a text or a conversation. Raises RequestError."""
        body = await read_body(exchange, TokenizeBody)
        request = body.request()
        caller = caller_of(exchange, "/tokenize")
        tokenized = await self._inference.tokenize(request, caller)
        tokens: list[Any] = list(tokenized.tokens)
        answer: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": self._catalog.get(tokenized.model).context_per_sequence,
            "tokens": tokens,
            "token_strs": None,
        }
        if body.with_pieces:
            pieces = zip(tokens, tokenized.names, strict=True)
            answer["tokens"] = [{"id": token, "piece": _piece(name)} for token, name in pieces]
        if body.return_token_strs:
            answer["token_strs"] = [name.decode("utf-8", "replace") for name in tokenized.names]
        await exchange.answer(answer)

    async def detokenize(self, exchange: HttpExchange) -> None:
        """Tell the text of tokens. Raises RequestError."""
        body = await read_body(exchange, DetokenizeBody)
        caller = caller_of(exchange, "/detokenize")
        _, text = await self._inference.detokenize(body.request(), caller)
        # vLLM's name, and llama-server's.
        await exchange.answer({"prompt": text, "content": text})

    async def info(self, exchange: HttpExchange) -> None:
        """Tell what there is to know of a model's tokenizer. Raises RequestError."""
        model = self._catalog.get(QueryParams(exchange.query).get("model", ""))
        tokenizer = model.tokenizer
        await exchange.answer(
            {
                "model": model.name,
                "vocab_size": tokenizer.vocabulary_size,
                "bos_token": tokenizer.bos_text or None,
                "eos_token": tokenizer.eos_text or None,
                "pad_token": None,
                "add_bos_token": bool(tokenizer.encode("", special=False)),
                "chat_template": tokenizer.chat_template,
                "model_max_length": model.context_per_sequence,
            }
        )


def _piece(name: bytes) -> str | list[int]:
    """Return a token's text, or its bytes if they are not UTF-8, like llama-server."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return list(name)
