"""Time to the first token of prompts: through a server, and by the library alone.

    .venv/bin/llm-serving-engine serve --model MODEL    # in another terminal
    .venv/bin/python tests/benchmarks/library_alone.py MODEL \
        [--address 127.0.0.1:50051] [--rounds 5]
    .venv/bin/python tests/benchmarks/library_alone.py MODEL \
        --tokens 92 --together 16 [--max-tokens 4]

With `--together`, so many prompts come at once, and what is timed is until all of them have
their first token. The library computes them whole, one or several in a call.

The library is called in this process: the same binding, threads, attention, and shape
of context as the server chose, and logits of the last token only. Server and library
take turns, and each begins after the same pause. The ratio is the median of the rounds,
against the calls that were the fastest in them: one kind of calls for all rounds, as the
fastest of each round by itself would be chosen by its luck.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from prompt_lengths import VOCABULARY

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.clients.client import Client

LENGTHS = (63, 64, 65, 127, 128, 129, 135, 255, 256, 400, 511, 512, 639, 640, 1023, 1024, 1200)
CHUNKS = (64, 128, 256, 512)
# Threads spin for a while after a call, on the cores that the next one computes with.
PAUSE_SECONDS = 0.3


PER_CALL = (1, 2, 4, 8, 16)

Prompt = tuple[int, ...]
Timed = Callable[[list[Prompt]], float]
"""Seconds that it takes until all of some prompts have their first token."""


def of_server(client: Client, max_tokens: int) -> Timed:
    """Prompts that come at once to a server."""

    def first(prompt: Prompt) -> float:
        tokens = client.stream(prompt, max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        times = [time.perf_counter() for _ in tokens]
        return times[0]

    def timed(prompts: list[Prompt]) -> float:
        with ThreadPoolExecutor(len(prompts)) as threads:
            started = time.perf_counter()
            return max(threads.map(first, prompts)) - started

    return timed


def of_library(model: LlamaModel, chunk: int, per_call: int) -> Timed:
    """Prompts of one length in calls of so many of them, and of so many tokens of each."""

    def timed(prompts: list[Prompt]) -> float:
        started = time.perf_counter()
        for first in range(0, len(prompts), per_call):
            several = list(enumerate(prompts[first : first + per_call], first))
            for start in range(0, len(prompts[0]), chunk):
                ends = start + chunk >= len(prompts[0])
                parts = [Part(s, start, p[start : start + chunk], wanted=ends) for s, p in several]
                logits = model.decode(parts)
            logits.argmax(axis=1)
        seconds = time.perf_counter() - started
        model.clear_all()
        return seconds

    return timed


def calls_of_library(model: LlamaModel, tokens: int, together: int) -> Iterator[tuple[str, Timed]]:
    """The kinds of calls that the library is timed with, and their names."""
    if together > 1:
        for per_call in PER_CALL:
            if per_call <= together:
                yield f"{per_call} in a call", of_library(model, tokens, per_call)
        return
    # Longer ones are the same call.
    longest = min((chunk for chunk in CHUNKS if chunk >= tokens), default=max(CHUNKS))
    for chunk in CHUNKS:
        if chunk <= longest:
            yield f"in chunks of {chunk}", of_library(model, chunk, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=1)
    options = parser.parse_args()
    # The backend chooses attention and unit as the server's did; its model is used alone.
    backend = LlamaCppBackend(str(options.model), BackendConfig(), lambda fraction: None)
    model = backend._model
    # The library may take longer calls than the server.
    longest = max(*CHUNKS, options.together * max(options.tokens) if options.together > 1 else 0)
    model.renew(replace(model.settings, prefill_chunk=longest))
    print(f"library: {backend.report.settings}")
    draw = random.Random(0)
    with Client(options.address) as client:
        server = of_server(client, options.max_tokens)
        for tokens in options.tokens:
            library = dict(calls_of_library(model, tokens, options.together))
            times: dict[str, list[float]] = {name: [] for name in library}
            served = []
            for _ in range(options.rounds):
                prompts = [
                    tuple(draw.randrange(1000, VOCABULARY) for _ in range(tokens))
                    for _ in range(options.together)
                ]
                time.sleep(PAUSE_SECONDS)
                served.append(server(prompts))
                for name, timed in library.items():
                    time.sleep(PAUSE_SECONDS)
                    times[name].append(timed(prompts))
            medians = {name: statistics.median(seconds) for name, seconds in times.items()}
            best = times[min(medians, key=lambda name: medians[name])]
            ratio = statistics.median(s / alone for s, alone in zip(served, best, strict=True))
            took = statistics.median(served)
            alone = ", ".join(f"{1000 * s:.1f} {name}" for name, s in medians.items())
            print(
                f"{tokens:5} tokens: server {1000 * took:7.1f} ms, library {alone}; "
                f"ratio {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
