"""`GET /v1/models`, and one of them."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.server.api.errors import http_error, openai_body
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.default_sampling import scalars
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.not_found import UnknownModel

OWNER = "llm-serving-engine"


class Models:
    """Tells the models there are."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._created = int(time.time())

    async def list(self, request: Request) -> JSONResponse:
        """All models."""
        content: dict[str, Any] = {
            "object": "list",
            "data": [self._described(model) for model in self._catalog],
        }
        # Codex wants this, and tells itself apart by this parameter.
        if "client_version" in request.query_params:
            content["models"] = []
        return JSONResponse(content)

    async def show(self, request: Request) -> JSONResponse:
        """Return one model, whose name may contain slashes, or all models without a name."""
        name = request.path_params["name"]
        if not name:
            return await self.list(request)
        try:
            model = self._catalog.get(name)
        except UnknownModel as error:
            answer = http_error(error)
            return JSONResponse(openai_body(answer), answer.status)
        return JSONResponse(self._described(model))

    def _described(self, model: ServedModel) -> dict[str, Any]:
        try:
            context = model.context_per_sequence
        except RequestError:  # it is being loaded
            context = None
        return {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": OWNER,
            "max_model_len": context,
            "aliases": list(model.aliases),
            "default_sampling": scalars(model.default_sampling),
        }
