"""Servers that tests share: each is started once, on the one event loop of all tests here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from running_server import HTTP, SAME_BITS, RunningServer, serving
from trace_collector import Collector, collecting

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # gRPC's asyncio side wants one event loop, and so do servers that outlive a test.
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripted() -> AsyncIterator[RunningServer]:
    """The scripted backend, in a process of its own."""
    async with serving(http=HTTP) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tiny(tiny_quantized_model_path: Path) -> AsyncIterator[RunningServer]:
    """The tiny model; 16 sequences of 256 tokens."""
    runner = {"sequences": 16, "context_per_sequence": 256, "threads": 1}
    async with serving(
        tiny_quantized_model_path, model={"runner": runner}, http=HTTP, scheduler=SAME_BITS
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def builtin(builtin_model_path: Path) -> AsyncIterator[RunningServer]:
    """The built-in model; 16 sequences of 256 tokens."""
    # One thread: two that wait for each other crawl where a core is taken by something else.
    runner = {"sequences": 16, "context_per_sequence": 256, "threads": 1}
    async with serving(
        builtin_model_path, model={"runner": runner}, scheduler=SAME_BITS
    ) as running:
        yield running


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the environment names."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    with collecting() as (collector, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        yield collector


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder with a short path, as a socket's path has 103 bytes at most on some systems."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)
