"""Time to the first token of lone prompts around multiples of 64 tokens.

    .venv/bin/llm-serving-engine serve --model MODEL    # in another terminal
    .venv/bin/python tests/benchmarks/prompt_lengths.py [--address 127.0.0.1:50051] [--rounds 4]

No length should cost more than 1.1 of the next longer multiple of 64: the ends of
prompts are padded where that is faster.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from llm_serving_engine.clients.client import Client
from llm_serving_engine.clients.requests import Priority

MULTIPLES = (64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024)
AROUND = (-32, -16, -1, 0, 1)
VOCABULARY = 40_000


def first_token(client: Client, prompt: tuple[int, ...], priority: Priority = "normal") -> float:
    started = time.perf_counter()
    for _ in client.stream(
        prompt, max_tokens=1, temperature=0.0, ignore_eos=True, priority=priority
    ):
        break
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    draw = random.Random(0)
    lengths = [multiple + distance for multiple in MULTIPLES for distance in AROUND]
    times: dict[int, list[float]] = {length: [] for length in lengths}
    with Client(options.address) as client:
        for _ in range(options.rounds):
            for length in lengths:
                prompt = tuple(draw.randrange(1000, VOCABULARY) for _ in range(length))
                times[length].append(first_token(client, prompt))
    medians = {length: statistics.median(seconds) for length, seconds in times.items()}
    for length, seconds in medians.items():
        longer = medians.get(-(-length // 64) * 64)
        ratio = f"{seconds / longer:.2f}" if longer else "-"
        print(f"{length:5} tokens: {1000 * seconds:7.1f} ms; of the next multiple: {ratio}")


if __name__ == "__main__":
    main()
