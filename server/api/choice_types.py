"""The common base of request bodies that ask for choices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.body import Item
from llm_serving_engine.server.api.numbers import Integer
from llm_serving_engine.server.api.sampling import GenerationBody
from llm_serving_engine.server.service.request import Chat, GenerationRequest, Text, Tokens


class StreamOptions(Item):
    """Options of a stream."""

    include_usage: bool | None = None


class ChoicesBody(GenerationBody):
    """Something to continue, in one or several ways."""

    n: Integer | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return 1 if self.n is None else self.n

    @property
    @abstractmethod
    def alternatives(self) -> int | None:
        """Alternatives to report with each token; None for no log-probabilities."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what no field's type can. Raises InvalidField."""

    @abstractmethod
    def sources(self) -> Sequence[Chat | Text | Tokens]:
        """The inputs to continue. Raises InvalidField."""

    @abstractmethod
    def output_tokens(self) -> int | None:
        """Tokens to produce at most. Raises InvalidField."""

    def requests(self, choices_max: int, request_id: str) -> list[GenerationRequest]:
        """The requests for the service: those of the first prompt come first.

        Raises:
            InvalidField: A field is wrong, or there are more than `choices_max` answers.
        """
        self.check()
        sources = self.sources()
        in_all = self.choices * len(sources)
        if self.choices < 1 or in_all > choices_max:
            raise InvalidField(
                "n", f"asks for {in_all} answers in all; it can be 1 to {choices_max}"
            )
        return [
            self.generation(
                source,
                self.sampling(choice),
                model=self.model,
                max_tokens=self.output_tokens(),
                stop=self.stops,
                request_id=request_id,
                top_logprobs=self.alternatives,
            )
            for source in sources
            for choice in range(self.choices)
        ]
