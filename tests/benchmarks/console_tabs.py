"""CPU time that the console's pages take from the server while they watch it under load.

    .venv/bin/python tests/benchmarks/console_tabs.py MODEL [--tabs 20] [--clients 16] [--rounds 4]

Starts a server of its own, and answers the same requests with and without pages
that watch, in turn. What the pages cost is the difference of the server's CPU time,
as a part of a core over the time that they watched.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from pathlib import Path

import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from load import stream_all
from serve_process import serve_process
from server_cpu import cpu_seconds

PROMPT_TOKENS = 16


class Tab:
    """A page that watches: it reads all that the server sends."""

    def __init__(self, address: str) -> None:
        self._host, self._port = address.removeprefix("http://").split(":")
        self.bytes = 0

    async def watch(self) -> None:
        """Read until cancelled."""
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        writer.write(f"GET /console/data/scheduler HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        try:
            while data := await reader.read(65536):
                self.bytes += len(data)
        finally:
            writer.close()


async def measured(
    address: str, http: str, server: psutil.Process, tabs: int, clients: int, tokens: int
) -> tuple[float, float, float]:
    """The server's CPU seconds, the seconds by the clock, and the bytes to each page."""
    pages = [Tab(http) for _ in range(tabs)]
    tasks = [asyncio.create_task(page.watch()) for page in pages]
    await asyncio.sleep(0.5)
    began, before = time.monotonic(), cpu_seconds(server)
    await stream_all(address, clients, prompt_tokens=PROMPT_TOKENS, max_tokens=tokens)
    took, used = time.monotonic() - began, cpu_seconds(server) - before
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    return used, took, sum(page.bytes for page in pages) / max(tabs, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tabs", type=int, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=300, help="of each answer")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    with serve_process("--model", options.model, quiet=True) as server:
        process = psutil.Process(server.process.pid)
        shares, sizes = [], []
        for number in range(options.rounds + 1):
            used, seconds = [], 0.0
            for tabs in (0, options.tabs):
                cpu, took, size = uvloop.run(
                    measured(
                        server.address,
                        server.http,
                        process,
                        tabs,
                        options.clients,
                        options.tokens,
                    )
                )
                used.append(cpu)
                seconds = took
            if number:  # the first one warms up
                shares.append(100 * (used[1] - used[0]) / seconds)
                sizes.append(size / seconds / 1000)
    print(f"{options.tabs} pages, {options.clients} clients: % of a core, and kB/s to each page")
    print(f"  {statistics.median(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})")
    print(f"  {statistics.median(sizes):.1f}")


if __name__ == "__main__":
    main()
