"""Loads the model, with retries: a file can be replaced, and memory can become free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llm_serving_engine.backends.backend import LoadReport
from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound
from llm_serving_engine.backends.process.host import DiedLoading
from llm_serving_engine.server.app import App

DELAY_FIRST_SECONDS = 1.0


async def load_with_retries(app: App, on_failure: Callable[[str], None]) -> LoadReport:
    """Load the server's model; retry with back-off if its file cannot be loaded.

    The server answers UNAVAILABLE meanwhile. The delays double up to
    `model.supervision.restart_delay_seconds_max`.

    Args:
        app: A server that listens.
        on_failure: Called with the reason of a failed attempt, unless the attempt
            before had the same reason.

    Raises:
        LoadError: The configuration cannot be met, so a retry would fail as well.
        LibraryMissing: The model's library is missing.
    """
    delay, told = DELAY_FIRST_SECONDS, ""
    delay_max = app.config.model.supervision.restart_delay_seconds_max
    while True:
        try:
            return await app.load()
        except (ModelFileError, ModelNotFound, DiedLoading) as error:
            reason = str(error)
        if reason != told:
            told = reason
            on_failure(reason)
        delay = min(delay, delay_max)
        app.model.retries_in(delay)
        await asyncio.sleep(delay)
        delay *= 2
