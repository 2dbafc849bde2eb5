"""Request fields that every generating API accepts beyond its own specification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.api.numbers import Integer, Number, Token
from llm_serving_engine.server.api.template_fields import TemplateFields
from llm_serving_engine.server.service.request import (
    Chat,
    GenerationRequest,
    SamplingFields,
    Text,
    Tokens,
)

SEEDS = 2**64
# Clients of llama-server and vLLM send this for a seed chosen by the server.
ANY_SEED = -1


class ExtensionFields(TemplateFields):
    """Extension fields, by the names that other servers use for them."""

    min_p: Number | None = None
    seed: Integer | None = None
    ignore_eos: bool = False
    stop_token_ids: list[Token] | None = None
    min_tokens: Integer | None = None
    priority: Literal["low", "normal", "high", "critical"] | None = None
    cache_salt: str | None = None
    timeout: Number | None = Field(None, gt=0, allow_inf_nan=False)

    @property
    def priority_value(self) -> int | None:
        """The priority as the service's number."""
        return None if self.priority is None else Priority[self.priority.upper()].value

    def seed_of(self, choice: int) -> int | None:
        """Return the seed of choice number `choice`: each choice has its own."""
        return None if self.seed in (None, ANY_SEED) else (self.seed + choice) % SEEDS

    def generation(
        self,
        source: Chat | Text | Tokens,
        sampling: SamplingFields,
        *,
        model: str,
        max_tokens: int | None,
        stop: list[str],
        request_id: str,
        top_logprobs: int | None = None,
    ) -> GenerationRequest:
        """Make the request for the service."""
        return GenerationRequest(
            input=source,
            request_id=request_id,
            model=model,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            ignore_eos=self.ignore_eos,
            stop_token_ids=self.stop_token_ids or (),
            min_tokens=self.min_tokens,
            top_logprobs=top_logprobs,
            priority=self.priority_value,
            cache_salt=self.cache_salt or "",
        )
