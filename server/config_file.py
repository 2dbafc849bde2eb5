"""Reads the configuration's file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Longer files are not configurations: a device has no end, and a model has gigabytes.
FILE_BYTES_MAX = 1_000_000


def read_config_file(file: Path | None) -> dict[str, Any]:
    """Return the content of a TOML file, and nothing for None.

    Raises:
        ValueError: The file cannot be read, or is not TOML.
        RecursionError: Its lists are nested too deeply.
    """
    if file is None:
        return {}
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ValueError(f"is larger than {FILE_BYTES_MAX} bytes, so it is no configuration")
        # Editors of Windows write a byte order mark.
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
