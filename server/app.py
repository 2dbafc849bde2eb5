"""Composes one server from its configuration, and runs it until its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from grpc_health.v1 import health_pb2_grpc

from llm_serving_engine.backends.backend import LoadReport
from llm_serving_engine.backends.process.runner_loss import RunnerLoss
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.step import Capabilities
from llm_serving_engine.server import (
    health,
    inference_service,
    model_service,
    operations_service,
)
from llm_serving_engine.server.addresses import Address
from llm_serving_engine.server.api.fingerprint import fingerprint
from llm_serving_engine.server.api.routes import api_routes
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import ConfigError, ServerConfig
from llm_serving_engine.server.console.routes import Console
from llm_serving_engine.server.engine.observer import Observer
from llm_serving_engine.server.grpc_listener import listen, make_server
from llm_serving_engine.server.health import HealthService
from llm_serving_engine.server.http import make_app
from llm_serving_engine.server.http_listener import HttpListener
from llm_serving_engine.server.inference_service import InferenceService
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.model_service import ModelService
from llm_serving_engine.server.operations_service import OperationsService
from llm_serving_engine.server.reflection import add_reflection
from llm_serving_engine.server.refusal_log import RefusalLog
from llm_serving_engine.server.request_history.request_history import RequestHistory
from llm_serving_engine.server.scheduler_view import SchedulerView
from llm_serving_engine.server.service.inference import Inference
from llm_serving_engine.server.simulator.trace_recorder import TraceRecorder
from llm_serving_engine.server.telemetry.logs import log_request
from llm_serving_engine.server.telemetry.metrics import Metrics
from llm_serving_engine.server.telemetry.tracing import RequestTracer
from llm_serving_engine.v1 import inference_pb2_grpc, models_pb2_grpc, operations_pb2_grpc

_logger = logging.getLogger(__name__)

SERVICES = (inference_service.SERVICE, model_service.SERVICE, operations_service.SERVICE)
# Time for the last messages of drained streams to leave.
FLUSH_SECONDS = 2.0


class App:
    """Starts and stops all parts of a server process.

    It listens as soon as it is started, and answers UNAVAILABLE until the
    model is loaded, so that a balancer or a probe sees what goes on.

    Attributes:
        given_up: Done, with one line that says why, when it can never answer again.
    """

    def __init__(self, config: ServerConfig, model: ServedModel) -> None:
        """Compose a server for a model that is not loaded yet.

        Must be called on the event loop that it is to run on.

        Raises:
            ConfigError: A port cannot be had, or the trace's file.
            ValueError: An OTEL_* variable makes no sense.
        """
        self.config = config
        self.metrics = Metrics()
        self.tracer = RequestTracer.from_environment()
        self.model = model
        self.model.on_state = self._model_changed
        self.model.on_loss = self._runner_lost
        self.model.on_given_up = self._given_up
        self.given_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.catalog = Catalog([self.model])
        self.inference = Inference(self.catalog, config.generation, self.tracer, self.metrics)
        self._views = {model.name: SchedulerView()}
        self._histories = {model.name: RequestHistory(config.explained_requests_max)}
        self._console = Console(self.catalog, self._views, self._histories, config.http)
        self.health = HealthService(("", *SERVICES, model.name))
        self._operations = OperationsService(
            self.catalog,
            self._views,
            self._histories,
            config.watch_interval_min_seconds,
            config.watchers_max,
        )
        self._grpc = make_server(
            config.grpc,
            config.generation.prompt_bytes_max,
            lambda error: self.metrics.refused("", error),
        )
        self._add_services()
        self.grpc_addresses = listen(self._grpc, config.grpc)
        self._http = None
        if config.http.enabled:
            routes = [
                *api_routes(
                    self.inference, self.catalog, config.http, fingerprint(model), self._refused
                ),
                *self._console.routes(),
            ]
            app = make_app(self.metrics, self.health.serving, config.http, routes)
            self._http = HttpListener(app, config.http, self._http_refused)
        self._refusal_log = RefusalLog()
        self._stopping = False
        self._hurried = asyncio.Event()
        self.metrics.set_model_ready(model.name, False)
        self._watch_processes()
        self.metrics.watch_scheduler(model.name, self._scheduler)
        self._trace = _open_trace(config)

    @property
    def grpc_port(self) -> int:
        """The first port of the gRPC listener; 0 if it listens only on Unix sockets."""
        return next((address.port for address in self.grpc_addresses if address.port), 0)

    @property
    def http_addresses(self) -> tuple[Address, ...]:
        """The addresses of the HTTP listener; empty if HTTP is disabled."""
        return () if self._http is None else self._http.addresses

    @property
    def http_port(self) -> int | None:
        """The first port of the HTTP listener; None if HTTP is disabled."""
        return None if self._http is None else self._http.port

    async def start(self) -> None:
        """Begin to listen."""
        await self._grpc.start()
        if self._http is not None:
            self._http.start()

    async def load(self) -> LoadReport:
        """Load the model. Raises LoadError or ModelError."""
        return await self.model.load(self._observers)

    async def stop(self, drain: float | None = None) -> None:
        """Drain and end.

        First the health says NOT_SERVING, and requests are still taken for
        `drain_notice_seconds`. Then clients are told to go elsewhere (GOAWAY),
        new requests are refused, and those that run have `drain` seconds.
        Without a notice GOAWAY comes last: clients that have heard of nothing
        are refused with UNAVAILABLE, and with the time after which to try again.

        Args:
            drain: In seconds; default: `drain_seconds`.
        """
        drain = self.config.drain_seconds if drain is None else drain
        self._stopping = True
        self.health.set_all(False)
        if await self._wait_for_balancers():
            closing = asyncio.create_task(self._grpc.stop(drain + FLUSH_SECONDS))
        else:
            closing = asyncio.create_task(asyncio.sleep(0))
        await self.model.drain(drain)
        self.health.close()
        self._operations.close()
        self._console.close()
        await self._grpc.stop(FLUSH_SECONDS)
        await closing
        await self.model.close()
        if self._trace is not None:
            self._trace.close(self._scheduler())
        if self._http is not None:
            await self._http.stop()
        await asyncio.to_thread(self.tracer.shutdown)

    async def hurry(self) -> None:
        """Make `stop` end all running requests with UNAVAILABLE at once."""
        self._hurried.set()
        await self.model.drain(0)

    async def _wait_for_balancers(self) -> bool:
        """Give the notice. Whether one was given."""
        seconds = self.config.drain_notice_seconds
        if not seconds or not self.model.serving or self.given_up.done():
            return False
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), seconds)
        return True

    def _add_services(self) -> None:
        server = self._grpc
        inference = InferenceService(self.inference, self.config.grpc)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self.catalog), server)
        operations_pb2_grpc.add_OperationsServiceServicer_to_server(self._operations, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        add_reflection(server, (*SERVICES, health.SERVICE))

    def _observers(self, capabilities: Capabilities) -> tuple[Observer, ...]:
        name = self.model.name
        metrics = self.metrics.observer(name, capabilities.slots)
        traces = () if self._trace is None else (self._trace,)
        history = self._histories[name].observer(self._scheduler)
        return (metrics, self._views[name], history, *traces)

    def _scheduler(self) -> Scheduler | None:
        engine = self.model.loaded_engine
        return None if engine is None else engine.scheduler

    def _watch_processes(self) -> None:
        model, processes = self.model, self.metrics.processes
        limit = self.config.model.runner.memory_bytes_max
        processes.watch_memory(model.name, lambda: model.runner_memory_bytes, limit)
        buffer_max = self.config.scheduler.stream_buffer_tokens_max
        processes.watch_streams(model.name, self._tokens_behind, buffer_max)

    def _tokens_behind(self) -> int:
        engine = self.model.loaded_engine
        return 0 if engine is None else engine.tokens_behind

    def _refused(self, route: str, error: RequestError) -> None:
        """Log and count an HTTP request that the service never saw."""
        log_request(rpc=route, status_code=error.code, error=error)
        self.metrics.refused("", error)

    def _http_refused(self, reason: str, status: int) -> None:
        """Log and count what a limit of the HTTP listener refuses."""
        self._refusal_log.refused(reason, status)
        self.metrics.http_refused(reason, status)

    def _runner_lost(self, model: ServedModel, loss: RunnerLoss) -> None:
        self.metrics.processes.lost(model.name, loss.reason)

    def _given_up(self, message: str) -> None:
        if not self.given_up.done():
            self.given_up.set_result(message)

    def _model_changed(self, model: ServedModel) -> None:
        self.metrics.set_model_ready(model.name, model.serving)
        for name in ("", *SERVICES, model.name):
            self.health.set(name, model.serving and not self._stopping)


def _open_trace(config: ServerConfig) -> TraceRecorder | None:
    if not config.trace_file:
        return None
    try:
        return TraceRecorder(Path(config.trace_file), config.trace_bytes_max)
    except OSError as error:
        raise ConfigError(f"trace_file: {config.trace_file}: {error.strerror}") from error
