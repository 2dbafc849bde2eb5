"""Configuration files that are none are told in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_serving_engine.server.config import ConfigError, load_config
from llm_serving_engine.server.config_file import FILE_BYTES_MAX


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"drain_seconds = 1 # \xff", "config.toml: byte 20 is not UTF-8"),
        (b"this is no TOML", "config.toml: "),
        (b"a = " + b"[" * 9999 + b"]" * 9999, "nested too deeply"),
        (b"[model]\ntemplate_arguments.a" + b".a" * 3000 + b" = 1", "nested too deeply"),
        (b"drain_seconds = 5\n".ljust(FILE_BYTES_MAX + 1, b"#"), "larger than 1000000 bytes"),
    ],
    ids=["not UTF-8", "not TOML", "deep list", "deep table", "too long"],
)
def test_a_file_that_is_no_configuration(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load_config(path)


def test_a_device_without_an_end() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: is larger than"):
        load_config(Path("/dev/zero"))


def test_the_longest_file_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbfdrain_seconds = 5\n".ljust(FILE_BYTES_MAX, b"#"))
    assert load_config(path).drain_seconds == 5
