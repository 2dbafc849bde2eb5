from __future__ import annotations

import hashlib
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
BROKEN_AT = 300_000

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tiny_model_path: Path) -> Iterator[Hub]:
    with serve_hub() as hub:
        model = tiny_model_path.read_bytes()
        hub.files[REPOSITORY] = {
            "README.md": b"A model.",
            "tiny.Q4_0.gguf": model,
            "tiny.Q8_0.gguf": model + bytes(1_000_000),
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
    hub.break_after = BROKEN_AT
    path = fetched(run("pull", f"hf:{REPOSITORY}/tiny.Q8_0.gguf"))
    assert path.read_bytes() == hub.files[REPOSITORY]["tiny.Q8_0.gguf"]
    assert hub.downloads == [None, f"bytes={BROKEN_AT}-"]


def test_pull_goes_on_where_a_run_before_it_was_ended(run: Run, hub: Hub, tmp_path: Path) -> None:
    data = hub.files[REPOSITORY]["tiny.Q8_0.gguf"]
    tag = hashlib.sha256(data).hexdigest()
    blobs = tmp_path / "cache" / "hub" / "models--someone--tiny-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    mark = hashlib.sha256(tag.encode()).hexdigest()[:8]
    (blobs / f"{tag}.{mark}.part").write_bytes(data[:BROKEN_AT])
    path = fetched(run("pull", f"hf:{REPOSITORY}:q8_0"))
    assert path.read_bytes() == data
    assert hub.downloads == [f"bytes={BROKEN_AT}-"]
    assert [each.name for each in blobs.iterdir()] == [tag]


def test_a_damaged_download_is_found_and_begun_anew(run: Run, hub: Hub) -> None:
    hub.damage = True
    reference = f"hf:{REPOSITORY}:Q8_0"
    assert "its SHA-256 is not the announced one" in failure(run("pull", reference))
    assert fetched(run("pull", reference)).name == "tiny.Q8_0.gguf"
    assert hub.downloads == [None, None]


def test_a_split_model_is_fetched_whole(
    run: Run, hub: Hub, write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    write_tiny_model(tmp_path / "big.Q4_0.gguf", part_tensors_max=8)
    parts = sorted(tmp_path.glob("big*"))
    hub.files[REPOSITORY] = {part.name: part.read_bytes() for part in parts}
    first = fetched(run("pull", f"hf:{REPOSITORY}/{parts[1].name}"))
    assert first.name == parts[0].name
    assert "parameters" in run("show", f"hf:{REPOSITORY}", HF_HUB_OFFLINE="1").stdout
    assert len(hub.downloads) == 3
    del hub.files[REPOSITORY][parts[2].name]
    assert f"has no file {parts[2].name}" in failure(
        run("pull", f"hf:{REPOSITORY}/{parts[0].name}")
    )
    assert "freed" in run("rm", f"hf:{REPOSITORY}").stdout


def test_a_model_at_an_address(run: Run, hub: Hub, tiny_model_path: Path) -> None:
    model = tiny_model_path.read_bytes()
    hub.folder["/files/my%20model.gguf"] = (model, '"1"')
    address = f"{hub.address}/files/my%20model.gguf?download=true"
    assert "models pull http" in failure(run("show", address))
    hub.break_after = BROKEN_AT
    path = fetched(run("pull", address))
    assert (path.name, path.read_bytes()) == ("my model.gguf", model)
    assert hub.downloads == [None, f"bytes={BROKEN_AT}-"]
    assert run("show", address).stdout.startswith("name\tmy model\n")
    assert fetched(run("pull", address)) == path
    assert len(hub.downloads) == 2
    assert run("rm", address).returncode == 0
    assert "is not on this machine" in failure(run("rm", address))


def test_what_is_not_at_an_address(run: Run, hub: Hub) -> None:
    assert "answered 404" in failure(run("pull", f"{hub.address}/files/none.gguf"))
    assert "cannot be reached" in failure(run("pull", "http://127.0.0.1:9/none.gguf"))
    assert "over https:// only" in failure(run("pull", "http://example.org/none.gguf"))
    assert "not the address of a GGUF file" in failure(run("pull", "https://example.org/none"))


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
        ("builtin", "builtin is installed with the packages; there is nothing to download"),
        ("x.gguf", "'x.gguf' is not of the form hf:OWNER/REPO[/FILE]"),
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
    again = ("quantize", tiny_model_path, "q4_0", "-o", tmp_path / "tiny.Q8_0.gguf")
    assert "exists: use --force to overwrite it" in failure(run(*again))
    assert "weights\tQ8_0\n" in run("show", tmp_path / "tiny.Q8_0.gguf").stdout
    run(*again, "--force")
    assert "weights\tQ4_0\n" in run("show", tmp_path / "tiny.Q8_0.gguf").stdout
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
