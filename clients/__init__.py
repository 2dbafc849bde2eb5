"""The Python client library, the commands that talk to a server, and the load generator.

    from llm_serving_engine.clients import Client

    with Client("127.0.0.1:50051") as client:
        for delta in client.stream("Once upon a time", max_tokens=32):
            print(delta.text, end="", flush=True)

Names are imported when first used, so that the commands can say `--help`
without gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_serving_engine.clients.aio import AsyncClient, AsyncStream
    from llm_serving_engine.clients.catalog import Capabilities, Model
    from llm_serving_engine.clients.client import Client
    from llm_serving_engine.clients.errors import (
        ConnectionFailed,
        DeadlineExceeded,
        InvalidArgument,
        ModelNotFound,
        PermissionDenied,
        RequestCancelled,
        ResourceExhausted,
        RetryableError,
        RunnerFailed,
        ServerError,
        ServingError,
        Unauthenticated,
        Unavailable,
    )
    from llm_serving_engine.clients.operations import (
        LatencyState,
        Percentiles,
        QueueState,
        SchedulerState,
        SchedulerTotals,
        Slot,
        StepState,
        TenantState,
    )
    from llm_serving_engine.clients.requests import GenerateOptions, Message
    from llm_serving_engine.clients.results import (
        Delta,
        Finished,
        Generation,
        PositionLogprobs,
        Started,
        Timings,
        Tokenization,
        TokenLogprob,
        Usage,
    )
    from llm_serving_engine.clients.stream import Stream

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Capabilities",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Delta",
    "Finished",
    "GenerateOptions",
    "Generation",
    "InvalidArgument",
    "LatencyState",
    "Message",
    "Model",
    "ModelNotFound",
    "Percentiles",
    "PermissionDenied",
    "PositionLogprobs",
    "QueueState",
    "RequestCancelled",
    "ResourceExhausted",
    "RetryableError",
    "RunnerFailed",
    "SchedulerState",
    "SchedulerTotals",
    "ServerError",
    "ServingError",
    "Slot",
    "Started",
    "StepState",
    "Stream",
    "TenantState",
    "Timings",
    "TokenLogprob",
    "Tokenization",
    "Unauthenticated",
    "Unavailable",
    "Usage",
]


# In the order in which a name is looked for: those without gRPC first.
_MODULES = ("errors", "results", "catalog", "requests", "operations", "stream", "client", "aio")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module_name in _MODULES:
            module = importlib.import_module(f"{__name__}.{module_name}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
