"""The conversation at a terminal, with a console that writes to memory."""

from __future__ import annotations

import io

import grpc
import pytest
from rich.console import Console

from llm_serving_engine.clients import Client, Finished, Message, Timings, Usage
from llm_serving_engine.clients.chat.conversation import Conversation
from llm_serving_engine.clients.chat.screen import Terminal, summary
from llm_serving_engine.clients.chat.session import converse


class Screen(io.StringIO):
    """What the terminal shows; Ctrl-C is pressed as soon as `interrupt_at` appears."""

    def __init__(self, interrupt_at=None):
        super().__init__()
        self.interrupt_at = interrupt_at

    def write(self, text):
        count = super().write(text)
        if self.interrupt_at is not None and self.interrupt_at in text:
            self.interrupt_at = None
            raise KeyboardInterrupt
        return count


def typist(*lines):
    """Types the lines, then Ctrl-D. An exception is raised instead."""
    remaining = iter(lines)

    def ask(prompt):
        line = next(remaining, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    return ask


def talk(server, screen, *lines, conversation=None):
    terminal = Terminal(Console(file=screen, width=200), typist(*lines))
    with Client(server.address, timeout=30) as client:
        converse(client, conversation or Conversation(), terminal, {"max_tokens": 3})
    return screen.getvalue()


def test_an_answer_is_shown_with_what_it_took(server):
    shown = talk(server, Screen(), "hi")
    assert "w0 w1 w2 \n" in shown
    assert "3 tokens, the first after 1.25 s, then 0.8 per second" in shown


def test_ctrl_c_stops_the_answer_and_not_the_chat(server):
    server.hang_after = 2
    conversation = Conversation()
    server.hangs = lambda request: request.chat.messages[-1].content == "one"
    shown = talk(server, Screen(interrupt_at="w1"), "one", "two", conversation=conversation)
    assert server.ended.wait(30)
    assert "stopped" in shown
    assert conversation.messages == [
        Message("user", "one"),
        Message("assistant", "w0 w1 "),
        Message("user", "two"),
        Message("assistant", "w0 w1 w2 "),
    ]


def test_ctrl_c_at_the_prompt_drops_the_line(server):
    talk(server, Screen(), KeyboardInterrupt(), "hi")
    assert [request.chat.messages[0].content for request in server.requests] == ["hi"]


def test_an_error_is_shown_and_its_question_forgotten(server):
    server.failures = [server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "[bold]full")]
    conversation = Conversation("Be brief.")
    shown = talk(server, Screen(), "one", "two", conversation=conversation)
    assert "error: [bold]full" in shown
    assert [message.content for message in conversation.messages] == [
        "Be brief.",
        "two",
        "w0 w1 w2 ",
    ]


def test_reset_keeps_the_system_message(server):
    conversation = Conversation("Be brief.")
    talk(server, Screen(), "one", "/reset", conversation=conversation)
    assert conversation.messages == [Message("system", "Be brief.")]


@pytest.mark.parametrize(
    ("tokens", "decode", "words"),
    [
        (5, 2.0, "5 tokens, the first after 0.50 s, then 2.0 per second"),
        (1, 0.0, "1 tokens, the first after 0.50 s"),
    ],
)
def test_summary(tokens, decode, words):
    timings = Timings(queue=0, prefill=0, decode=decode, time_to_first_token=0.5)
    assert summary(Finished("max_tokens", Usage(3, 0, tokens), timings)) == words
