"""Turns a request's input into prompt tokens, with chat template and tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from llm_serving_engine.backends.text.chat import (
    RESERVED_ARGUMENTS,
    ROLES,
    ChatPrompt,
    ChatTemplate,
    TemplateError,
)
from llm_serving_engine.backends.text.detokenizer import Detokenizer
from llm_serving_engine.backends.text.placeholders import depth, strings
from llm_serving_engine.backends.text.reasoning import ReasoningFormat
from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.config import GenerationConfig
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.service.fields import check, check_fits, check_tokens
from llm_serving_engine.server.service.request import (
    Chat,
    DetokenizeRequest,
    Message,
    Text,
    TokenizeRequest,
    Tokens,
)

# Longer texts are tokenized on another thread: they would hold up the event loop.
INLINE_TEXT_CHARACTERS_MAX = 4096
# A message costs a template as much time as this many characters.
MESSAGE_WEIGHT = 16
# Templates and the search for control tokens walk through arguments by recursion.
ARGUMENTS_DEPTH_MAX = 32

# Templates write roles into control tokens such as "<|user|>": a role is a word.
_ROLE = re.compile(r"[\w.-]+")


class Prompt(NamedTuple):
    """The prompt made from a request's input.

    Attributes:
        tokens: At least one.
        reasoning: How the model marks its reasoning in the answer to a conversation;
            None where it does not, or the input is none.
        opens_reasoning: Whether the output begins inside of the reasoning.
    """

    tokens: tuple[int, ...]
    reasoning: ReasoningFormat | None = None
    opens_reasoning: bool = False


async def parse_prompt(
    source: Text | Tokens | Chat | None, model: ServedModel, config: GenerationConfig
) -> Prompt:
    """The prompt, which has at least one token. Raises InvalidField."""
    if isinstance(source, Text):
        check(source.text != "", source.field, "is empty")
        _check_text_fits(source, model, config)
        prompt = await _encode(source.text, model, special=source.parse_special)
        check(len(prompt) > 0, source.field, "has no tokens")
        return Prompt(prompt)
    if isinstance(source, Tokens):
        return Prompt(_given_tokens(source, model))
    if isinstance(source, Chat):
        return await _chat_prompt(source, model, config)
    raise InvalidField("input", "is missing: set one of prompt, prompt_tokens, chat")


async def parse_tokenize(
    request: TokenizeRequest, model: ServedModel, config: GenerationConfig
) -> tuple[int, ...]:
    """The tokens of a text or a conversation. Raises InvalidField."""
    source = request.input
    if isinstance(source, Chat):
        return (await _chat_prompt(source, model, config)).tokens
    if isinstance(source, Text):
        _check_size(source, config)
        tokens = await _encode(source.text, model, special=source.parse_special)
        return tokens if request.add_special else _without_prefix(tokens, source, model)
    raise InvalidField("input", "is missing: set one of text, chat")


def _without_prefix(tokens: tuple[int, ...], source: Text, model: ServedModel) -> tuple[int, ...]:
    """The tokens without the beginning-of-sequence token that the text does not name."""
    tokenizer = model.tokenizer
    prefix = tuple(tokenizer.encode("", special=False))
    named = bool(tokenizer.bos_text) and source.text.startswith(tokenizer.bos_text)
    added = tokens[: len(prefix)] == prefix and not (source.parse_special and named)
    return tokens[len(prefix) :] if added else tokens


async def detokenize(
    request: DetokenizeRequest, model: ServedModel, config: GenerationConfig
) -> str:
    """The text that tokens stand for. Raises InvalidField."""
    field, ids, limit = "token_ids", request.tokens, config.prompt_bytes_max
    check(len(ids) <= limit, field, f"has {len(ids)} entries; the limit is {limit}")
    check_tokens(ids, field, model.vocabulary_size)
    if len(ids) <= INLINE_TEXT_CHARACTERS_MAX:
        return _text_of(request, model, limit)
    return await model.text_executor.run(len(ids), lambda: _text_of(request, model, limit))


def _text_of(request: DetokenizeRequest, model: ServedModel, bytes_max: int) -> str:
    piece = model.tokenizer.name if request.show_special else model.tokenizer.piece
    size = sum(len(piece(token)) for token in request.tokens)
    check(
        size <= bytes_max,
        "token_ids",
        f"stand for {size} bytes of text; the limit is {bytes_max}",
    )
    return Detokenizer(model.tokenizer, show_special=request.show_special).feed(request.tokens)


def input_field(source: Text | Tokens | Chat | None) -> str:
    """The name of the field that holds the input."""
    if isinstance(source, Text):
        return source.field
    if isinstance(source, Tokens):
        return "prompt_tokens"
    return "chat" if isinstance(source, Chat) else "input"


def _given_tokens(tokens: Tokens, model: ServedModel) -> tuple[int, ...]:
    ids, field = tokens.ids, "prompt_tokens.ids"
    check(len(ids) > 0, field, "is empty")
    context = model.context_per_sequence
    check_fits(
        len(ids) < context,
        "prompt_tokens",
        f"has {len(ids)} tokens, which leave no room in the context of {context}",
        context,
    )
    check_tokens(ids, field, model.vocabulary_size)
    return tuple(ids)


async def _chat_prompt(chat: Chat, model: ServedModel, config: GenerationConfig) -> Prompt:
    template = _template(model)
    check(len(chat.messages) > 0, "chat.messages", "is empty")
    messages = list(chat.messages)
    text_bytes = sum(
        len(text.encode()) for one in messages for text in (one.role, one.content, one.reasoning)
    )
    check(
        text_bytes <= config.prompt_bytes_max,
        "chat.messages",
        f"have {text_bytes} bytes in all; the limit is {config.prompt_bytes_max}",
    )
    for index, message in enumerate(messages):
        _check_role(index, message.role, template)
    check(
        not chat.continue_last or messages[-1].role == "assistant",
        "chat.continue_last",
        f"needs a last message of the role 'assistant', not {messages[-1].role!r}",
    )
    text_bytes += _check_arguments(chat.template_arguments, config)
    render = partial(
        template.render,
        [_turn(one) for one in messages],
        arguments=chat.template_arguments,
        continue_last=chat.continue_last,
        begin_next=chat.begin_next,
    )
    try:
        # The template decides how long this takes, except for short conversations.
        if text_bytes + MESSAGE_WEIGHT * len(messages) <= INLINE_TEXT_CHARACTERS_MAX:
            rendered = render()
        else:
            rendered = await model.text_executor.run(text_bytes, render)
    except TemplateError as error:
        raise InvalidField("chat", str(error)) from error
    tokens = await _encode_chat(rendered, model)
    check(len(tokens) > 0, "chat", "has no tokens")
    return Prompt(tokens, template.reasoning, rendered.opens_reasoning)


def _turn(message: Message) -> dict[str, str]:
    turn = {"role": message.role, "content": message.content}
    return {**turn, "reasoning": message.reasoning} if message.reasoning else turn


def _template(model: ServedModel) -> ChatTemplate:
    text = model.text
    if text.chat_template is not None:
        return text.chat_template
    if text.template_error:
        raise InvalidField("chat", f"model {model.name!r} cannot chat: {text.template_error}")
    raise InvalidField(
        "chat",
        f"model {model.name!r} has no chat template: use completions (prompt), "
        "or serve with --chat-template FILE",
    )


def _check_role(index: int, role: str, template: ChatTemplate) -> None:
    field = f"chat.messages[{index}].role"
    check(role != "", field, "is empty")
    check(
        _ROLE.fullmatch(role) is not None,
        field,
        "has a character that is not a letter, digit, underscore, dot, or hyphen",
    )
    check(
        template.knows_role(role),
        field,
        f"is {role!r:.40}; it can be {', '.join(ROLES)}, or a role that the chat template names",
    )


def _check_arguments(arguments: Mapping[str, Any], config: GenerationConfig) -> int:
    """Hold template arguments against the limits; the size of their texts in bytes."""
    field = "chat.template_arguments"
    for name in arguments:
        check(name not in RESERVED_ARGUMENTS, f"{field}.{name}", "is set by the server")
    levels = depth(arguments)
    check(
        levels <= ARGUMENTS_DEPTH_MAX,
        field,
        f"have {levels} levels of lists and objects; the limit is {ARGUMENTS_DEPTH_MAX}",
    )
    text_bytes = sum(len(text.encode()) for text in strings(arguments))
    check(
        text_bytes <= config.prompt_bytes_max,
        field,
        f"have {text_bytes} bytes of text; the limit is {config.prompt_bytes_max}",
    )
    return text_bytes


async def _encode_chat(prompt: ChatPrompt, model: ServedModel) -> tuple[int, ...]:
    encode = partial(model.tokenizer.encode_pieces, prompt.pieces)
    if len(prompt.text) <= INLINE_TEXT_CHARACTERS_MAX:
        return tuple(encode())
    return await model.text_executor.run(len(prompt.text), lambda: tuple(encode()))


async def _encode(text: str, model: ServedModel, *, special: bool) -> tuple[int, ...]:
    if len(text) <= INLINE_TEXT_CHARACTERS_MAX:
        return tuple(model.tokenizer.encode(text, special=special))
    encode = partial(model.tokenizer.encode, text, special=special)
    return await model.text_executor.run(len(text), lambda: tuple(encode()))


def _check_size(source: Text, config: GenerationConfig) -> int:
    """Hold a text against the configured limit; its size in bytes."""
    size = len(source.text.encode())
    check(
        size <= config.prompt_bytes_max,
        source.field,
        f"has {size} bytes; the limit is {config.prompt_bytes_max}",
    )
    return size


def _check_text_fits(source: Text, model: ServedModel, config: GenerationConfig) -> None:
    """Refuse what cannot fit before it costs the time to tokenize it."""
    size = _check_size(source, config)
    tokens_min = size // model.tokenizer.longest_piece
    check_fits(
        tokens_min < model.context_per_sequence,
        source.field,
        f"has {tokens_min} tokens or more; with max_tokens it must fit the context "
        f"of {model.context_per_sequence}",
        model.context_per_sequence,
    )
