"""ListModels and GetModel."""

from __future__ import annotations

from typing import Any

import grpc

from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.encoding import encode_model
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.v1 import models_pb2, models_pb2_grpc

SERVICE = models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """Describes the models of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(  # noqa: N802
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """All models, by name."""
        return models_pb2.ListModelsResponse(
            models=[self._encode(model) for model in self._catalog]
        )

    async def GetModel(  # noqa: N802
        self, request: models_pb2.GetModelRequest, context: Context
    ) -> models_pb2.GetModelResponse:
        """One model. Raises UnknownModel."""
        model = self._catalog.get(request.name)
        return models_pb2.GetModelResponse(model=self._encode(model))

    def _encode(self, model: ServedModel) -> models_pb2.Model:
        return encode_model(model, is_default=model is self._catalog.default)
