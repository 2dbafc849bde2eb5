"""Sets the checkout up, by `make`: makes .venv/ and everything in it.

    python3 deploy/setup.py serve   what `make serve` needs
    python3 deploy/setup.py test    that, and what it takes to work on the project
    python3 deploy/setup.py wheel   only builds llama-cpp-python's wheel, into .cache/

This file alone has to run on any Python 3, to say clearly that it is too old:
the rest is in `bootstrap/`, for the Python that the project asks for.
"""

import os
import shutil
import subprocess
import sys

CANDIDATES = ("python3.13", "python3.12", "python3.11", "python3.10")
TOO_OLD = (
    "error: Python 3.10 or newer is needed, and {} is {}; "
    "Debian and Ubuntu: apt install python3.11 python3.11-venv, Fedora: dnf install python3.13, "
    "macOS: brew install python; then: make PYTHON=python3.11 ..."
)


def new_enough(python: str) -> bool:
    """Whether a command is a Python that the project runs on."""
    check = "import sys; sys.exit(sys.version_info < (3, 10))"
    quiet = subprocess.DEVNULL
    return subprocess.call([python, "-c", check], stdout=quiet, stderr=quiet) == 0


def newer_python() -> str:
    """The first candidate that is installed and new enough, or an empty string."""
    for name in CANDIDATES:
        path = shutil.which(name)
        if path and new_enough(path):
            return path
    return ""


def main() -> int:
    """Hand over to `bootstrap`, under a Python that can run it."""
    if sys.version_info >= (3, 10):  # noqa: UP036 (an older one is what this file is for)
        from bootstrap.main import main as bootstrap

        return bootstrap(sys.argv[1:])
    python = newer_python()
    if python:
        os.execv(python, [python, *sys.argv])
    version = "{}.{}.{}".format(*sys.version_info[:3])
    sys.stderr.write(TOO_OLD.format(sys.executable, version) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
