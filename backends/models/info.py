"""Reads a model's properties from its file, and derives its memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.models.gguf_file import GGUFFile, Tensor
from llm_serving_engine.backends.models.recommended_sampling import recommended_sampling
from llm_serving_engine.backends.models.recurrent_state import StateShape, recurrent_layers
from llm_serving_engine.backends.models.split import read_whole

# What `general.file_type` means: llama.cpp's llama_ftype.
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}

_SPECIAL_TOKEN = re.compile(r"tokenizer\.ggml\.(\w+)_token_id")
_MISSING = -1


# Values of `general.type` of files that only supplement a model.
_OTHER_KINDS = {
    "adapter": "an adapter",
    "imatrix": "an importance matrix",
    "mmproj": "a projector for images or sound",
}
# More than any count that describes a model: what is above is damage.
_INTEGER_MAX = 1 << 31


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model, as its file describes it.

    Attributes:
        path: The file.
        architecture: Such as "llama".
        description: The name that the file gives, or the file's own name.
        parameter_count: Weights in all.
        quantization: How most of them are stored, such as "Q4_1".
        vocabulary_size: Tokens.
        training_context: Tokens; 0 where the file does not say.
        layers: Transformer blocks.
        embedding_length: Width of the model.
        heads: Attention heads of a layer.
        kv_heads: Key and value heads of each layer; 0 for a layer without a cache.
        key_length: Elements of one head's key.
        value_length: Elements of one head's value.
        weights_bytes: Bytes of all weights.
        chat_template: Jinja source, or None.
        matrix_bytes: Of the weights that activations are multiplied with, by
            how they are stored.
        feed_forward_length: Width of the feed-forward part; 0 where the file
            does not say.
        vocabulary_kind: What `tokenizer.ggml.model` says, such as "gpt2"; empty
            where the file does not say.
        special_tokens: The ids of special tokens that the file gives, by name:
            "bos", "eos", and so on.
        state_bytes: What recurrent layers keep of a sequence, however long it is;
            0 where there are none.
        causal: Whether a token sees those before it alone: not in encoders.
        sampling: How the file recommends to choose tokens, by the names of `Sampling`.
    """

    path: Path
    architecture: str
    description: str
    parameter_count: int
    quantization: str
    vocabulary_size: int
    training_context: int
    layers: int
    embedding_length: int
    heads: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    weights_bytes: int
    chat_template: str | None
    matrix_bytes: Mapping[str, int] = field(default_factory=dict)
    feed_forward_length: int = 0
    vocabulary_kind: str = ""
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    state_bytes: int = 0
    causal: bool = True
    sampling: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> ModelInfo:
        """Read a file's header; of a split model, those of all parts.

        Raises:
            ModelNotFound: There is no such file, or a part is missing.
            ModelFileError: It is not a whole GGUF file, or not of a language model.
        """
        return cls.of(read_whole(path))

    @classmethod
    def of(cls, file: GGUFFile) -> ModelInfo:
        """What a header says. Raises ModelFileError where it is not a language model's."""
        facts = _Facts(file)
        kind = facts.text("general.type")
        if kind in _OTHER_KINDS:
            raise ModelFileError(f"{file.path} is {_OTHER_KINDS[kind]}, not a model")
        architecture = facts.text("general.architecture")
        layers = facts.integer(f"{architecture}.block_count")
        if not layers or not file.tensors:
            raise ModelFileError(f"{file.path} holds no language model")
        embedding_length = facts.integer(f"{architecture}.embedding_length")
        heads = max(facts.per_layer(f"{architecture}.attention.head_count", layers))
        head_length = embedding_length // heads if heads else 0
        feed_forward = facts.per_layer(f"{architecture}.feed_forward_length", layers)
        kv_heads, state_bytes = facts.layer_caches(architecture, layers, feed_forward)
        return cls(
            path=file.path,
            architecture=architecture,
            description=facts.text("general.name") or file.path.stem,
            parameter_count=sum(tensor.elements for tensor in file.tensors),
            quantization=facts.quantization(),
            vocabulary_size=file.array_lengths.get("tokenizer.ggml.tokens", 0),
            training_context=facts.integer(f"{architecture}.context_length"),
            layers=layers,
            embedding_length=embedding_length,
            heads=heads,
            kv_heads=kv_heads,
            key_length=facts.integer(f"{architecture}.attention.key_length", head_length),
            value_length=facts.integer(f"{architecture}.attention.value_length", head_length),
            weights_bytes=sum(tensor.bytes for tensor in file.tensors),
            chat_template=facts.text("tokenizer.chat_template") or None,
            matrix_bytes=_matrix_bytes(file.tensors),
            feed_forward_length=max(feed_forward, default=0),
            vocabulary_kind=facts.text("tokenizer.ggml.model"),
            special_tokens=facts.special_tokens(),
            state_bytes=state_bytes,
            causal=facts.flag(f"{architecture}.attention.causal", default=True),
            sampling=recommended_sampling(file.metadata),
        )

    def cache_bytes_per_token(self, bytes_per_element: float = 2.0) -> int:
        """Bytes of the key and value cache for one token of context.

        Args:
            bytes_per_element: 2.0 for an f16 cache, 34 / 32 for q8_0.
        """
        elements = sum(self.kv_heads) * (self.key_length + self.value_length)
        return round(elements * bytes_per_element)

    def sequence_bytes(self, context: int, bytes_per_element: float = 2.0) -> int:
        """Return the bytes of a sequence: its cache of `context` tokens, and its state."""
        return context * self.cache_bytes_per_token(bytes_per_element) + self.state_bytes


