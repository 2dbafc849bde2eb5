"""Turns a conversation into a prompt, with a chat template, without forged control tokens.

What the template itself writes can name control tokens; what callers write
cannot. A template may cut, trim, or rewrite the texts that it is given, and
decide by what they say, so the two cannot be told apart in its output alone.
They are told apart like this:

1. The template runs on the conversation as it is: the plain output.
2. Unless no text has a character that a control token's name begins or ends
   with, it runs again with a placeholder in the place of each such character: the
   guarded output. No name in it comes from a caller, in whole or in part.
3. If the guarded output, its characters put back, is the plain output, the
   names in the guarded output are the control tokens. This is the usual case.
4. Otherwise the template has looked at those characters. The plain output is
   taken where it names the same control tokens in the same order; else the
   output with placeholders in the names of control tokens only, where that does;
   else the guarded output, with its characters put back.

So a prompt's control tokens are always those that the template writes around
texts without markers. `docs/chat-templates.md` says what this leaves open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_serving_engine.backends.text.content_forms import ContentForms, Forms
from llm_serving_engine.backends.text.control_tokens import ControlTokens
from llm_serving_engine.backends.text.conversation import Conversation, Message
from llm_serving_engine.backends.text.placeholders import Placeholders
from llm_serving_engine.backends.text.reasoning import ReasoningFormat, find_reasoning
from llm_serving_engine.backends.text.template_bounds import RUN_SECONDS_MAX, TemplateTookTooLong
from llm_serving_engine.backends.text.template_program import (
    OUTPUT_CHARACTERS_MAX,
    TemplateError,
    TemplateProgram,
)
from llm_serving_engine.scheduler.durations import duration

__all__ = ["OUTPUT_CHARACTERS_MAX", "ChatPrompt", "ChatTemplate", "TemplateError"]

RESERVED_ARGUMENTS = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
)
"""Variables that a caller's arguments cannot set."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles that every template gets, as OpenAI's API names them."""


_ANSWER = "1234567890"


@contextlib.contextmanager
def _time_told() -> Iterator[None]:
    try:
        yield
    except TemplateTookTooLong:
        raise TemplateError(
            f"the chat template takes more than {duration(RUN_SECONDS_MAX)} of processor time"
        ) from None


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The prompt made from a conversation.

    Attributes:
        text: All of it, as the template wrote it.
        pieces: The same, cut at control tokens: their ids, and the texts
            between them, in which no name is a control token.
        opens_reasoning: Whether the output begins inside of the model's reasoning.
    """

    text: str
    pieces: tuple[str | int, ...]
    opens_reasoning: bool = False


