"""The models of a server, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.not_found import UnknownModel
from llm_serving_engine.server.truncation import truncated

# Of a name that a caller sent, as the error repeats it.
NAME_BYTES_MAX = 100


class Catalog:
    """All models; the first is the default of requests without a model name."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self.default = next(iter(self._models.values()))

    def __iter__(self) -> Iterator[ServedModel]:
        """The models, ordered by name."""
        return (self._models[name] for name in sorted(self._models))

    def get(self, name: str) -> ServedModel:
        """The model of that name, or alias; the default one for an empty name.

        Raises UnknownModel.
        """
        if not name:
            return self.default
        if (model := self._models.get(name)) is not None:
            return model
        for model in self:
            if any(fnmatchcase(name, _pattern(alias)) for alias in model.aliases):
                return model
        raise UnknownModel(truncated(name, NAME_BYTES_MAX), tuple(sorted(self._models)))


def _pattern(alias: str) -> str:
    """The alias as a pattern in which only "*" is special."""
    return alias.replace("[", "[[]").replace("?", "[?]")
