"""Explains llama.cpp's abort messages by the defect of the model file that caused them."""

from __future__ import annotations

import re

# Keyed by a part of the failed assertion. Other messages are repeated unchanged.
_MEANINGS = {
    "id_to_token.size() == token_to_id.size()": "its vocabulary holds the same token twice",
    "model vocab missing newline token": "its vocabulary has no token for a line break",
    "LLAMA_VOCAB_TYPE_NONE": "it has no vocabulary",
    "Tokenizer not initialized": "it has no vocabulary",
    "special_bos_id != LLAMA_TOKEN_NULL": "its vocabulary has no beginning-of-sequence token",
    "token_bos() != LLAMA_TOKEN_NULL": "its vocabulary has no beginning-of-sequence token",
    "special_eos_id != LLAMA_TOKEN_NULL": "its vocabulary has no end-of-sequence token",
    "token_eos() != LLAMA_TOKEN_NULL": "its vocabulary has no end-of-sequence token",
    "special_sep_id != LLAMA_TOKEN_NULL": "its vocabulary has no separator token",
    "token_left.find(' ')": "a merge of its vocabulary has a space in a token",
    "token_right.find(' ')": "a merge of its vocabulary has a space in a token",
    "is_byte(id)": "a byte token of its vocabulary is not marked as one",
    "n_layer_all > 0": "its number of layers is out of range",
    "n_expert <= LLAMA_MAX_EXPERTS": "its number of experts is out of range",
    "n_expert_used_max": "its number of experts in use does not suit its number of experts",
    "n_expert_groups": "its number of groups of experts does not suit its number of experts",
    "rope_scaling_type_train": "its rope scaling is of an unknown type",
    "must be power of 2": "its alignment is not a power of two",
}
_PLACE = re.compile(r"^\S*?([^/\s]+):(\d+): ")
_WORDS_MAX = 300


def explain(abort_message: str) -> str:
    """Explain an abort message as the end of a sentence that begins with the file's name.

    Args:
        abort_message: For example "/src/llama-vocab.cpp:2544: GGML_ASSERT(...) failed".
    """
    for part, meaning in _MEANINGS.items():
        if part in abort_message:
            return meaning
    return f"llama.cpp gives up at {shorten(abort_message)}"


def shorten(abort_message: str) -> str:
    """Remove the path of the library's build folder, and truncate long messages."""
    return _PLACE.sub(r"\1:\2: ", abort_message)[:_WORDS_MAX]
