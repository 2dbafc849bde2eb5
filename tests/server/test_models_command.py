from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from hub_server import GATED, Hub, serve_hub

from llm_serving_engine.v1 import models_pb2, models_pb2_grpc

REPOSITORY = "someone/tiny-GGUF"
# huggingface_hub writes what it fetches in pieces of this size: a connection
# that breaks is resumed at the last whole one.
PIECE_BYTES = 10 * 1024 * 1024

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tiny_model_path: Path) -> Iterator[Hub]:
    with serve_hub() as hub:
        model = tiny_model_path.read_bytes()
        hub.files[REPOSITORY] = {
            "README.md": b"A model.",
            "tiny.Q4_0.gguf": model,
            "tiny.Q8_0.gguf": model + bytes(PIECE_BYTES + 1_000_000),
        }
        yield hub


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Run a `models` command in a process of its own, with an empty cache."""
    home = tmp_path / "cache"

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        variables |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(home)} | environment
        return subprocess.run(
            [sys.executable, "-m", "llm_serving_engine", "models", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=variables,
            cwd=tmp_path,
        )

    return run


def fetched(done: subprocess.CompletedProcess[str]) -> Path:
    assert (done.returncode, done.stderr) == (0, "")
    return Path(done.stdout.strip())


def failure(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


def test_pull_fetches_the_file_that_suits_best_and_again_only_asks(run: Run, hub: Hub) -> None:
    path = fetched(run("pull", f"hf:{REPOSITORY}"))
    assert path.name == "tiny.Q4_0.gguf"
    assert path.read_bytes() == hub.files[REPOSITORY]["tiny.Q4_0.gguf"]
    assert fetched(run("pull", f"hf:{REPOSITORY}")) == path
    assert hub.downloads == [None]


def test_pull_resumes_where_the_connection_broke(run: Run, hub: Hub) -> None:
    hub.break_after = PIECE_BYTES + 500_000
    path = fetched(run("pull", f"hf:{REPOSITORY}/tiny.Q8_0.gguf"))
    assert path.read_bytes() == hub.files[REPOSITORY]["tiny.Q8_0.gguf"]
    assert hub.downloads == [None, f"bytes={PIECE_BYTES}-"]


@pytest.mark.parametrize(
    "offline", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}]
)
def test_what_is_cached_works_without_the_hub(run: Run, hub: Hub, offline: dict[str, str]) -> None:
    path = fetched(run("pull", f"hf:{REPOSITORY}"))
    asked = len(hub.requests)
    assert fetched(run("pull", f"hf:{REPOSITORY}/tiny.Q4_0.gguf", **offline)) == path
    assert fetched(run("pull", f"hf:{REPOSITORY}", **offline)) == path
    shown = run("show", f"hf:{REPOSITORY}", **offline)
    assert shown.stdout.startswith("name\ttiny-GGUF\n")
    assert "architecture\tllama\n" in shown.stdout
    assert len(hub.requests) == asked


def test_what_is_not_cached_does_not_work_without_the_hub(run: Run) -> None:
    reference = f"hf:{REPOSITORY}"
    assert "cannot be reached" in failure(run("pull", reference, HF_ENDPOINT="http://127.0.0.1:9"))
    assert "HF_HUB_OFFLINE is set" in failure(run("pull", reference, HF_HUB_OFFLINE="1"))


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("hf:someone/nothing", "the hub has no someone/nothing"),
        (f"hf:{GATED}", f"{GATED} is gated"),
        (f"hf:{REPOSITORY}/other.gguf", f"{REPOSITORY} has no file other.gguf"),
        ("builtin", "'builtin' is not of the form hf:OWNER/REPO[/FILE]"),
    ],
)
def test_what_cannot_be_pulled(run: Run, reference: str, reason: str) -> None:
    assert reason in failure(run("pull", reference))


def test_a_file_that_is_no_model(run: Run, hub: Hub) -> None:
    hub.files[REPOSITORY] = {"text.gguf": b"not a model at all, only a text"}
    assert "is not a GGUF file" in failure(run("pull", f"hf:{REPOSITORY}"))


def test_list_and_rm(run: Run, builtin_model_path: Path) -> None:
    path = fetched(run("pull", f"hf:{REPOSITORY}"))
    names = ["MODEL", "builtin", f"hf:{REPOSITORY}/tiny.Q4_0.gguf"]
    lines = [line.split("\t") for line in run("list").stdout.splitlines()]
    assert [line[0] for line in lines] == names
    assert [line[2] for line in lines] == ["FILE", str(builtin_model_path), str(path)]
    assert "freed" in fetched(run("rm", f"hf:{REPOSITORY}/tiny.Q4_0.gguf")).name
    assert not path.exists()
    assert len(run("list").stdout.splitlines()) == 2
    assert "is not in the cache" in failure(run("rm", f"hf:{REPOSITORY}"))


def test_rm_keeps_what_another_file_shares(run: Run, hub: Hub) -> None:
    hub.files[REPOSITORY]["same.Q4_1.gguf"] = hub.files[REPOSITORY]["tiny.Q4_0.gguf"]
    fetched(run("pull", f"hf:{REPOSITORY}/tiny.Q4_0.gguf"))
    kept = fetched(run("pull", f"hf:{REPOSITORY}/same.Q4_1.gguf"))
    assert run("rm", f"hf:{REPOSITORY}/tiny.Q4_0.gguf").returncode == 0
    assert kept.read_bytes() == hub.files[REPOSITORY]["same.Q4_1.gguf"]


def test_show_does_not_fetch(run: Run, hub: Hub) -> None:
    assert "models pull hf:" in failure(run("show", f"hf:{REPOSITORY}"))
    assert hub.requests == []


def test_show_the_builtin_model(run: Run) -> None:
    rows = dict(line.split("\t") for line in run("show", "builtin").stdout.splitlines())
    assert rows["name"] == "smollm2-135m-instruct"
    assert (rows["weights"], rows["parameters"]) == ("Q4_1", "134.5 M")
    assert rows["memory: weights"] == "96.6 MB"
    assert rows["memory: cache"].endswith("23,040 bytes each")


def test_quantize(run: Run, tiny_model_path: Path, tmp_path: Path) -> None:
    assert fetched(run("quantize", tiny_model_path, "q8_0")) == Path("tiny.Q8_0.gguf")
    assert "weights\tQ8_0\n" in run("show", tmp_path / "tiny.Q8_0.gguf").stdout
    assert "no type 'Q9'" in failure(run("quantize", tiny_model_path, "Q9"))


class Models(models_pb2_grpc.ModelServiceServicer):
    def GetModel(  # noqa: N802 - the RPC's name
        self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> models_pb2.GetModelResponse:
        raise NotImplementedError

    def ListModels(  # noqa: N802 - the RPC's name
        self, request: models_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        return models_pb2.ListModelsResponse(
            models=[
                models_pb2.Model(
                    name="tiny",
                    architecture="llama",
                    parameter_count=1_500_000,
                    quantization="Q4_0",
                    memory_bytes=2_000_000,
                    state=models_pb2.MODEL_STATE_READY,
                    capabilities=models_pb2.Capabilities(
                        sequences_max=4, context_per_sequence=2048
                    ),
                    is_default=True,
                ),
                models_pb2.Model(
                    name="broken",
                    state=models_pb2.MODEL_STATE_FAILED,
                    state_reason="the file is truncated",
                ),
            ]
        )


def test_list_the_models_of_a_server(run: Run) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    models_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = run("list", "--address", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    assert done.stdout.splitlines()[1:] == [
        "tiny*\tready\tllama\t1.5 M\tQ4_0\t2.0 MB\t4 x 2,048",
        "broken\tfailed: the file is truncated\t\t0.0 M\t\t\t",
    ]


def test_list_without_a_server(run: Run) -> None:
    assert "127.0.0.1:9" in failure(run("list", "--address", "127.0.0.1:9"))


@pytest.mark.parametrize("command", ["list", "show", "pull", "rm", "quantize"])
def test_every_help_has_an_example(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: llm-serving-engine models {command}" in " ".join(done.stdout.split())
