"""Transport-neutral requests, before validation.

Sequences may convert their items when they are read (`Converted`), so that a
request can be counted, and refused, before anything in it is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

S = TypeVar("S")
T = TypeVar("T", covariant=True)


class Converted(Sequence[T], Generic[S, T]):
    """A sequence that converts another's items when they are read."""

    def __init__(self, source: Sequence[S], convert: Callable[[S], T]) -> None:
        self._source = source
        self._convert = convert

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[T]:
        return map(self._convert, self._source)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._convert(item) for item in self._source[index]]
        return self._convert(self._source[index])


@dataclass(frozen=True, slots=True)
class Text:
    """Text to continue, or to tokenize.

    Attributes:
        text: Any text.
        field: The request's field that holds it, for errors.
        parse_special: Whether control tokens that it names are these tokens.
    """

    text: str
    field: str = "prompt"
    parse_special: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt that is tokenized already."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: The speaker.
        content: The text.
        reasoning: The reasoning before it, for templates that read it.
    """

    role: str
    content: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation.

    Attributes:
        messages: Oldest first.
        template_arguments: Variables for the chat template.
        continue_last: Go on with the last message instead of beginning another.
        begin_next: Otherwise, whether the prompt ends with the beginning of the
            model's message.
    """

    messages: Sequence[Message]
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    continue_last: bool = False
    begin_next: bool = True


@dataclass(frozen=True, slots=True)
class SamplingFields:
    """How tokens are chosen; None for the configured default."""

    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for a generation. None means that a field is absent.

    Attributes:
        input: What to continue.
        request_id: The caller's own id; empty: one is made.
        model: The model's name; empty: the default model.
        max_tokens: Tokens to produce at most.
        sampling: How tokens are chosen.
        stop: Texts that end the output.
        stop_token_ids: Tokens that end the output.
        min_tokens: Tokens to produce at least.
        ignore_eos: Go on past the model's end-of-generation tokens.
        top_logprobs: Alternatives to report with each token's log-probability.
        priority: A value of `scheduler.request.Priority`.
        cache_salt: Prefixes are shared only under equal salts.
    """

    input: Text | Tokens | Chat | None
    request_id: str = ""
    model: str = ""
    max_tokens: int | None = None
    sampling: SamplingFields = SamplingFields()
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    min_tokens: int | None = None
    ignore_eos: bool = False
    top_logprobs: int | None = None
    priority: int | None = None
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A text or a conversation to tokenize, by the vocabulary of `model`.

    Attributes:
        input: What to tokenize.
        model: The model's name; empty: the default model.
        ids_only: Leave out the bytes that each token stands for.
        add_special: Whether a text gets the beginning-of-sequence token that the
            vocabulary asks for.
    """

    input: Text | Chat | None
    model: str = ""
    ids_only: bool = False
    add_special: bool = True


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    """Tokens to turn into text, by the vocabulary of `model`.

    Attributes:
        tokens: Their ids.
        model: The model's name; empty: the default model.
        show_special: Whether control tokens show their names.
    """

    tokens: Sequence[int]
    model: str = ""
    show_special: bool = False
