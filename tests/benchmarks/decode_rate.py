"""Decoding through the whole server, against llama.cpp's own loop at the same shape.

    .venv/bin/python tests/benchmarks/decode_rate.py MODEL LLAMA_BATCHED_BENCH \
        [--clients 16] [--rounds 5]

Alternates the two; LLAMA_BATCHED_BENCH is the program of that name, built from
the source of the installed llama-cpp-python. It neither chooses tokens nor
sends them to anybody.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

import uvloop
from load import decode_rate, stream_all
from serve_process import serve_process

PROMPT_TOKENS = 64
CONTEXT = 2048  # of each sequence, as the server's default


def batched_bench(program: str, model: str, sequences: int, tokens: int, threads: int) -> float:
    """Its decode tokens a second."""
    command = [program, "-m", model, "-t", str(threads), "-tb", str(threads), "-fa", "on"]
    command += ["-c", str(sequences * CONTEXT), "-npp", str(PROMPT_TOKENS)]
    command += ["-ntg", str(tokens), "-npl", str(sequences)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("|") for line in output.splitlines() if line.startswith("|")]
    column = [name.strip() for name in rows[0]].index("S_TG t/s")
    return float(rows[-1][column])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("program", metavar="LLAMA_BATCHED_BENCH")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    ratios = []
    with serve_process("--model", options.model, quiet=True) as server:
        for _ in range(options.rounds):
            streams = uvloop.run(
                stream_all(
                    server.address,
                    options.clients,
                    prompt_tokens=PROMPT_TOKENS,
                    max_tokens=options.tokens,
                )
            )
            ours = decode_rate(streams)
            theirs = batched_bench(
                options.program, options.model, options.clients, options.tokens, options.threads
            )
            ratios.append(ours / theirs)
            print(f"server {ours:.1f}, llama-batched-bench {theirs:.1f}: {ours / theirs:.3f}")
    print(f"median {statistics.median(ratios):.3f} of {options.clients} sequences")


if __name__ == "__main__":
    main()
