"""Parses the references that `--model` accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llm_serving_engine.backends.models.errors import InvalidReference, printable
from llm_serving_engine.backends.models.split import PartName

_HUB_PREFIX = "hf:"
# The hub's own rule for names: no leading or trailing dot or dash.
_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_QUANTIZATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GGUF_SUFFIX = ".gguf"
# Hosts whose unencrypted connections never leave this machine.
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """`builtin`: the model that is installed as a package."""

    @property
    def name(self) -> str:
        """The name that requests use."""
        return "smollm2-135m-instruct"

    def __str__(self) -> str:
        return "builtin"


@dataclass(frozen=True, slots=True)
class FileModel:
    """A path to a GGUF file."""

    path: Path

    @property
    def name(self) -> str:
        """The name that requests use: the file's, without its suffix and the number of its part."""
        return printable(_stem(self.path.name))

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class HubModel:
    """`hf:OWNER/REPO[/FILE]` or `hf:OWNER/REPO:QUANT`: a model on the Hugging Face hub.

    Attributes:
        repository: "OWNER/REPO".
        file: Its path there; None for the one that suits best.
        quantization: How its weights are stored, such as "Q4_K_M"; None for the
            one that suits best, or where the file is named.
    """

    repository: str
    file: str | None = None
    quantization: str | None = None

    @property
    def name(self) -> str:
        """The name that requests use: the file's without its suffix, or the repository's."""
        if self.file is None:
            return self.repository.partition("/")[2]
        return _stem(self.file.rpartition("/")[2])

    def __str__(self) -> str:
        if self.quantization is not None:
            return f"{_HUB_PREFIX}{self.repository}:{self.quantization}"
        return "/".join(filter(None, (_HUB_PREFIX + self.repository, self.file)))


@dataclass(frozen=True, slots=True)
class UrlModel:
    """`https://...`: the address of a GGUF file, of any part of a split one."""

    url: str

    @property
    def name(self) -> str:
        """The name that requests use: the file's, without its suffix."""
        return printable(_stem(self.file))

    @property
    def file(self) -> str:
        """The name of the file."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])

    def __str__(self) -> str:
        return self.url


ModelReference = BuiltinModel | FileModel | HubModel | UrlModel


def parse_reference(text: str) -> ModelReference:
    """Parse a user's reference to a model, without looking it up.

    Args:
        text: `builtin`, a path, `hf:OWNER/REPO[/FILE]`, `hf:OWNER/REPO:QUANT`,
            or `https://...`. A file that is called "builtin" is written `./builtin`.

    Raises:
        InvalidReference: It is none of those.
    """
    if text == "builtin":
        return BuiltinModel()
    if text.startswith(_HUB_PREFIX):
        return _parse_hub(text)
    if text.startswith(("https://", "http://")):
        return _parse_url(text)
    if not text.strip() or "\0" in text:
        raise InvalidReference(
            "a model is `builtin`, a path, `hf:OWNER/REPO[/FILE]`, `hf:OWNER/REPO:QUANT`, "
            "or the https:// address of a GGUF file"
        )
    return FileModel(Path(text).expanduser())


def _parse_hub(text: str) -> HubModel:
    owner, _, rest = text.removeprefix(_HUB_PREFIX).partition("/")
    repository, _, file = rest.partition("/")
    repository, colon, quantization = repository.partition(":")
    if colon and (file or not _QUANTIZATION.fullmatch(quantization)):
        raise InvalidReference(f"{text!r} is not of the form hf:OWNER/REPO:QUANT")
    if not (_HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(repository)):
        raise InvalidReference(f"{text!r} is not of the form hf:OWNER/REPO[/FILE]")
    if file and (not file.endswith(_GGUF_SUFFIX) or ".." in file.split("/") or "\\" in file):
        raise InvalidReference(f"{file!r} is not the name of a GGUF file in {owner}/{repository}")
    return HubModel(f"{owner}/{repository}", file or None, quantization or None)


def _parse_url(text: str) -> UrlModel:
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or any(character.isspace() for character in text):
        raise InvalidReference(f"{text!r} is not an address")
    if parts.scheme != "https" and host not in _LOOPBACK:
        raise InvalidReference(f"{text!r} is fetched over https:// only")
    model = UrlModel(text)
    if not model.file.endswith(_GGUF_SUFFIX) or "/" in model.file:
        raise InvalidReference(f"{text!r} is not the address of a GGUF file")
    return model


def _stem(name: str) -> str:
    part = PartName.parse(name)
    return name.removesuffix(_GGUF_SUFFIX) if part is None else part.stem
