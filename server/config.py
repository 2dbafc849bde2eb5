"""The configuration: one frozen tree, from flags, environment, and a file, in that order.

A setting `a.b` is the flag's value where `serve` has a flag for it, else the
environment variable LLM_SERVING_ENGINE_A__B, else `b` in the table `[a]` of
the TOML file, else its default. What is not known, or out of range, is an
error that names the setting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from llm_serving_engine.backends import registry
from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.process.supervision import Supervision
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.server.addresses import check_address, check_host
from llm_serving_engine.server.setting_names import (
    did_you_mean,
    setting_names,
    unknown_variables,
)
from llm_serving_engine.server.validation_message import plain_message

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What pydantic calls a name that a part does not have.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
# What pydantic says where something else stands in the place of a table.
_TABLES = ("model_type", "dataclass_type", "dict_type")
ENVIRONMENT_PREFIX = "LLM_SERVING_ENGINE_"

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Timeout = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, AfterValidator(check_host)]
ListenAddress = Annotated[str, AfterValidator(check_address)]


_file_content: ContextVar[dict[str, Any]] = ContextVar("file_content", default={})  # noqa: B039


def _text(value: object) -> str:
    """Accept any text: pydantic's own type refuses a path that is not UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


class ConfigError(Exception):
    """The configuration is invalid; the message has one line per problem."""


class Part(BaseModel):
    """A part of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Part):
    """The served model and its runner's settings."""

    reference: Annotated[str, PlainValidator(_text)] = "builtin"
    """A path to a GGUF or GGML file, hf:OWNER/REPO[/FILE], hf:OWNER/REPO:QUANT, the
    https:// address of a GGUF file, or builtin."""
    name: str = ""
    """What requests call it. Empty: the file's name."""
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """More names by which requests may call it; "*" stands for any characters, as in "gpt-*":
    for programs whose model's name cannot be changed."""
    backend: Annotated[str, AfterValidator(registry.check_name)] = registry.AUTO
    """What runs it: "llama.cpp", "ctransformers" (sequences in turn, not in batches), "scripted"
    (no model, answers by arithmetic, for tests of clients), or the import path "module:Class".
    "auto" is llama.cpp, and ctransformers for the legacy GGML files that only it can read."""
    chat_template: str = ""
    """A file with a Jinja chat template, to use instead of the model file's. Empty: the file's."""
    template_arguments: dict[str, Any] = {}
    """Variables that the chat template gets unless a request sets them, such as enable_thinking."""
    runner: BackendConfig = BackendConfig()
    """Sequences, context, threads, and cache; what is left out is chosen from the machine."""
    supervision: Supervision = Supervision()
    """When the runner is given up, and how soon it is replaced."""


class GenerationConfig(Part):
    """Defaults and ceilings of requests."""

    max_tokens_default: Positive = 256
    """Tokens to produce where a request does not say. More makes forgetful callers costly."""
    max_tokens_ceiling: Positive = 8192
    """Tokens that a request may ask for at most."""
    prompt_bytes_max: Positive = 1_048_576
    """Text of a prompt, or of all messages of a chat. Bounds the time to tokenize it."""
    text_threads: Positive = 2
    """Threads for templates and for tokenizing long prompts, beside the event loop's own. More
    take time from the runner where many long prompts come at once."""
    text_requests_max: Positive = 64
    """Requests whose text may be tokenized or wait for that; they count as queued. More are
    refused."""
    text_bytes_max: Positive = 16 * 1024 * 1024
    """Text of all of them together."""
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    """Default of Sampling.temperature. Default: what the model's file recommends, or else 0.8."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Default of Sampling.top_p. Default: what the model's file recommends, or else 0.95."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Default of Sampling.min_p. Default: what the model's file recommends, or else 0.05."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Default of Sampling.top_k. Default: what the model's file recommends, or else 40."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    """Default of Sampling.repetition_penalty. Default: what the model's file recommends, or else
    1."""


class QuotaConfig(Part):
    """A tenant's quota: a token bucket that counts prompts plus max_tokens.

    Tokens that a request asked for and did not take go back.
    """

    tokens_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Tokens that a tenant may ask for in the long run; 0 for no quota."""
    burst_tokens: Positive = 100_000
    """What it may ask for at once after a pause."""
    tenants_max: Positive = 10_000
    """Tenants whose buckets are remembered. Beyond, those that asked longest ago are full again."""


