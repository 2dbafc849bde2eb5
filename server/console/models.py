"""Provides the console's model page: GetModel's data, memory, and the build's self-check."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import JSONResponse

from llm_serving_engine.backends.build_record import BuildRecord, read_build_record
from llm_serving_engine.backends.registry import LLAMA_CPP
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.encoding import encode_model
from llm_serving_engine.server.model import ServedModel

# The CPU's whole list of flags is of no use to a reader.
_BUILD_FIELDS = (
    "features",
    "cost",
    "compiler",
    "cpu",
    "library_features",
    "checks",
    "attempts",
)


class ModelsData:
    """Provides the data of the models and of the build that runs them."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def show(self, request: Request) -> JSONResponse:
        """Return all models, and the build of llama.cpp if one of them uses it."""
        build = None
        if any(model.backend == LLAMA_CPP for model in self._catalog):
            build = _described(await asyncio.to_thread(read_build_record))
        models = [self._model(model) for model in self._catalog]
        headers = {"cache-control": "no-store"}
        return JSONResponse({"models": models, "build": build}, headers=headers)

    def _model(self, model: ServedModel) -> dict[str, Any]:
        message = encode_model(model, is_default=model is self._catalog.default)
        content: dict[str, Any] = MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        if model.report is not None:
            content["memory_parts"] = dict(model.report.memory_bytes)
        return content


def _described(record: BuildRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    content = record.to_json()
    return {name: content[name] for name in _BUILD_FIELDS}
