"""A model's vocabulary, its chat template, and the tokens that end its output."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from llm_serving_engine.backends.backend import LoadError
from llm_serving_engine.backends.text.chat import ChatTemplate, TemplateError
from llm_serving_engine.backends.text.tokenizer import Tokenizer
from llm_serving_engine.server.config import ModelConfig

_logger = logging.getLogger(__name__)

TEMPLATE_BYTES_MAX = 1_048_576


@dataclass(frozen=True, slots=True)
class ModelText:
    """Converts a model's text to tokens and back.

    Attributes:
        tokenizer: The vocabulary.
        chat_template: None where there is none, or it is broken.
        template_error: What is wrong with it; empty otherwise.
        stop_tokens: The tokens that end the output: the vocabulary's own, and
            the one that the chat template writes after the model's words.
    """

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    template_error: str
    stop_tokens: frozenset[int]

    @classmethod
    def make(cls, name: str, tokenizer: Tokenizer, config: ModelConfig) -> ModelText:
        """Compile the configured chat template, or by default the file's.

        Args:
            name: The model's, for the log.
            tokenizer: Its vocabulary, with its file's template.
            config: Says which template, and the defaults of its arguments.

        Raises:
            LoadError: The template that the configuration names cannot be used.
        """
        source = (
            read_template(config.chat_template) if config.chat_template else tokenizer.chat_template
        )
        if source is None:
            return cls(tokenizer, None, "", tokenizer.stop_tokens)
        try:
            template = ChatTemplate(
                source,
                tokenizer.bos_text,
                tokenizer.eos_text,
                tokenizer.control_tokens,
                arguments=config.template_arguments,
            )
        except TemplateError as error:
            if config.chat_template:
                raise LoadError(f"model.chat_template {config.chat_template}: {error}") from error
            _logger.warning("model %s cannot chat: %s", name, error)
            return cls(tokenizer, None, str(error), tokenizer.stop_tokens)
        return cls(tokenizer, template, "", tokenizer.stop_tokens | template.end_tokens)


def read_template(path: str) -> str:
    """Read a template's file. Raises LoadError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(TEMPLATE_BYTES_MAX + 1)
        if len(data) > TEMPLATE_BYTES_MAX:
            raise LoadError(f"model.chat_template {path} has more than {TEMPLATE_BYTES_MAX} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise LoadError(f"model.chat_template {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LoadError(f"model.chat_template {path} is not UTF-8") from error