class ChatTemplate:
    """A compiled template; `render` may be called from several threads at once.

    Attributes:
        end_tokens: The control token that the template writes after the model's
            words, as a set; empty where it writes none.
        reasoning: How the model marks its reasoning; None where it does not.
    """

    def __init__(
        self,
        source: str,
        bos_text: str = "",
        eos_text: str = "",
        control_tokens: ControlTokens | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Compile a template.

        Args:
            source: Jinja.
            bos_text: The beginning-of-sequence token's name.
            eos_text: The end-of-sequence token's name.
            control_tokens: Those that the template can name. Default: none.
            arguments: Variables for the template that `render` does not get.

        Raises:
            TemplateError: It is not a valid template, or takes too long on a short conversation.
        """
        self._program = TemplateProgram(source)
        self._source = source
        self._special_texts = {"bos_token": bos_text, "eos_token": eos_text}
        self._control = control_tokens or ControlTokens({})
        self._arguments = dict(arguments or {})
        self._forms = ContentForms(self._run)
        self._knows_developer = "developer" in source
        with _time_told():
            self.end_tokens = self._find_end_tokens()
            self.reasoning: ReasoningFormat | None = find_reasoning(self._run_probe, source)

    def knows_role(self, role: str) -> bool:
        """Whether a message may have this role: one of ROLES, or one that the template quotes."""
        return role in ROLES or f"'{role}'" in self._source or f'"{role}"' in self._source

    def render(
        self,
        messages: Sequence[Message],
        *,
        arguments: Mapping[str, Any] | None = None,
        continue_last: bool = False,
        begin_next: bool = True,
        characters_max: int = OUTPUT_CHARACTERS_MAX,
    ) -> ChatPrompt:
        """The prompt that asks the model for its next message.

        Args:
            messages: Each with "role" and "content", at least one; "reasoning" is
                given to the template under the name that it knows, if any.
            arguments: Variables for the template, none of RESERVED_ARGUMENTS.
            continue_last: Whether the model goes on with the last message.
            begin_next: Otherwise, whether the prompt ends with the beginning of its message.
            characters_max: Longer output is refused.

        Raises:
            TemplateError: The template refuses the messages, fails on them,
                leaves out the text of one, writes too much, or takes too long.
        """
        with _time_told():
            every_argument = {**self._arguments, **(arguments or {})}
            turns = [self._known_fields(message) for message in self._known_roles(messages)]
            conversation = Conversation(turns, every_argument, continue_last, begin_next)
            return self._render(conversation, characters_max)

    def _render(self, conversation: Conversation, characters_max: int) -> ChatPrompt:
        texts = list(conversation.texts())
        placeholders = Placeholders(self._control.edges, [self._source, *texts])
        forms = self._forms.find(conversation)

        def run(change: Callable[[str], str]) -> str:
            changed = conversation.with_texts(change)
            if not conversation.continues:
                return self._run(changed, forms, characters_max)
            return self._run_to_end(changed, forms, placeholders.mark, characters_max)

        plain = run(str)
        self._forms.check(conversation, forms, plain)
        marked = any(not self._control.edges.isdisjoint(text) for text in texts)
        output = self._told_apart(plain, run, texts, placeholders) if marked else plain
        pieces = (
            piece if isinstance(piece, int) else placeholders.reveal(piece)
            for piece in self._control.split(output)
        )
        text = placeholders.reveal(output)
        return ChatPrompt(text, tuple(pieces), self._opens_reasoning(text, conversation))

    def _told_apart(
        self,
        plain: str,
        run: Callable[[Callable[[str], str]], str],
        texts: Sequence[str],
        placeholders: Placeholders,
    ) -> str:
        """The output in which every name is the template's own: see the module's description."""
        named = any(self._control.named(text) for text in texts)
        try:
            guarded = run(placeholders.hide)
        except TemplateError:
            # It wants some text with these characters in it. Without a whole name, let it be.
            if not named:
                return plain
            raise TemplateError(
                "the messages have names of control tokens, and the chat template reads them"
            ) from None
        if placeholders.reveal(guarded) == plain:
            return guarded
        wanted = self._control.named(guarded)
        if self._control.named(plain) == wanted:
            return plain
        try:
            disguised = run(lambda text: self._control.disguise(text, placeholders.table))
        except TemplateError:
            return guarded
        return disguised if self._control.named(disguised) == wanted else guarded

    def _run(
        self,
        conversation: Conversation,
        forms: Forms,
        characters_max: int = OUTPUT_CHARACTERS_MAX,
    ) -> str:
        variables = {**conversation.variables(forms), **self._special_texts}
        return self._program.run(variables, characters_max=characters_max)

    def _run_to_end(
        self, conversation: Conversation, forms: Forms, mark: str, characters_max: int
    ) -> str:
        """The output up to the end of the last message's content."""
        last = len(conversation.messages) - 1
        marked = conversation.with_contents(
            lambda index, content: content + mark if index == last else content
        )
        text, found, _ = self._run(marked, forms, characters_max).rpartition(mark)
        if not found:
            raise TemplateError("the chat template leaves out the end of the last message")
        return text

    def _known_roles(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages, with "system" for "developer" if the template lacks that role."""
        if self._knows_developer:
            return list(messages)
        return [
            {**message, "role": "system"} if message["role"] == "developer" else message
            for message in messages
        ]

    def _known_fields(self, message: Message) -> Message:
        """The message, with its reasoning under the name that the template reads."""
        if "reasoning" not in message:
            return message
        known = {name: value for name, value in message.items() if name != "reasoning"}
        field = self.reasoning.field if self.reasoning else ""
        return {**known, field: message["reasoning"]} if field else known

    def _opens_reasoning(self, prompt: str, conversation: Conversation) -> bool:
        if self.reasoning is None:
            return False
        if conversation.continues:
            return self.reasoning.is_open_in(conversation.messages[-1]["content"])
        return self.reasoning.is_open_after(prompt)

    def _run_probe(self, probe: Conversation) -> str:
        arguments = {**self._arguments, **probe.arguments}
        whole = Conversation(probe.messages, arguments, probe.continues)
        return self._run(whole, self._forms.find(whole))

    def _find_end_tokens(self) -> frozenset[int]:
        """Find the control token that the template writes after the model's words."""
        turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": _ANSWER}]
        conversation = Conversation(turns, self._arguments, continues=True)
        try:
            output = self._run(conversation, self._forms.find(conversation))
        except TemplateError:
            return frozenset()
        _, _, rest = output.rpartition(_ANSWER)
        pieces = self._control.split(rest.lstrip())
        return frozenset(piece for piece in pieces[:1] if isinstance(piece, int))
