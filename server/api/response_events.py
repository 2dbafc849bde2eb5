"""Makes the events of a response: items open, grow, and close, one after the other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from llm_serving_engine.server.api.logprobs import token_logprobs
from llm_serving_engine.server.api.response_resource import (
    Resource,
    message_item,
    reasoning_item,
    text_part,
)
from llm_serving_engine.server.events import Delta, Finished

Event = dict[str, Any]


class ResponseEvents:
    """Makes events of a generation's, numbered without gaps from 0.

    The items that it closes are the resource's output: what streams and what is
    answered whole come from one place.
    """

    def __init__(self, resource: Resource, *, summarized: bool, logprobs: bool) -> None:
        self._resource = resource
        self._summarized = summarized
        self._wants_logprobs = logprobs
        self._number = 0
        self._kind = ""
        self._item_id = ""
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []
        # Of tokens whose text is yet to come.
        self._ahead: list[dict[str, Any]] = []

    def created(self) -> Iterator[Event]:
        """The response is taken."""
        yield self._event("response.created", response=self._resource.snapshot())

    def in_progress(self) -> Event:
        """It is being worked on; also what keeps a silent stream alive."""
        return self._event("response.in_progress", response=self._resource.snapshot())

    def delta(self, delta: Delta) -> Iterator[Event]:
        """More output."""
        if delta.reasoning:
            # An item of reasoning has no place for them.
            self._ahead = []
            yield from self._grow("reasoning", delta.reasoning)
        if self._wants_logprobs and (delta.text or not delta.reasoning):
            self._ahead += token_logprobs(delta.logprobs)
        # Tokens without text, such as those of a marker, do not end the reasoning.
        if delta.text or (self._ahead and self._kind == "message"):
            yield from self._grow_message(delta.text)

    def finished(self, finished: Finished) -> Iterator[Event]:
        """The output is complete, or cut."""
        if not self._resource.output and not self._kind:
            yield from self._grow_message("") if self._ahead else self._open("message")
        self._resource.finish(finished)
        yield from self._close("incomplete" if self._resource.incomplete else "completed")
        status = self._resource.status
        yield self._event(f"response.{status}", response=self._resource.snapshot())

    def failed(self, error: dict[str, Any]) -> Iterator[Event]:
        """The response failed: the error flat and nested, as clients differ."""
        fields = {"code": error["code"], "message": error["message"], "param": error["param"]}
        yield self._event("error", **fields, error=error)
        cause = {"code": error["code"] or "server_error", "message": error["message"]}
        yield self._event("response.failed", response=self._resource.snapshot(cause))

    # Items

    def _grow_message(self, text: str) -> Iterator[Event]:
        logprobs, self._ahead = self._ahead, []
        yield from self._grow("message", text, logprobs)

    def _grow(
        self, kind: str, text: str, logprobs: list[dict[str, Any]] | None = None
    ) -> Iterator[Event]:
        if kind != self._kind:
            yield from self._close("completed")
            yield from self._open(kind)
        self._text += text
        if kind == "message":
            self._logprobs += logprobs or []
            yield self._part_event(
                "response.output_text.delta", delta=text, logprobs=logprobs or []
            )
        else:
            yield self._part_event(f"{self._reasoning}.delta", delta=text)

    def _open(self, kind: str) -> Iterator[Event]:
        prefix = "msg" if kind == "message" else "rs"
        self._kind, self._item_id = kind, f"{prefix}_{secrets.token_hex(16)}"
        self._text, self._logprobs = "", []
        empty = self._item("in_progress")
        if kind == "message":
            empty["content"] = []
        yield self._item_event("response.output_item.added", item=empty)
        if kind == "message":
            yield self._part_event("response.content_part.added", part=text_part("", []))
        elif self._summarized:
            part = {"type": "summary_text", "text": ""}
            yield self._part_event("response.reasoning_summary_part.added", part=part)

    def _close(self, status: str) -> Iterator[Event]:
        if not self._kind:
            return
        item = self._item(status)
        if self._kind == "message":
            yield self._part_event(
                "response.output_text.done", text=self._text, logprobs=self._logprobs
            )
            yield self._part_event("response.content_part.done", part=item["content"][0])
        else:
            yield self._part_event(f"{self._reasoning}.done", text=self._text)
            if self._summarized:
                part = {"type": "summary_text", "text": self._text}
                yield self._part_event("response.reasoning_summary_part.done", part=part)
        yield self._item_event("response.output_item.done", item=item)
        self._resource.output.append(item)
        self._kind = ""

    @property
    def _reasoning(self) -> str:
        kind = "reasoning_summary_text" if self._summarized else "reasoning_text"
        return f"response.{kind}"

    def _item(self, status: str) -> dict[str, Any]:
        if self._kind == "message":
            part = text_part(self._text, self._logprobs)
            return message_item(self._item_id, status, [part])
        return reasoning_item(self._item_id, status, self._text, summarized=self._summarized)

    # Numbers

    def _part_event(self, kind: str, **fields: Any) -> Event:
        index = "summary_index" if "summary" in kind else "content_index"
        return self._event(
            kind,
            item_id=self._item_id,
            output_index=len(self._resource.output),
            **{index: 0},
            **fields,
        )

    def _item_event(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, output_index=len(self._resource.output), **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}
