"""CPU time that a streamed token takes: in the server, in its runner, and in the client.

    .venv/bin/python tests/benchmarks/server_cpu.py MODEL \
        [--clients 16] [--tokens 200] [--rounds 5] [--http]

Starts a server of its own. CPU time depends little on what else the machine
does, unlike any time by the clock.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from load import stream_all, stream_all_http
from serve_process import serve_process

PROMPT_TOKENS = 16


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--http", action="store_true", help="by server-sent events")
    options = parser.parse_args()
    with serve_process("--model", options.model, quiet=True) as server:
        processes = (psutil.Process(server.process.pid), server.runner)
        rounds = []
        for number in range(options.rounds + 1):
            before = [*map(cpu_seconds, processes), time.process_time()]
            load = stream_all_http if options.http else stream_all
            address = server.http if options.http else server.address
            uvloop.run(
                load(
                    address,
                    options.clients,
                    prompt_tokens=PROMPT_TOKENS,
                    max_tokens=options.tokens,
                )
            )
            after = [*map(cpu_seconds, processes), time.process_time()]
            # An event of HTTP can hold several tokens, and does not say so.
            tokens = options.clients * options.tokens
            if number:  # the first one warms up
                rounds.append([(b - a) / tokens * 1000 for a, b in zip(before, after, strict=True)])
    print(f"{options.clients} clients, {options.tokens} tokens each, ms of CPU for a token:")
    for name, values in zip(("server", "runner", "client"), zip(*rounds, strict=True), strict=True):
        print(f"  {name}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
