"""Finds the form of content that a chat template takes, and checks that it is output."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from llm_serving_engine.backends.text.conversation import ContentForm, Conversation
from llm_serving_engine.backends.text.template_program import TemplateError

Forms = Mapping[str, ContentForm]
"""By role."""

_ROLES_REMEMBERED_MAX = 64
_ROLES_MIXED_MAX = 3
# Digits survive a template's filters for case, white space, and JSON.
_PARTS_SHOWN = ("'type': 'text'", '"type": "text"')
_PROBE_FIRST = 48_151_623_420_000


class ContentForms:
    """Finds the forms by running a template on probes, and remembers them.

    Some templates take a string, some a list of parts, some both, and some one
    form for one role and the other for another. Given the wrong form, most
    leave out the text without a word.
    """

    def __init__(self, run: Callable[[Conversation, Forms], str]) -> None:
        """Prepare to find forms.

        Args:
            run: Runs the template. It may raise TemplateError.
        """
        self._run = run
        self._known: dict[str, ContentForm] = {}

    def find(self, conversation: Conversation) -> Forms:
        """The forms under which the text of every message of a conversation arrives.

        Where the template fails on the probes whatever their form, a string is
        assumed.

        Raises:
            TemplateError: The text of a message arrives in no form.
        """
        probe = conversation.with_contents(lambda index, content: _probe(index) if content else "")
        roles = list(dict.fromkeys(str(message["role"]) for message in conversation.messages))
        dropped: list[int] | None = None
        for forms in self._candidates(roles):
            try:
                output = self._run(probe, forms)
            except TemplateError:
                continue
            if any(shown in output for shown in _PARTS_SHOWN):
                continue  # A list was written as such, which no model was trained on.
            missing = [i for i in _with_text(conversation) if _probe(i) not in output]
            if not missing:
                self._remember(forms)
                return forms
            dropped = missing if dropped is None else dropped
        if dropped is not None:
            raise _left_out(conversation, dropped[0])
        return {}

    def check(self, conversation: Conversation, forms: Forms, output: str) -> None:
        """Make sure that the text of every message is in the template's output.

        Args:
            conversation: What the template was given.
            forms: As `find` gave them.
            output: What it wrote.

        Raises:
            TemplateError: The text of a message is not in there.
        """
        contents = [str(message["content"]) for message in conversation.messages]
        unseen = [i for i in _with_text(conversation) if contents[i].strip() not in output]
        if not unseen:
            return
        # It was cut or changed: what stands around it tells whether a part arrived.
        framed = conversation.with_contents(
            lambda index, content: f"{_probe(2 * index)}{content}{_probe(2 * index + 1)}"
        )
        try:
            output = self._run(framed, forms)
        except TemplateError:
            return
        for index in unseen:
            if _probe(2 * index) not in output and _probe(2 * index + 1) not in output:
                raise _left_out(conversation, index)

    def _candidates(self, roles: Sequence[str]) -> Iterator[Forms]:
        """The forms that are known, then one form for all roles, then each its own."""
        seen: list[Forms] = []
        known = {role: self._known.get(role, ContentForm.TEXT) for role in roles}
        mixed = itertools.product(ContentForm, repeat=len(roles))
        every: list[Forms] = [
            known,
            *(dict.fromkeys(roles, form) for form in ContentForm),
            *(
                dict(zip(roles, forms, strict=True))
                for forms in (mixed if len(roles) <= _ROLES_MIXED_MAX else ())
            ),
        ]
        for forms in every:
            if forms not in seen:
                seen.append(forms)
                yield forms

    def _remember(self, forms: Forms) -> None:
        if len(self._known.keys() | forms.keys()) <= _ROLES_REMEMBERED_MAX:
            self._known.update(forms)


def _probe(index: int) -> str:
    return str(_PROBE_FIRST + index)


def _with_text(conversation: Conversation) -> list[int]:
    return [i for i, message in enumerate(conversation.messages) if message["content"].strip()]


def _left_out(conversation: Conversation, index: int) -> TemplateError:
    role = conversation.messages[index]["role"]
    return TemplateError(
        f"the chat template leaves out the text of message {index} (role {role!r})"
    )
