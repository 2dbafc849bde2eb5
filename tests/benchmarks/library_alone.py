"""Time to the first token of lone prompts: through a server, and by the library alone.

    llm-serving-engine serve --model MODEL
    python tests/benchmarks/library_alone.py MODEL [--address 127.0.0.1:50051] [--rounds 5]

The library is called in this process: the same binding, threads, attention, and shape
of context as the server chose, and logits of the last token only. Server and library
take turns, and each begins after the same pause. The ratio is the median of the rounds,
against the chunks that were the fastest in them: one length of chunks for all rounds,
as the fastest of each round by itself would be chosen by its luck.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path

from prompt_lengths import VOCABULARY, first_token

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.clients.client import Client

LENGTHS = (63, 64, 65, 127, 128, 129, 135, 255, 256, 400, 511, 512, 639, 640, 1023, 1024, 1200)
CHUNKS = (64, 128, 256, 512)
# Threads spin for a while after a call, on the cores that the next one computes with.
PAUSE_SECONDS = 0.3


def first_token_of_library(model: LlamaModel, prompt: tuple[int, ...], chunk: int) -> float:
    started = time.perf_counter()
    for start in range(0, len(prompt), chunk):
        tokens = prompt[start : start + chunk]
        logits = model.decode([Part(0, start, tokens, wanted=start + chunk >= len(prompt))])
    logits.argmax()
    seconds = time.perf_counter() - started
    model.clear(0)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="*", default=LENGTHS)
    options = parser.parse_args()
    # The backend chooses attention and unit as the server's did; its model is used alone.
    backend = LlamaCppBackend(str(options.model), BackendConfig(), lambda fraction: None)
    model = backend._model
    # The library may take longer chunks than the server's unit.
    model.renew(replace(model.settings, prefill_chunk=max(CHUNKS)))
    print(f"library: {backend.report.settings}")
    draw = random.Random(0)
    with Client(options.address) as client:
        for tokens in options.tokens:
            # Longer ones are the same call.
            longest = min((chunk for chunk in CHUNKS if chunk >= tokens), default=max(CHUNKS))
            library: dict[int, list[float]] = {c: [] for c in CHUNKS if c <= longest}
            server = []
            for _ in range(options.rounds):
                prompt = tuple(draw.randrange(1000, VOCABULARY) for _ in range(tokens))
                time.sleep(PAUSE_SECONDS)
                server.append(first_token(client, prompt))
                for chunk, seconds in library.items():
                    time.sleep(PAUSE_SECONDS)
                    seconds.append(first_token_of_library(model, prompt, chunk))
            medians = {chunk: statistics.median(times) for chunk, times in library.items()}
            best = library[min(medians, key=lambda chunk: medians[chunk])]
            ratio = statistics.median(s / alone for s, alone in zip(server, best, strict=True))
            took = statistics.median(server)
            alone = ", ".join(f"{1000 * s:.1f} in {chunk}" for chunk, s in medians.items())
            print(
                f"{tokens:5} tokens: server {1000 * took:7.1f} ms, library {alone} ms in chunks; "
                f"ratio {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
