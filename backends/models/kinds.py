"""Which kinds of models are served: those that produce text one token after the other.

The others are refused by their architecture's name, before anything is computed:
llama.cpp ends the process where some of them are asked for a next token.
"""

from __future__ import annotations

from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.models.info import ModelInfo

_EMBEDDING = "an embedding model"
_DIFFUSION = "a diffusion model"
_DRAFT = "a draft model, which only guesses the tokens of another"
_SOUND = "a model of sound"

REFUSED = {
    "bert": _EMBEDDING,
    "modern-bert": _EMBEDDING,
    "nomic-bert": _EMBEDDING,
    "nomic-bert-moe": _EMBEDDING,
    "neo-bert": _EMBEDDING,
    "jina-bert-v2": _EMBEDDING,
    "jina-bert-v3": _EMBEDDING,
    "eurobert": _EMBEDDING,
    "gemma-embedding": _EMBEDDING,
    "llama-embed": _EMBEDDING,
    "t5encoder": _EMBEDDING,
    "t5": "an encoder with a decoder",
    "dream": _DIFFUSION,
    "llada": _DIFFUSION,
    "llada-moe": _DIFFUSION,
    "rnd1": _DIFFUSION,
    "eagle3": _DRAFT,
    "dflash": _DRAFT,
    "gemma4-assistant": _DRAFT,
    "clip": "a projector of images or sound for another model",
    "wavtokenizer-dec": _SOUND,
    "qwen3tts": _SOUND,
    "pockettts": _SOUND,
}


def check_generates(info: ModelInfo) -> None:
    """Let a model pass that generates text.

    Raises:
        ModelFileError: It is of another kind; the message names its architecture.
    """
    kind = REFUSED.get(info.architecture)
    if kind is None and not info.causal:
        kind = _EMBEDDING
    if kind is not None:
        raise ModelFileError(
            f"{info.path} is {kind} (architecture {info.architecture}); "
            "only models that generate text token by token are served"
        )
