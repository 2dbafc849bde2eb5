"""Clients that are closed, closed again, or inherited by a fork."""

from __future__ import annotations

import os

import pytest

from llm_serving_engine.clients import Client
from llm_serving_engine.clients.aio import AsyncClient
from llm_serving_engine.clients.fork_guard import ForkGuard


def test_closing_again_does_nothing() -> None:
    client = Client("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed; make another"):
        client.generate("hello")
    with pytest.raises(RuntimeError, match="closed; make another"):
        next(client.watch_scheduler_state())


async def test_closing_an_asyncio_client_again_does_nothing() -> None:
    client = AsyncClient("127.0.0.1:1")
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed; make another"):
        await client.generate("hello")
    with pytest.raises(RuntimeError, match="closed; make another"):
        client.stream("hello")


def test_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client("127.0.0.1:1") as client:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            for call in (client.generate, client.stream, client.tokenize):
                with pytest.raises(RuntimeError, match="make a client in the process that uses"):
                    call("hello")
        assert not client._fork_guard.inherited


def test_another_process_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited, own = ForkGuard(), ForkGuard()
    assert own.close()
    assert not own.close()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert not inherited.close()
