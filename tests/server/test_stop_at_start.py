"""`serve` is told to stop while it starts."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest
from serve_process import start_serve


def test_sigterm_from_the_first_line(tmp_path: Path) -> None:
    # It waits for its configuration for ever: it gets no further before the signal comes.
    config = tmp_path / "config.toml"
    os.mkfifo(config)
    process = start_serve("--backend", "scripted", "--config", str(config))
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("only Linux tells which signals a process handles")
    handled = re.compile(r"^SigCgt:\s+([0-9a-f]+)", re.MULTILINE)
    sigterm = 1 << signal.SIGTERM - 1
    while not int((handled.search(status.read_text()) or ["", "0"])[1], 16) & sigterm:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (128 + signal.SIGTERM, "", "")


def test_ctrl_c_during_the_imports(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'llm_serving_engine.server.app':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    flags = ("--port", "0", "--http-port", "0", "--backend", "scripted")
    process = start_serve(*flags, env={"PYTHONPATH": str(tmp_path)})
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")


def test_sigterm_while_loading(builtin_model_path: Path) -> None:
    process = start_serve("--port", "0", "--http-port", "0", "--model", str(builtin_model_path))
    server = psutil.Process(process.pid)
    # It handles signals from before it has a runner.
    while not server.children():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 0
    assert stderr == ""
