"""What `--model` accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llm_serving_engine.backends.models.errors import InvalidReference, printable
from llm_serving_engine.backends.models.split import PartName

_HUB_PREFIX = "hf:"
# The hub's own rule for names: no leading or trailing dot or dash.
_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_GGUF_SUFFIX = ".gguf"


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
        part = PartName.parse(self.path.name)
        return printable(_stem(self.path.name) if part is None else part.stem)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class HubModel:
    """`hf:OWNER/REPO[/FILE]`: a file of a repository on the Hugging Face hub.

    Attributes:
        repository: "OWNER/REPO".
        file: Its path there; None for the one that suits best.
    """

    repository: str
    file: str | None = None

    @property
    def name(self) -> str:
        """The name that requests use: the file's without its suffix, or the repository's."""
        if self.file is None:
            return self.repository.partition("/")[2]
        return _stem(self.file.rpartition("/")[2])

    def __str__(self) -> str:
        return "/".join(filter(None, (_HUB_PREFIX + self.repository, self.file)))


ModelReference = BuiltinModel | FileModel | HubModel


def parse_reference(text: str) -> ModelReference:
    """Understand what a user wrote for a model; nothing is looked up.

    Args:
        text: `builtin`, a path, or `hf:OWNER/REPO[/FILE]`. A file that is
            called "builtin" is written `./builtin`.

    Raises:
        InvalidReference: It is none of those.
    """
    if text == "builtin":
        return BuiltinModel()
    if text.startswith(_HUB_PREFIX):
        return _parse_hub(text)
    if not text.strip() or "\0" in text:
        raise InvalidReference("a model is `builtin`, a path, or `hf:OWNER/REPO[/FILE]`")
    return FileModel(Path(text).expanduser())


def _parse_hub(text: str) -> HubModel:
    owner, _, rest = text.removeprefix(_HUB_PREFIX).partition("/")
    repository, _, file = rest.partition("/")
    if not (_HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(repository)):
        raise InvalidReference(f"{text!r} is not of the form hf:OWNER/REPO[/FILE]")
    if file and (not file.endswith(_GGUF_SUFFIX) or ".." in file.split("/") or "\\" in file):
        raise InvalidReference(f"{file!r} is not the name of a GGUF file in {owner}/{repository}")
    return HubModel(f"{owner}/{repository}", file or None)


def _stem(name: str) -> str:
    return name.removesuffix(_GGUF_SUFFIX)
