"""The configuration: one frozen tree, from flags, environment, and a file, in that order.

A setting `a.b` is the flag's value where `serve` has a flag for it, else the
environment variable LLM_SERVING_ENGINE_A__B, else `b` in the table `[a]` of
the TOML file, else its default. What is not known, or out of range, is an
error that names the setting.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from llm_serving_engine.backends import registry
from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.process.supervision import Supervision
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.policy import load_policy
from llm_serving_engine.server.config_file import read_config_file
from llm_serving_engine.server.config_problems import booleans_as_numbers, problems
from llm_serving_engine.server.setting_names import setting_names, unknown_variables
from llm_serving_engine.server.setting_types import (
    Host,
    ListenAddress,
    ListOf,
    Port,
    Positive,
    Seconds,
    Text,
    Timeout,
)

ENVIRONMENT_PREFIX = "LLM_SERVING_ENGINE_"

_file_content: ContextVar[dict[str, Any]] = ContextVar("file_content", default={})  # noqa: B039


def _check_policy(config: SchedulerConfig) -> SchedulerConfig:
    """Refuse a policy that cannot be loaded, before a model is."""
    load_policy(config.policy, config)
    return config


def _check_runner(config: BackendConfig) -> BackendConfig:
    """Refuse the field that the server itself sets."""
    if config.batch_invariant:
        raise ValueError('batch_invariant: set scheduler.determinism = "batch_invariant" instead')
    return config


class ConfigError(Exception):
    """The configuration is invalid; the message has one line per problem."""


class Part(BaseModel):
    """A part of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Part):
    """The served model and its runner's settings."""

    reference: Text = "builtin"
    """The model: a path to a GGUF or GGML file, hf:OWNER/REPO[/FILE], hf:OWNER/REPO:QUANT, the
    https:// address of a GGUF file, or builtin."""
    name: str = ""
    """The model's name in requests. Empty: the file's name."""
    aliases: ListOf[Annotated[str, Field(min_length=1)]] = ()
    """More names for the model in requests, for programs with a fixed model name. "*" matches any
    characters, as in "gpt-*"."""
    backend: Annotated[str, AfterValidator(registry.check_name)] = registry.AUTO
    """The backend: "llama.cpp", "ctransformers" (computes sequences one after the other),
    "scripted" (no model, answers by arithmetic, for tests of clients), or an import path
    "module:Class". "auto" selects ctransformers for legacy GGML files, and llama.cpp for all
    others."""
    chat_template: str = ""
    """A file with a Jinja chat template that replaces the model file's. Empty: the model file's."""
    template_arguments: dict[str, Any] = {}
    """Default variables of the chat template, such as enable_thinking. A request can override
    them."""
    runner: Annotated[BackendConfig, AfterValidator(_check_runner)] = BackendConfig()
    """Slots, context, threads, and cache."""
    supervision: Supervision = Supervision()
    """When a runner counts as hung, and how soon it is replaced."""


class GenerationConfig(Part):
    """Defaults and ceilings of requests."""

    max_tokens_default: Positive = 256
    """max_tokens of a request that does not set it. A higher value makes such requests more
    expensive."""
    max_tokens_ceiling: Positive = 8192
    """The highest max_tokens that a request may set."""
    prompt_bytes_max: Positive = 1_048_576
    """The text of a prompt, or of all messages of a chat. Bounds the time to tokenize it."""
    text_threads: Positive = 2
    """Threads that render templates and tokenize long prompts, beside the event loop. More threads
    take time from the runner when many long prompts arrive together."""
    text_requests_max: Positive = 64
    """Requests whose text is being tokenized or waits for it; they count as queued. Further
    requests are refused."""
    text_bytes_max: Positive = 16 * 1024 * 1024
    """The text of all these requests together."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """Default of Sampling.temperature. Not set: the model file's recommendation, else 0.8."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Default of Sampling.top_p. Not set: the model file's recommendation, else 0.95."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Default of Sampling.min_p. Not set: the model file's recommendation, else 0.05."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Default of Sampling.top_k. Not set: the model file's recommendation, else 40."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    """Default of Sampling.repetition_penalty. Not set: the model file's recommendation, else 1."""


class QuotaConfig(Part):
    """A tenant's quota: a token bucket that counts prompts plus max_tokens.

    Tokens that a request asked for and did not take go back.
    """

    tokens_per_second: Annotated[float, Field(ge=0)] = 0.0
    """The rate at which a tenant's bucket is refilled. 0: no quota."""
    burst_tokens: Positive = 100_000
    """The size of the bucket: what a tenant may ask for at once after a pause."""
    tenants_max: Positive = 10_000
    """Tenants whose buckets are kept. Beyond that, the buckets used longest ago are dropped, so
    those tenants start with full ones."""


