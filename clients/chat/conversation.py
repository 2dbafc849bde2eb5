"""The messages of a conversation so far."""

from __future__ import annotations

from llm_serving_engine.clients.requests import Message


class Conversation:
    """The messages that the next answer follows from.

    Args:
        system: The system message that stands first, through resets too;
            empty for none.
    """

    def __init__(self, system: str = "") -> None:
        self._head = [Message("system", system)] if system else []
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """All of it, oldest first."""
        return self._head + self._turns

    def ask(self, text: str) -> None:
        """The user's turn."""
        self._turns.append(Message("user", text))

    def answer(self, text: str) -> None:
        """The model's turn, be it cut short. Without any text the question is forgotten too."""
        if text:
            self._turns.append(Message("assistant", text))
        else:
            self._turns.pop()

    def reset(self) -> None:
        """Forget all but the system message."""
        self._turns.clear()
