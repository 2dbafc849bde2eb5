"""Generates the Python code and the descriptor set of proto/, or checks that they are fresh.

python deploy/proto.py           write what is generated
python deploy/proto.py --check   fail where what is there differs
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("llm_serving_engine/v1")
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi", ".binpb")
EMPTY = ("generation_pb2_grpc.py", "generation_pb2_grpc.pyi")
"""generation.proto has no service: nothing is in its service code."""


def generate(folder: Path) -> None:
    """Generate everything into `folder`, with the tools of the Python that runs this."""
    proto = ROOT / "proto"
    (folder / PACKAGE).mkdir(parents=True)
    plugins = str(Path(sys.executable).parent)
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", str(proto)),
            *(f"--python_out={folder}", f"--grpc_python_out={folder}"),
            *(f"--mypy_out=quiet:{folder}", f"--mypy_grpc_out=quiet:{folder}"),
            f"--descriptor_set_out={folder / PACKAGE / 'descriptors.binpb'}",
            *("--include_imports", "--include_source_info"),
            *(str(path.relative_to(proto)) for path in sorted((proto / PACKAGE).glob("*.proto"))),
        ],
        check=True,
        env={**os.environ, "PATH": plugins + os.pathsep + os.environ.get("PATH", "")},
    )
    for name in EMPTY:
        (folder / PACKAGE / name).unlink()


def generated(folder: Path) -> dict[str, bytes]:
    """The generated files of a folder, by name."""
    files = (folder / PACKAGE).iterdir()
    return {file.name: file.read_bytes() for file in files if file.name.endswith(SUFFIXES)}


def main() -> int:
    """Write, or check; the exit code."""
    there = generated(ROOT / "proto")
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary))
        wanted = generated(Path(temporary))
    stale = sorted(name for name in there | wanted if there.get(name) != wanted.get(name))
    if "--check" in sys.argv[1:]:
        for name in stale:
            sys.stderr.write(f"error: proto/{PACKAGE / name} is stale; run: make proto\n")
        return 1 if stale else 0
    for name in stale:
        target = ROOT / "proto" / PACKAGE / name
        if name in wanted:
            target.write_bytes(wanted[name])
        else:
            target.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
