"""`generate`: continue one prompt."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

from llm_serving_engine.clients.commands import options
from llm_serving_engine.clients.commands.failures import one_line_failures

if TYPE_CHECKING:
    from llm_serving_engine.clients import Client, GenerateOptions


def generate(
    prompt: options.Prompt,
    model: options.Model = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    stop_token_ids: options.StopTokenIds = None,
    min_tokens: options.MinTokens = None,
    parse_special: options.ParseSpecial = False,
    priority: options.Priority = "normal",
    ignore_eos: options.IgnoreEos = False,
    stream: options.Stream = True,
    as_json: options.Json = False,
    top_logprobs: options.TopLogprobs = None,
    request_id: options.RequestId = None,
    cache_salt: options.CacheSalt = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    logit_bias: options.LogitBias = None,
    address: options.Address = "127.0.0.1:50051",
    tenant: options.Tenant = None,
    timeout: options.Timeout = None,
    attempts: options.Attempts = 1,
) -> None:
    """Continue PROMPT, and print the output."""
    request: GenerateOptions = {
        "model": model,
        "request_id": request_id,
        "max_tokens": max_tokens,
        "stop": stop,
        "stop_token_ids": stop_token_ids,
        "min_tokens": min_tokens,
        "parse_special": parse_special,
        "priority": priority,
        "ignore_eos": ignore_eos,
        "top_logprobs": top_logprobs,
        "cache_salt": cache_salt,
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "top_k": top_k,
        "seed": seed,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "logit_bias": options.parse_logit_bias(logit_bias),
    }
    with one_line_failures(address):
        from llm_serving_engine.clients import Client

        text = sys.stdin.read() if prompt == "-" else prompt
        with Client(address, tenant=tenant, timeout=timeout, attempts=attempts) as client:
            write = _print_json if as_json else _print_stream if stream else _print_text
            write(client, text, request)


def _print_text(client: Client, prompt: str, request: GenerateOptions) -> None:
    typer.echo(client.generate(prompt, **request).text)


def _print_stream(client: Client, prompt: str, request: GenerateOptions) -> None:
    stream = client.stream(prompt, **request)
    try:
        for delta in stream:
            sys.stdout.write(delta.text)
            sys.stdout.flush()
    finally:
        if stream.text:  # Whatever follows, be it the shell's prompt, begins a line.
            typer.echo()


def _print_json(client: Client, prompt: str, request: GenerateOptions) -> None:
    from dataclasses import asdict

    answer = asdict(client.generate(prompt, **request))
    # `default` sees the tokens' bytes only, which need not be text: a list of numbers.
    typer.echo(json.dumps(answer, ensure_ascii=False, default=list))
