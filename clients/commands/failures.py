"""Ends a command with one line when something fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C ended


@contextmanager
def one_line_failures(address: str) -> Iterator[None]:
    """As `failing_in_one_line`, for what a server at `address` may answer."""
    from llm_serving_engine.clients.errors import ConnectionFailed, ServingError

    with failing_in_one_line(ServingError, ValueError):
        try:
            yield
        except ConnectionFailed as error:
            raise fail(f"no connection to a server at {address}: {error}") from None


@contextmanager
def failing_in_one_line(*expected: type[Exception]) -> Iterator[None]:
    """Say an error in one line on stderr and exit with 1; on Ctrl-C, with 130.

    Args:
        expected: The errors that say themselves what is wrong.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except UnicodeEncodeError:
        raise fail("the text is not UTF-8") from None
    except expected as error:
        raise fail(str(error)) from None
    except BrokenPipeError:
        raise  # The reader has seen enough; click ends quietly.
    except OSError as error:
        raise fail(f"{error.filename or 'input/output'}: {error.strerror}") from None


def check_writable(file: Path) -> None:
    """Fail before minutes of measuring if `file` could not be written after them."""
    if file.is_dir() or not file.parent.is_dir():
        raise fail(f"{file} cannot be written: it is a folder, or its folder does not exist")


def fail(message: str) -> typer.Exit:
    """Say `message` on stderr, in one line whatever it holds; what to raise then."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return typer.Exit(1)
