"""Long runs: `make endurance`. Each prints what it measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytest_asyncio

HERE = Path(__file__).parent


@pytest.fixture
def large_model_path(builtin_model_path: Path) -> Path:
    """The file that ENDURANCE_MODEL names, or else the built-in model's."""
    return Path(os.environ.get("ENDURANCE_MODEL") or builtin_model_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            # gRPC's asyncio side wants one event loop.
            if pytest_asyncio.is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.timeout(3600))