class GrpcConfig(Part):
    """The gRPC listener."""

    host: Host = "127.0.0.1"
    """Address to listen on, or unix:PATH. Anything but loopback lets others in: there is no
    authentication."""
    port: Port = 50051
    """Port to listen on; 0 for any free one."""
    listen: tuple[ListenAddress, ...] = ()
    """More addresses: HOST:PORT, [IPV6]:PORT, or unix:PATH."""
    message_bytes_max: Positive = 16 * 1024 * 1024
    """A request message. Larger ones are refused before they are parsed, and those of more than
    twice the size before they are read."""
    message_fields_max: Positive = 8192
    """Fields of a request message, those of the messages in it included; 128 bytes of token ids
    count as one. A chat message has about 3. Bounds the time to parse a request."""
    metadata_bytes_max: Positive = 16 * 1024
    """Metadata of a request, 32 bytes for each entry added. More is refused, and more than twice
    as much by gRPC's library."""
    connections_max: Positive = 4096
    """Open connections. Each costs some tens of kilobytes; more are turned away."""
    streams_per_connection_max: Positive = 4096
    """RPCs that one connection may have open; its client holds back more. Each costs memory."""
    unsent_requests_max: Positive = 64
    """Requests whose message may be on its way for more than a second, streams of reflection that
    are open among them; beyond it, those that began first are ended. Each holds what has come of
    it: twice message_bytes_max at most."""
    request_timeout_seconds: Timeout = 30.0
    """How long a request's message may take to arrive. Longer is for slow lines, and attackers."""
    write_timeout_seconds: Timeout = 30.0
    """How long a stream may be left unread once the connection's buffers are full; then it ends."""
    headers_seconds: Timeout = 5.0
    """How soon an accepted request's headers are sent, though its answer has not begun: load
    balancers cut streams that are silent. Shorter than their limit for a first byte."""
    keepalive_seconds: Annotated[float, Field(ge=1)] = 8.0
    """Silence of a connection after which the client is asked whether it is alive (an HTTP/2
    ping). Shorter than the time after which proxies cut silent connections."""
    keepalive_timeout_seconds: Annotated[float, Field(ge=1)] = 20.0
    """How long it may take to answer that."""
    ping_interval_min_seconds: Annotated[float, Field(ge=0)] = 5.0
    """Clients that ping more often than this are cut off; low, as streams are silent in prefill."""
    connection_age_max_seconds: Annotated[float, Field(ge=1)] | None = None
    """Connections are asked to reconnect at this age, which lets a balancer spread them anew."""
    connection_age_grace_seconds: Annotated[float, Field(ge=1)] = 3600.0
    """How long RPCs may go on after that: at least as long as the longest generation."""


