"""The loop of a conversation."""

from __future__ import annotations

from llm_serving_engine.clients.chat.conversation import Conversation
from llm_serving_engine.clients.chat.screen import Screen
from llm_serving_engine.clients.client import Client
from llm_serving_engine.clients.errors import ServingError
from llm_serving_engine.clients.requests import GenerateOptions


def converse(
    client: Client, conversation: Conversation, screen: Screen, options: GenerateOptions
) -> None:
    """Take turns until the user leaves.

    Raises:
        KeyboardInterrupt, ServingError, ValueError: During an answer, where
            the screen is not interactive.
    """
    while (line := screen.read()) is not None:
        match line.strip():
            case "":
                continue
            case "/exit":
                return
            case "/reset":
                conversation.reset()
                screen.note("forgotten")
            case _:
                _turn(line, client, conversation, screen, options)


def _turn(
    question: str,
    client: Client,
    conversation: Conversation,
    screen: Screen,
    options: GenerateOptions,
) -> None:
    """One question and its answer. What came of an answer before it was stopped is kept."""
    conversation.ask(question)
    pieces: list[str] = []
    try:
        with screen.answering() as show:
            stream = client.stream(conversation.messages, **options)
            for delta in stream:
                pieces.append(delta.text)
                show(delta.text)
        screen.finished(stream.finished)
    except KeyboardInterrupt:
        if not screen.interactive:
            raise
        screen.finished(None)
    except (ServingError, ValueError) as error:
        if not screen.interactive:
            raise
        screen.note(f"error: {error}")
    finally:
        conversation.answer("".join(pieces))
