"""A random Llama of one layer: its GGUF file, and its logits computed by NumPy."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends.self_check.weights import (
    WEIGHT_TYPES,
    Matrix,
    WeightType,
    encode,
)

TOKENS = 256
WIDTH = 256  # the K types store 256 weights together
HIDDEN = 512
HEADS = 4
KV_HEADS = 2
HEAD_WIDTH = WIDTH // HEADS
CONTEXT = 128
EPSILON = 1e-5
ROPE_BASE = 10_000.0
_ALIGNMENT = 32
_SHAPES = {
    "blk.0.attn_q.weight": (WIDTH, WIDTH),
    "blk.0.attn_k.weight": (KV_HEADS * HEAD_WIDTH, WIDTH),
    "blk.0.attn_v.weight": (KV_HEADS * HEAD_WIDTH, WIDTH),
    "blk.0.attn_output.weight": (WIDTH, WIDTH),
    "blk.0.ffn_gate.weight": (HIDDEN, WIDTH),
    "blk.0.ffn_up.weight": (HIDDEN, WIDTH),
    "blk.0.ffn_down.weight": (WIDTH, HIDDEN),
    "output.weight": (TOKENS, WIDTH),
}
_NORMS = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")

Doubles = npt.NDArray[np.float64]


class TinyLlama:
    """The model, its matrices stored in one type."""

    def __init__(self, type_: WeightType, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.matrices: dict[str, Matrix] = {}
        for name, (rows, columns) in _SHAPES.items():
            values = random.standard_normal((rows, columns), np.float32) / np.sqrt(columns)
            self.matrices[name] = encode(values.astype(np.float32), type_)
        embeddings = random.standard_normal((TOKENS, WIDTH), np.float32)
        self.matrices["token_embd.weight"] = encode(embeddings, WEIGHT_TYPES["F32"])

    # By NumPy

    def logits(self, tokens: npt.NDArray[np.int32]) -> Doubles:
        """The logits after each of the tokens, of shape (tokens, TOKENS)."""
        stream = self._values("token_embd.weight")[tokens]
        stream = stream + self._attention(_normal(stream))
        stream = stream + self._feed_forward(_normal(stream))
        return _normal(stream) @ self._values("output.weight").T

    def _attention(self, rows: Doubles) -> Doubles:
        queries, keys, values = (
            (rows @ self._values(f"blk.0.attn_{name}.weight").T).reshape(len(rows), -1, HEAD_WIDTH)
            for name in "qkv"
        )
        shared = HEADS // KV_HEADS
        keys, values = _rotated(keys).repeat(shared, 1), values.repeat(shared, 1)
        scores = np.einsum("qhd,khd->hqk", _rotated(queries), keys) / np.sqrt(HEAD_WIDTH)
        scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heads = np.einsum("hqk,khd->qhd", weights, values).reshape(len(rows), WIDTH)
        return np.asarray(heads @ self._values("blk.0.attn_output.weight").T)

    def _feed_forward(self, rows: Doubles) -> Doubles:
        gate = rows @ self._values("blk.0.ffn_gate.weight").T
        up = rows @ self._values("blk.0.ffn_up.weight").T
        return np.asarray(
            (gate / (1 + np.exp(-gate)) * up) @ self._values("blk.0.ffn_down.weight").T
        )

    def _values(self, name: str) -> Doubles:
        return self.matrices[name].values.astype(np.float64)

    # As a file

    def write(self, path: Path) -> None:
        """Write the model as a GGUF file without a vocabulary."""
        ones = np.ones((1, WIDTH), np.float32)
        norms = {name: encode(ones, WEIGHT_TYPES["F32"]) for name in _NORMS}
        tensors = {**self.matrices, **norms}
        header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(_METADATA))
        header += b"".join(_string(name) + _value(value) for name, value in _METADATA.items())
        data = b""
        for name, matrix in tensors.items():
            rows, columns = matrix.values.shape
            shape = (columns,) if name in _NORMS else (columns, rows)
            header += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            header += struct.pack("<IQ", matrix.type.number, len(data))
            data += _padded(matrix.stored)
        path.write_bytes(_padded(header) + data)


_METADATA: dict[str, str | int | float] = {
    "general.architecture": "llama",
    "llama.vocab_size": TOKENS,
    "llama.context_length": CONTEXT,
    "llama.block_count": 1,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": HIDDEN,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": EPSILON,
    "llama.rope.dimension_count": HEAD_WIDTH,
    "llama.rope.freq_base": ROPE_BASE,
    "tokenizer.ggml.model": "none",
}


def _normal(rows: Doubles) -> Doubles:
    return np.asarray(rows / np.sqrt((rows * rows).mean(-1, keepdims=True) + EPSILON))


def _rotated(heads: Doubles) -> Doubles:
    """Each pair of neighbours turned by its angle; `heads` of shape (positions, heads, width)."""
    frequencies = ROPE_BASE ** (-np.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
    angles = np.arange(len(heads))[:, None, None] * frequencies
    even, odd = heads[..., 0::2], heads[..., 1::2]
    turned = np.empty_like(heads)
    turned[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
    turned[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
    return turned


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack("<If", 6, value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