class HttpConfig(Part):
    """The HTTP listener: the OpenAI-style API, metrics, and health."""

    enabled: bool = True
    """Whether to listen at all."""
    host: Host = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8080
    """Port to listen on; 0 for any free one."""
    body_bytes_max: Positive = 8 * 1024 * 1024
    """The body of a request. Larger ones are refused before they are read whole."""
    bodies_bytes_max: Positive = 256 * 1024 * 1024
    """What has come of all bodies that are not complete. More is answered 503, but for bodies of
    64 KiB and less."""
    body_items_max: Positive = 131_072
    """Items of a body (its commas): a prompt of token ids has one each. Bounds the time to parse
    a request."""
    body_objects_max: Positive = 32_768
    """Objects and lists of a body, counted by their opening brackets, those in texts included."""
    choices_max: Positive = 16
    """Answers to one request (`n`, times its prompts). Each takes a place in the queue."""
    responses_bytes_max: Positive = 64 * 1024 * 1024
    """Memory for responses that are kept for `previous_response_id`; a tenant has a quarter of it
    at most. The least recently used are forgotten first."""
    responses_seconds_max: Seconds = 3600.0
    """How long a response is kept."""
    headers_seconds: Seconds = 5.0
    """How long a stream's headers wait for the request to leave the queue: until then, an error
    is told by its status. Shorter than the time in which proxies want a first byte."""
    reasoning_field: Literal["reasoning_content", "reasoning", "both"] = "reasoning_content"
    """The field of chat completions that holds a model's reasoning: clients differ. Both of them
    doubles its size."""
    keep_alive_seconds: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 10.0
    """Silence after which a stream sends a comment, so that proxies do not cut it."""
    listen: tuple[ListenAddress, ...] = ()
    """More addresses: HOST:PORT, [IPV6]:PORT, or unix:PATH."""
    console_interval_seconds: Annotated[float, Field(ge=0.05, le=60)] = 0.25
    """How often the console's page hears of the scheduler. Less costs time with each page that
    watches."""
    console_watchers_max: Positive = 64
    """Pages that may watch the scheduler at once. More are answered 429."""
    hosts: tuple[str, ...] = ()
    """Names beside localhost by which requests may reach a loopback address; "*" for all. Others
    are refused, so that no page in a browser reaches the server by a name of its own."""
    cors_origins: tuple[str, ...] = ()
    """Origins, such as https://chat.example, whose pages may use the API; "*" for all. Pages
    from this machine may always."""
    connections_max: Positive = 1024
    """Open connections. Each costs some kilobytes; more are answered 503 and closed."""
    pipelined_max: Positive = 8
    """Requests that a client may send before the first is answered. Where it sends more, nothing
    is read until then, and that the client goes away is noticed late. Each is held in memory."""
    header_timeout_seconds: Timeout = 10.0
    """How long a request's headers may take to arrive. Longer lets half-sent requests stay."""
    header_bytes_max: Positive = 32 * 1024
    """Headers of a request, its path among them. Larger ones are answered 431."""
    body_timeout_seconds: Timeout = 30.0
    """How long a request's body may take to arrive. Longer is for slow lines, and attackers."""
    idle_timeout_seconds: Timeout = 75.0
    """How long a connection may stay open between requests: longer than a load balancer's own
    limit (often 60 s), so that it never sends a request into a connection that is closing."""
    write_timeout_seconds: Timeout = 30.0
    """How long an answer may be left unread once the connection's buffers are full."""


class LogConfig(Part):
    """The log on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level. At "info" there is one line for each request."""
    format: Literal["json", "text"] = "text"
    """"json" for machines, "text" for people."""


class ServerConfig(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
    )

    model: ModelConfig = ModelConfig()
    generation: GenerationConfig = GenerationConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    quota: QuotaConfig = QuotaConfig()
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    drain_notice_seconds: Seconds = 0.0
    """How long the server still takes requests after SIGTERM, while its health says NOT_SERVING.
    Behind a load balancer, longer than that takes to notice: its probe's interval times the
    failures that it waits for."""
    drain_seconds: Seconds = 30.0
    """How long running requests may take to finish after that. Longer loses fewer answers."""
    watch_interval_min_seconds: Annotated[float, Field(ge=0.01)] = 0.1
    """The highest rate at which WatchSchedulerState sends readings."""
    watchers_max: Positive = 64
    """WatchSchedulerState calls at once. Each takes the time of a reading, at its rate."""
    explained_requests_max: Positive = 1000
    """The last requests, of each model, that `explain` and the console know. Each takes a few
    kilobytes; never what it says."""
    trace_file: str = ""
    """Where to record which requests come, for `simulate`; never what they say. Empty: nowhere."""
    trace_bytes_max: Positive = 100_000_000
    """The size at which recording ends. A request takes about 300 bytes."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file."""
        return (init_settings, env_settings, _FileSource(settings_cls))


class _FileSource(PydanticBaseSettingsSource):
    """Reads the TOML file."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return _file_content.get().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return _file_content.get()


def load_config(file: Path | None = None, flags: dict[str, Any] | None = None) -> ServerConfig:
    """Read the configuration.

    Args:
        file: A TOML file.
        flags: Settings of the command line, nested as the tree is.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or out of range.
    """
    names = setting_names(ServerConfig.model_construct())
    if unknown := list(unknown_variables(os.environ, ENVIRONMENT_PREFIX, names)):
        raise ConfigError("\n".join(unknown))
    token = _file_content.set(_read(file))
    try:
        return ServerConfig(**(flags or {}))
    except ValidationError as error:
        problems = (_problem(one, names) for one in error.errors())
        raise ConfigError("\n".join(problems)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        _file_content.reset(token)


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _problem(error: ErrorDetails, names: Iterable[str]) -> str:
    where = _where(error["loc"])
    if error["type"] in _UNKNOWN:
        return f"{where}: there is no such setting{did_you_mean(where, names)}"
    if error["type"] in _TABLES:
        return f"{where}: must be a table"
    return f"{where}: {plain_message(error['msg'])}"


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "configuration"
