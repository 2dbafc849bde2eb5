"""From a request's input to the prompt's tokens: template and tokenizer."""

from __future__ import annotations

import asyncio

from llm_serving_engine.backends.text.chat import TemplateError
from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.config import GenerationConfig
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.service.fields import check
from llm_serving_engine.server.service.request import Chat, Text, TokenizeRequest, Tokens

# Longer texts are tokenized on another thread: they would hold up the event loop.
INLINE_TEXT_CHARACTERS_MAX = 4096


async def parse_prompt(
    source: Text | Tokens | Chat | None, model: ServedModel, config: GenerationConfig
) -> tuple[int, ...]:
    """The prompt's tokens, at least one. Raises InvalidField."""
    if isinstance(source, Text):
        check(source.text != "", source.field, "is empty")
        _check_text_fits(source, model, config)
        prompt = await _encode(source.text, model, special=False)
        check(len(prompt) > 0, source.field, "has no tokens")
        return prompt
    if isinstance(source, Tokens):
        return _given_tokens(source, model)
    if isinstance(source, Chat):
        return await _chat_tokens(source, model, config)
    raise InvalidField("input", "is missing: set one of prompt, prompt_tokens, chat")


async def parse_tokenize(
    request: TokenizeRequest, model: ServedModel, config: GenerationConfig
) -> tuple[int, ...]:
    """The tokens of a text or a conversation. Raises InvalidField."""
    source = request.input
    if isinstance(source, Chat):
        return await _chat_tokens(source, model, config)
    if isinstance(source, Text):
        _check_size(source, config)
        return await _encode(source.text, model, special=False)
    raise InvalidField("input", "is missing: set one of text, chat")


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
    size = model.vocabulary_size
    largest, smallest = max(ids), min(ids)
    check(largest < size, field, f"has {largest}; the vocabulary ends at {size - 1}")
    check(smallest >= 0, field, f"has {smallest}; the vocabulary begins at 0")
    return tuple(ids)


async def _chat_tokens(chat: Chat, model: ServedModel, config: GenerationConfig) -> tuple[int, ...]:
    template = model.chat_template
    if template is None:
        raise InvalidField("chat", f"model {model.name!r} has no chat template; use prompt")
    check(len(chat.messages) > 0, "chat.messages", "is empty")
    messages = list(chat.messages)
    for index, message in enumerate(messages):
        check(message.role != "", f"chat.messages[{index}].role", "is empty")
    text_bytes = sum(len(one.role.encode()) + len(one.content.encode()) for one in messages)
    check(
        text_bytes <= config.prompt_bytes_max,
        "chat.messages",
        f"have {text_bytes} bytes in all; the limit is {config.prompt_bytes_max}",
    )
    turns = [{"role": one.role, "content": one.content} for one in messages]
    try:
        # How long that takes is the template's affair, except for short conversations.
        if text_bytes <= INLINE_TEXT_CHARACTERS_MAX:
            rendered = template.render(turns)
        else:
            rendered = await asyncio.to_thread(template.render, turns)
    except TemplateError as error:
        raise InvalidField("chat", str(error)) from error
    tokens = await _encode(rendered, model, special=True)
    check(len(tokens) > 0, "chat", "has no tokens")
    return tokens


async def _encode(text: str, model: ServedModel, *, special: bool) -> tuple[int, ...]:
    if len(text) <= INLINE_TEXT_CHARACTERS_MAX:
        return tuple(model.tokenizer.encode(text, special=special))
    return tuple(await asyncio.to_thread(model.tokenizer.encode, text, special=special))


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
    check(
        tokens_min < model.context_per_sequence,
        source.field,
        f"has {tokens_min} tokens or more; with max_tokens it must fit the context "
        f"of {model.context_per_sequence}",
    )
