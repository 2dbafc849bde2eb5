"""The console's paths: the page at `/`, its files and its data below `/console`."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from llm_serving_engine.server.api.endpoint import Endpoint
from llm_serving_engine.server.api.http_exchange import HttpExchange
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.console.feed import SchedulerFeed
from llm_serving_engine.server.console.models import ModelsData
from llm_serving_engine.server.console.pages import (
    CACHING,
    SECURITY_HEADERS,
    STATIC,
    ConsoleFiles,
)
from llm_serving_engine.server.operations_service import explained
from llm_serving_engine.server.request_history.request_history import RequestHistory
from llm_serving_engine.server.scheduler_view import SchedulerView

DATA = "/console/data"


class Console:
    """The page and what feeds it."""

    def __init__(
        self,
        catalog: Catalog,
        views: Mapping[str, SchedulerView],
        histories: Mapping[str, RequestHistory],
        config: HttpConfig,
    ) -> None:
        """Show the models of a catalog, by their views and histories."""
        self._catalog = catalog
        self._histories = histories
        self._config = config
        self.feeds = {
            model.name: SchedulerFeed(
                model,
                views[model.name],
                histories[model.name],
                config.console_interval_seconds,
                config.console_watchers_max,
            )
            for model in catalog
        }

    def routes(self) -> list[BaseRoute]:
        """Every route of the console."""
        watch = Endpoint(self.watch, self._config)
        explain = Endpoint(self.explain, self._config)
        return [
            Route("/", show_page, methods=["GET"]),
            Route(f"{DATA}/models", ModelsData(self._catalog).show, methods=["GET"]),
            Route(f"{DATA}/scheduler", watch, methods=["GET"]),
            Route(f"{DATA}/scheduler/{{model:path}}", watch, methods=["GET"]),
            Route(f"{DATA}/requests/{{id:path}}", explain, methods=["GET"]),
            Mount("/console", ConsoleFiles()),
        ]

    async def watch(self, exchange: HttpExchange) -> None:
        """Stream a scheduler's state as server-sent events. Raises UnknownModel or LimitReached."""
        model = self._catalog.get(exchange.path_parameters.get("model", ""))
        await self.feeds[model.name].watch(exchange)

    async def explain(self, exchange: HttpExchange) -> None:
        """Explain a request like ExplainRequest. Raises RequestError."""
        request_id = exchange.path_parameters["id"]
        found = [name for name, history in self._histories.items() if history.of_id(request_id)]
        name = found[0] if found else self._catalog.default.name
        answer = explained(request_id, name, self._histories[name])
        await exchange.answer(
            MessageToDict(answer, preserving_proto_field_name=True),
            headers=(("cache-control", "no-store"),),
        )

    def close(self) -> None:
        """End all watching."""
        for feed in self.feeds.values():
            feed.close()


async def show_page(request: Request) -> Response:
    """The page."""
    return FileResponse(STATIC / "index.html", headers={**SECURITY_HEADERS, **CACHING})