class GrpcConfig(Part):
    """The gRPC listener."""

    host: Host = "127.0.0.1"
    """Address to listen on, or unix:PATH. On any other address than loopback, everyone who can
    reach it can use the server: there is no authentication."""
    port: Port = 50051
    """Port to listen on. 0: any free port."""
    listen: ListOf[ListenAddress] = ()
    """More addresses: HOST:PORT, [IPV6]:PORT, or unix:PATH."""
    message_bytes_max: Positive = 16 * 1024 * 1024
    """Size of a request message. Larger ones are refused before they are parsed, and those of more
    than twice the size before they are read."""
    message_fields_max: Positive = 8192
    """Fields of a request message, nested messages included; 128 bytes of token ids count as one
    field, and a chat message has about 3. Bounds the time to parse a request."""
    metadata_bytes_max: Positive = 16 * 1024
    """Metadata of a request, plus 32 bytes per entry. More is refused by the server, and more than
    twice as much by gRPC's library."""
    connections_max: Positive = 4096
    """Open connections. Each takes some tens of kilobytes. Further connections are closed."""
    streams_per_connection_max: Positive = 4096
    """Open RPCs of one connection; its client delays further ones. Each takes memory."""
    unsent_requests_max: Positive = 64
    """RPCs whose request message has been arriving for more than a second, open reflection streams
    included. Beyond that, the oldest are ended. Each holds at most twice message_bytes_max."""
    request_timeout_seconds: Timeout = 30.0
    """How long a request message may take to arrive. A longer time helps slow connections, and
    attackers."""
    write_timeout_seconds: Timeout = 30.0
    """How long a client may leave a stream unread once the connection's buffers are full. Then the
    stream ends."""
    headers_seconds: Timeout = 5.0
    """When an accepted request's headers are sent, at the latest, even if its answer has not begun.
    Set it below the time that load balancers wait for a first byte."""
    keepalive_seconds: Annotated[float, Field(ge=1)] = 8.0
    """Silence of a connection after which the server pings the client (HTTP/2). Set it below the
    time after which proxies cut silent connections."""
    keepalive_timeout_seconds: Annotated[float, Field(ge=1)] = 20.0
    """How long the client may take to answer the ping. Then the connection is closed."""
    ping_interval_min_seconds: Annotated[float, Field(ge=0)] = 5.0
    """The shortest interval of pings from a client. The server closes the connections of clients
    that ping more often. Low, because streams are silent during prefill."""
    connection_age_max_seconds: Annotated[float, Field(ge=1)] | None = None
    """Age at which the server asks a connection's client to reconnect, so that a load balancer can
    distribute connections anew. Not set: never."""
    connection_age_grace_seconds: Annotated[float, Field(ge=1)] = 3600.0
    """How long RPCs may continue after that. Set it to at least the time of the longest
    generation."""


