"""Time to the first token of a short urgent prompt, while a long one of a lower class is computed.

    .venv/bin/llm-serving-engine serve --model MODEL    # in another terminal
    .venv/bin/python tests/benchmarks/urgent_prompt.py [--address 127.0.0.1:50051] [--rounds 8]

The server is idle otherwise. The urgent prompt should come at most one step target later
than on an idle server.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time

from prompt_lengths import VOCABULARY, first_token

from llm_serving_engine.clients.client import Client

LONG, SHORT = 1990, 32
# The long prompt's computation has begun by then, and goes on for longer than the short one takes.
PAUSES_SECONDS = (0.15, 0.3, 0.45, 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    draw = random.Random(0)

    def prompt(tokens: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1000, VOCABULARY) for _ in range(tokens))

    def low(client: Client, tokens: tuple[int, ...]) -> None:
        for _ in client.stream(tokens, max_tokens=1, temperature=0.0, priority="low"):
            pass

    idle, beside = [], []
    with Client(options.address) as client:
        first_token(client, prompt(SHORT))
        for number in range(options.rounds):
            idle.append(first_token(client, prompt(SHORT), "high"))
            long_one = threading.Thread(target=low, args=(client, prompt(LONG)))
            long_one.start()
            time.sleep(PAUSES_SECONDS[number % len(PAUSES_SECONDS)])
            beside.append(first_token(client, prompt(SHORT), "high"))
            assert long_one.is_alive()
            long_one.join()
    for name, seconds in (("idle", idle), ("beside a long prompt", beside)):
        print(
            f"{name}: median {1000 * statistics.median(seconds):.0f} ms, "
            f"longest {1000 * max(seconds):.0f} ms"
        )


if __name__ == "__main__":
    main()
