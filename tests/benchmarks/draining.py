"""Tokens a second of streams that began together, end one after the other, and are not replaced.

    .venv/bin/llm-serving-engine serve --model MODEL    # in another terminal
    .venv/bin/python tests/benchmarks/draining.py \
        [--address 127.0.0.1:50051] [--longest 400] [--seeds 1,2,3]

Each stream that ends leaves a hole between the rows of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time

from llm_serving_engine.clients import AsyncClient

STREAMS = 16


async def drain(address: str, longest: int, seed: int) -> float:
    """Let streams of all lengths up to the longest end in a random order; returns tokens/s."""
    lengths = [longest * (number + 1) // STREAMS for number in range(STREAMS)]
    random.Random(seed).shuffle(lengths)

    async with AsyncClient(address) as client:

        async def one(number: int, length: int) -> int:
            prompt = f"{seed} {number} A tale of a far land:"
            stream = client.stream(prompt, max_tokens=length, ignore_eos=True, temperature=0.0)
            return sum([len(delta.token_ids) async for delta in stream])

        start = time.monotonic()
        tokens = sum(await asyncio.gather(*map(one, range(STREAMS), lengths)))
        return tokens / (time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--longest", type=int, default=400)
    parser.add_argument("--seeds", default="1,2,3")
    options = parser.parse_args()
    for seed in map(int, options.seeds.split(",")):
        rate = asyncio.run(drain(options.address, options.longest, seed))
        print(f"seed {seed}: {rate:.1f} tokens/s")


if __name__ == "__main__":
    main()