class HttpConfig(Part):
    """The HTTP listener: the OpenAI-style API, metrics, and health."""

    enabled: bool = True
    """Whether to listen for HTTP."""
    host: Host = "127.0.0.1"
    """Address to listen on, or unix:PATH."""
    port: Port = 8080
    """Port to listen on. 0: any free port."""
    body_bytes_max: Positive = 8 * 1024 * 1024
    """Size of a request body. Larger ones are refused before they are read completely."""
    bodies_bytes_max: Positive = 256 * 1024 * 1024
    """Received bytes of all bodies together that are incomplete, or behind a request without an
    answer. Beyond that, bodies of more than 64 KiB get status 503."""
    body_items_max: Positive = 131_072
    """Items of a body, counted by its commas; a prompt of token ids has one per token. Bounds the
    time to parse a request."""
    body_objects_max: Positive = 32_768
    """Objects and lists of a body, counted by their opening brackets, brackets in strings included.
    Bounds the time to parse a request."""
    choices_max: Positive = 16
    """Answers to one request: `n` times the number of its prompts. Each takes a place in the
    queue."""
    responses_bytes_max: Positive = 64 * 1024 * 1024
    """Memory for responses kept for `previous_response_id`; one tenant gets at most a quarter. The
    least recently used are dropped first."""
    responses_seconds_max: Seconds = 3600.0
    """How long a response is kept."""
    headers_seconds: Seconds = 5.0
    """How long a stream's headers wait for the request to leave the queue. Until then, an error has
    its own status. Set it below the time that proxies wait for a first byte."""
    reasoning_field: Literal["reasoning_content", "reasoning", "both"] = "reasoning_content"
    """The field of chat completions with the reasoning, because clients differ:
    "reasoning_content", "reasoning", or "both", which sends it twice."""
    keep_alive_seconds: Annotated[float, Field(ge=0.1)] = 10.0
    """Silence after which a stream sends a comment, so that proxies do not cut it."""
    listen: ListOf[ListenAddress] = ()
    """More addresses: HOST:PORT, [IPV6]:PORT, or unix:PATH."""
    console_interval_seconds: Annotated[float, Field(ge=0.05, le=60)] = 0.25
    """Interval of the console's updates. A shorter interval takes more CPU time for each open
    page."""
    console_watchers_max: Positive = 64
    """Console pages that watch the scheduler at once. Further ones get status 429."""
    hosts: ListOf[str] = ()
    """Host names, beside localhost, accepted on a loopback address; "*" accepts all. Others are
    refused, so that a web page cannot reach the server by a name of its own (DNS rebinding)."""
    cors_origins: ListOf[str] = ()
    """Origins, such as https://chat.example, whose web pages may use the API; "*" allows all. Pages
    from this machine always may."""
    connections_max: Positive = 1024
    """Open connections. Each takes some kilobytes. Further ones get status 503 and are closed."""
    pipelined_max: Positive = 8
    """Requests that a client may send before the first is answered; each takes memory. Beyond that,
    or if their bodies exceed body_bytes_max together, the server stops reading, and detects a
    disconnected client late."""
    header_timeout_seconds: Timeout = 10.0
    """How long a request's headers may take to arrive. With a longer time, half-sent requests stay
    longer."""
    header_bytes_max: Positive = 32 * 1024
    """Size of a request's headers, its path included. Larger ones get status 431."""
    body_timeout_seconds: Timeout = 30.0
    """How long a request's body may take to arrive. A longer time helps slow connections, and
    attackers."""
    idle_timeout_seconds: Timeout = 75.0
    """How long a connection may stay open between requests. Set it above a load balancer's own
    limit (often 60 s), so that the balancer never sends a request on a connection that is being
    closed."""
    write_timeout_seconds: Timeout = 30.0
    """How long a client may read nothing of an answer once the connection's buffers are full. Then
    the connection is closed."""


class LogConfig(Part):
    """The log on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged. "info" has one line per request."""
    format: Literal["json", "text"] = "text"
    """"json" for programs, "text" for people."""


class ServerConfig(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    model: ModelConfig = ModelConfig()
    generation: GenerationConfig = GenerationConfig()
    scheduler: Annotated[SchedulerConfig, AfterValidator(_check_policy)] = SchedulerConfig()
    quota: QuotaConfig = QuotaConfig()
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    drain_notice_seconds: Seconds = 0.0
    """How long the server still accepts requests after SIGTERM, while its health is NOT_SERVING.
    Behind a load balancer, set it above the probe's interval times its failure threshold."""
    drain_seconds: Seconds = 30.0
    """How long running requests may then take to finish. A longer time loses fewer answers."""
    watch_interval_min_seconds: Annotated[float, Field(ge=0.01)] = 0.1
    """The shortest interval between the readings of WatchSchedulerState."""
    watchers_max: Positive = 64
    """Open WatchSchedulerState calls. Each takes CPU time for every reading."""
    explained_requests_max: Positive = 1000
    """Requests per model whose history is kept for `explain` and the console, without their text.
    Each takes a few kilobytes."""
    trace_file: str = ""
    """File that records when requests arrive and how long they are, without their text, for
    `simulate`. Empty: no recording."""
    trace_bytes_max: Positive = 100_000_000
    """Size of that file at which the recording ends. A request takes about 300 bytes."""

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
        return (init_settings, _Environment(settings_cls), _FileSource(settings_cls))


class _Environment(EnvSettingsSource):
    """Reads the environment variables."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Decode JSON; other text is left to the validation, whose errors name the setting."""
        try:
            decoded = super().decode_complex_value(field_name, field, value)
        except ValueError:
            decoded = value
        if field_name in ServerConfig.model_fields and not isinstance(decoded, dict):
            name = f"{ENVIRONMENT_PREFIX}{field_name.upper()}"
            raise ValueError(f"{name}: must be a table, as JSON; or set {name}__SETTING")
        return decoded


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
    try:
        content = read_config_file(file)
        config = _validated(content, flags or {})
        if booleans := list(booleans_as_numbers(content, config)):
            raise ConfigError("\n".join(booleans))
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error.errors(), names))) from error
    except ValueError as error:
        raise ConfigError(str(error.__cause__ or error)) from error
    except RecursionError:
        raise ConfigError("the configuration: tables or lists are nested too deeply") from None
    return config


def _validated(content: dict[str, Any], flags: dict[str, Any]) -> ServerConfig:
    token = _file_content.set(content)
    try:
        return ServerConfig(**flags)
    finally:
        _file_content.reset(token)