def _matrix_bytes(tensors: Iterable[Tensor]) -> dict[str, int]:
    # Rows of the embeddings are looked up, not multiplied with.
    matrices = (t for t in tensors if len(t.shape) > 1 and t.name != "token_embd.weight")
    sizes: Counter[str] = Counter()
    for tensor in matrices:
        sizes[tensor.type.name] += tensor.bytes
    return dict(sizes)


class _Facts:
    """Typed access to metadata that may be missing or of another type than expected."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file

    def text(self, key: str) -> str:
        value = self._file.metadata.get(key)
        return value if isinstance(value, str) else ""

    def integer(self, key: str, default: int = 0) -> int:
        value = self._file.metadata.get(key)
        if not isinstance(value, int) or value < 0:
            return default
        if value > _INTEGER_MAX:
            raise ModelFileError(f"{self._file.path} claims that {key} is {value}")
        return value

    def per_layer(self, key: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """One value for each layer; a single one in the file stands for all."""
        value = self._file.metadata.get(key)
        if isinstance(value, tuple) and len(value) >= layers:
            return tuple(max(0, int(count)) for count in value[:layers])
        if layers > len(self._file.tensors):
            raise ModelFileError(
                f"{self._file.path} claims {layers} layers and lacks their weights"
            )
        return (self.integer(key, default),) * layers

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._file.metadata.get(key)
        return value if isinstance(value, bool) else default

    def listed(self, key: str, layers: int) -> tuple[int, ...]:
        """One value for each layer where the file has any; else empty."""
        return self.per_layer(key, layers) if key in self._file.metadata else ()

    def layer_caches(
        self, architecture: str, layers: int, feed_forward: tuple[int, ...]
    ) -> tuple[tuple[int, ...], int]:
        """Key and value heads of each layer, and the bytes of all layers' states."""
        heads = max(self.per_layer(f"{architecture}.attention.head_count", layers))
        kv_key = f"{architecture}.attention.head_count_kv"
        kv_heads = self.per_layer(kv_key, layers, default=heads)
        width = self.integer(f"{architecture}.embedding_length")
        state = StateShape.read(lambda key: self.integer(f"{architecture}.{key}"), width, heads)
        if not any(state):
            return kv_heads, 0
        listed = self.listed(f"{architecture}.attention.recurrent_layers", layers)
        interval = self.integer(f"{architecture}.full_attention_interval")
        recurrent = recurrent_layers(listed, interval, kv_heads, feed_forward)
        if not all(recurrent):
            kv_heads = tuple(
                0 if keeps_state else count
                for count, keeps_state in zip(kv_heads, recurrent, strict=True)
            )
        return kv_heads, state.bytes_of(sum(recurrent))

    def special_tokens(self) -> dict[str, int]:
        """The ids under `tokenizer.ggml.{name}_token_id`, by name."""
        keys = (key for key in self._file.metadata if key.startswith("tokenizer.ggml."))
        found = ((_SPECIAL_TOKEN.fullmatch(key), self.integer(key, _MISSING)) for key in keys)
        return {match[1]: token for match, token in found if match and token != _MISSING}

    def quantization(self) -> str:
        """The file type's name; where it has none, that of most of the bytes."""
        value = self._file.metadata.get("general.file_type")
        if isinstance(value, int) and value in FILE_TYPES:
            return FILE_TYPES[value]
        stored: Counter[str] = Counter()
        for tensor in self._file.tensors:
            stored[tensor.type.name] += tensor.bytes
        return stored.most_common(1)[0][0]
