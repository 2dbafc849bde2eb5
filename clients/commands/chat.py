"""`chat`: a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llm_serving_engine.clients.commands import options
from llm_serving_engine.clients.commands.failures import one_line_failures

if TYPE_CHECKING:
    from llm_serving_engine.clients import GenerateOptions
    from llm_serving_engine.clients.chat.screen import Screen


def chat(
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    model: options.Model = None,
    template_arguments: options.TemplateArguments = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    priority: options.Priority = "high",
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    repetition_penalty: options.RepetitionPenalty = None,
    address: options.Address = "127.0.0.1:50051",
    tenant: options.Tenant = None,
    timeout: options.Timeout = None,
    attempts: options.Attempts = 1,
) -> None:
    """Chat with the model.

    Ctrl-C stops the answer. Ctrl-D or /exit leaves the chat; /reset clears the
    conversation. In a pipe, each line of stdin is one turn.
    """
    request: GenerateOptions = {
        "model": model,
        "max_tokens": max_tokens,
        "stop": stop,
        "template_arguments": options.parse_template_arguments(template_arguments),
        "priority": priority,
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "top_k": top_k,
        "seed": seed,
        "repetition_penalty": repetition_penalty,
    }
    with one_line_failures(address):
        from llm_serving_engine.clients import Client
        from llm_serving_engine.clients.chat.conversation import Conversation
        from llm_serving_engine.clients.chat.session import converse

        with Client(address, tenant=tenant, timeout=timeout, attempts=attempts) as client:
            client.model(model or "")  # Fails before the first prompt if there is no server.
            converse(client, Conversation(system), _screen(), request)


def _screen() -> Screen:
    from rich.console import Console

    from llm_serving_engine.clients.chat.screen import Pipe, Terminal

    if sys.stdin.isatty() and sys.stdout.isatty():
        return Terminal(Console())
    return Pipe(sys.stdin, sys.stdout)
