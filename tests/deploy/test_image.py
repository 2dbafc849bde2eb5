"""The Dockerfile, as far as it can be checked without building it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ")
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def copied() -> list[str]:
    """What is copied from the checkout."""
    words = [shlex.split(rest) for name, rest in instructions() if name == "COPY"]
    return [source for line in words if not line[0].startswith("--from") for source in line[:-1]]


def ignored() -> list[str]:
    """The exceptions of .dockerignore, which ignores everything else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return [line[1:] for line in lines if line.startswith("!")]


def test_what_is_copied_exists() -> None:
    assert copied()
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_what_is_copied_is_sent_to_the_builder_and_nothing_else() -> None:
    assert sorted(ignored()) == sorted(copied())


def test_everything_that_the_package_is_made_of_is_copied() -> None:
    links = [path for path in (ROOT / "src" / "llm_serving_engine").iterdir() if path.is_symlink()]
    tops = {path.resolve().relative_to(ROOT).parts[0] for path in links}
    assert tops | {"src", "pyproject.toml", "README.md", "LICENSE"} <= set(copied())


def test_it_ends_without_privileges() -> None:
    names = [name for name, _ in instructions()]
    last_stage = instructions()[len(names) - 1 - names[::-1].index("FROM") :]
    users = [rest for name, rest in last_stage if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")


def test_its_health_is_asked_for() -> None:
    assert any(name == "HEALTHCHECK" and "/healthz" in rest for name, rest in instructions())


def test_it_holds_the_model_that_the_set_up_installs() -> None:
    environment = (ROOT / "deploy" / "bootstrap" / "environment.py").read_text()
    model = re.search(r'^MODEL = "(.*)"', environment, re.MULTILINE)
    assert model
    assert f"--no-deps {model[1]}" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_it_has_a_variant_for_every_kind_of_cpu() -> None:
    arguments = [rest for name, rest in instructions() if name == "ARG"]
    options = next(rest for rest in arguments if rest.startswith("CMAKE_ARGS="))
    for option in ("GGML_NATIVE=OFF", "GGML_BACKEND_DL=ON", "GGML_CPU_ALL_VARIANTS=ON"):
        assert f"-D{option}" in options


def test_what_the_wheel_is_built_from_is_copied_before_it_is_built() -> None:
    steps = instructions()
    build = next(place for place, (name, rest) in enumerate(steps) if "setup.py wheel" in rest)
    before = {
        source
        for name, rest in steps[:build]
        if name == "COPY"
        for source in shlex.split(rest)[:-1]
    }
    for file in ("llama-cpp-only.cmake", "amx-tile-config.h", "build-constraints.txt", "bootstrap"):
        assert f"deploy/{file}" in before


def test_llama_cpp_has_computed_before_the_image_is_done() -> None:
    checks = [rest for name, rest in instructions() if name == "RUN" and "self_check" in rest]
    assert len(checks) == 1
    assert "--build .cache/llama-cpp-python/*/build.json" in checks[0]
