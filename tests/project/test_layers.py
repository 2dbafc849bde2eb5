"""Who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NAMESPACE = "llm_serving_engine"

# What of ours each package may import beside itself.
ALLOWED = {
    "scheduler": set[str](),
    "backends": {"scheduler"},
    "server": {"scheduler", "backends", "clients", "v1"},
    "clients": {"v1"},
    "v1": set[str](),
}
# What a pure core may use of the standard library; importlib finds policies by name.
PURE = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "heapq",
    "importlib",
    "itertools",
    "math",
    "typing",
}
FOLDERS = {name: ROOT / name for name in ALLOWED} | {"v1": ROOT / "proto" / NAMESPACE / "v1"}


def modules(package: str) -> list[Path]:
    return sorted(FOLDERS[package].rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a module, inside functions too: its line and the full name."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}"


def breaches(package: str, name: str) -> bool:
    """Whether a module of `package` may not import `name`."""
    parts = name.split(".")
    if parts[0] == NAMESPACE:
        return (
            len(parts) > 1 and parts[1] in ALLOWED and parts[1] not in ALLOWED[package] | {package}
        )
    return name.startswith(".") or parts[0] in ALLOWED


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    assert modules(package)
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path)
        if breaches(package, name)
    ]
    assert found == []


def part_graph(package: str) -> dict[str, set[str]]:
    """For each folder and module of a package, the others of that package that it imports."""
    graph: dict[str, set[str]] = {}
    for path in modules(package):
        part = path.relative_to(FOLDERS[package]).with_suffix("").parts[0]
        needed = graph.setdefault(part, set())
        for _, name in imports(path):
            parts = name.split(".")
            if parts[:2] == [NAMESPACE, package] and len(parts) > 2:
                needed.add(parts[2])
        needed.discard(part)
    return graph


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the parts of one import cycle, in order; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


@pytest.mark.parametrize("package", ["scheduler", "backends", "server", "clients"])
def test_the_parts_of_a_package_import_each_other_in_one_direction(package: str) -> None:
    assert cycle(part_graph(package)) == []


def test_a_cycle_is_found() -> None:
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_the_scheduler_has_neither_clock_nor_thread_nor_randomness_nor_input() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("scheduler")
        for line, name in imports(path)
        if name.split(".")[0] not in PURE | {NAMESPACE}
    ]
    assert found == []


def test_the_service_knows_no_transport() -> None:
    service = ROOT / "server" / "service"
    transports = ("grpc", "google", "starlette", "uvicorn", f"{NAMESPACE}.v1")
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(service.rglob("*.py"))
        for line, name in imports(path)
        if name.startswith(transports)
    ]
    assert service.is_dir()
    assert found == []


@pytest.mark.parametrize(
    ("package", "name", "breach"),
    [
        ("scheduler", "llm_serving_engine.server.config", True),
        ("scheduler", "llm_serving_engine.scheduler.core", False),
        ("clients", "llm_serving_engine.scheduler", True),
        ("v1", "llm_serving_engine.clients", True),
        ("server", "scheduler.core", True),
        ("server", ".config", True),
        ("backends", "numpy", False),
    ],
)
def test_the_rule_tells_good_from_bad(package: str, name: str, breach: bool) -> None:
    assert breaches(package, name) is breach
