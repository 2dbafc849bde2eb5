"""Fixtures for the whole suite: models that need no network."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from llm_serving_engine.backends.models.builtin import builtin_path
from llm_serving_engine.backends.quantize import quantize

sys.path.append(str(Path(__file__).parent / "fixtures"))

# A shell that runs the tests in the background has Ctrl-C ignored, and so would every program
# that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Under nohup SIGHUP is ignored, and so would every server that a test starts. A handler is not
# inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# No test measures time. The other settings are hypothesis' own: those for CI where CI is set.
settings.register_profile(
    "untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_remembered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep measurements out of the user's cache folder, in this process and in its children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHE_DIRECTORY", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _loopback_has_no_proxy() -> Iterator[None]:
    """Reach the servers of tests directly, whatever proxy the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1,localhost,::1")
        yield


@pytest.fixture(scope="session")
def write_tiny_model() -> Callable[..., Path]:
    """`tiny_model.write_tiny_model`: writes a small model of random weights."""
    from tiny_model import write_tiny_model

    return write_tiny_model


@pytest.fixture(scope="session")
def tiny_model_path(
    write_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A Llama model of two layers with random weights, and a chat template."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_quantized_model_path(
    tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same model as Q8_0: its sequences give the same bits alone and under load."""
    path = tmp_path_factory.mktemp("quantized") / "tiny.gguf"
    quantize(tiny_model_path, path, "Q8_0")
    return path


@pytest.fixture(scope="session")
def tiny_model_without_template_path(
    write_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same model without a chat template."""
    path = tmp_path_factory.mktemp("models") / "tiny-plain.gguf"
    return write_tiny_model(path, chat_template=None)


@pytest.fixture(scope="session")
def builtin_model_path() -> Path:
    """The built-in model's file."""
    return builtin_path()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be written anew."""
    parser.addoption("--rewrite-golden", action="store_true", help="write golden files anew")
