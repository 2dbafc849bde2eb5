"""The response resource: every field that clients read, in each of its states."""

from __future__ import annotations

import secrets
import time
from typing import Any

from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.server.api.response_types import ResponseBody
from llm_serving_engine.server.events import Finished, Usage
from llm_serving_engine.server.service.generation import Generation


class Resource:
    """One response on its way from `in_progress` to its end.

    Attributes:
        id: Its id.
        output: Its finished items.
    """

    def __init__(self, body: ResponseBody, generation: Generation) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self.output: list[dict[str, Any]] = []
        self._body = body
        self._generation = generation
        self._created = int(time.time())
        self._finished: Finished | None = None

    def finish(self, finished: Finished) -> None:
        """Take in how the generation ended."""
        self._finished = finished

    @property
    def incomplete(self) -> bool:
        """Whether the output was cut."""
        cut = (FinishReason.MAX_TOKENS, FinishReason.CONTEXT_LENGTH)
        return self._finished is not None and self._finished.finish_reason in cut

    @property
    def status(self) -> str:
        """Its status."""
        if self._finished is None:
            return "in_progress"
        return "incomplete" if self.incomplete else "completed"

    def snapshot(self, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the whole resource in its current state, or as failed with `error`."""
        body, finished = self._body, self._finished
        sampling = self._generation.call.request.sampling
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None if finished is None else int(time.time()),
            "status": "failed" if error else self.status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.incomplete else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata or {},
            "model": self._generation.call.model,
            "output": list(self.output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": None,
            "reasoning": {
                "effort": body.reasoning.effort if body.reasoning else None,
                "summary": body.reasoning.summary if body.reasoning else None,
            },
            "safety_identifier": None,
            "service_tier": "default",
            "store": body.store is not False,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools,
            "top_logprobs": body.top_logprobs or 0,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "truncation": "disabled",
            "usage": None if finished is None else _usage(finished.usage),
            "user": None,
        }


def message_item(item_id: str, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """A message of the assistant."""
    return {
        "id": item_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": parts,
    }


def text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def reasoning_item(item_id: str, status: str, text: str, *, summarized: bool) -> dict[str, Any]:
    """Return the reasoning as an item, as a summary if the caller asked for one."""
    summary = [{"type": "summary_text", "text": text}] if summarized and text else []
    content = [] if summarized or not text else [{"type": "reasoning_text", "text": text}]
    return {
        "id": item_id,
        "type": "reasoning",
        "status": status,
        "summary": summary,
        "content": content,
        "encrypted_content": None,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
