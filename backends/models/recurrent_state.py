"""Computes the size of recurrent layers' state, which is fixed for each sequence.

Layers of Mamba, RWKV, gated delta nets and short convolutions fold all tokens into a
state of fixed size, in 32-bit numbers, where attention keeps keys and values of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

_BYTES_PER_ELEMENT = 4
_KDA_CONVOLUTION = 4
_RWKV_SHIFTS = 2


class StateShape(NamedTuple):
    """What a model file says of its recurrent layers.

    Attributes:
        convolution: Elements of one layer's last inputs.
        memory: Elements of one layer's folded past.
    """

    convolution: int
    memory: int

    @classmethod
    def read(cls, number: Callable[[str], int], width: int, heads: int) -> StateShape:
        """Read the shape, as llama.cpp derives it.

        Args:
            number: The integer under a key of the architecture; 0 where there is none.
            width: Of the model.
            heads: Attention heads of a layer.
        """
        if head := number("wkv.head_size"):
            shifts = number("token_shift_count") or _RWKV_SHIFTS
            return cls(shifts * width, width * head)
        if cached := number("shortconv.l_cache"):
            return cls(width * (cached - 1), 0)
        if head := number("kda.head_dim"):
            kernel = number("ssm.conv_kernel") or _KDA_CONVOLUTION
            return cls(3 * (kernel - 1) * heads * head, head * head * heads)
        inner, state = number("ssm.inner_size"), number("ssm.state_size")
        inputs = inner + 2 * number("ssm.group_count") * state
        return cls(max(number("ssm.conv_kernel") - 1, 0) * inputs, state * inner)

    def bytes_of(self, layers: int) -> int:
        """Bytes for one sequence in so many recurrent layers."""
        return layers * (self.convolution + self.memory) * _BYTES_PER_ELEMENT


def recurrent_layers(
    listed: Sequence[int], interval: int, kv_heads: Sequence[int], feed_forward: Sequence[int]
) -> tuple[bool, ...]:
    """Tell which layers keep a state.

    Args:
        listed: 1 for each that does, where the file lists them; else empty.
        interval: Every so many layers one has attention instead; 0 where that is not said.
        kv_heads: Key and value heads of each layer.
        feed_forward: Width of each layer's feed-forward part; it differs from layer to
            layer where it is a layer of its own.
    """
    if listed:
        return tuple(map(bool, listed))
    if interval:
        return tuple((layer + 1) % interval != 0 for layer in range(len(kv_heads)))
    if all(kv_heads):
        # Each layer has attention and a state, side by side.
        return (True,) * len(kv_heads)
    separate = len(set(feed_forward)) > 1 and not all(feed_forward)
    return tuple(
        not heads and not (separate and width)
        for heads, width in zip(kv_heads, feed_forward, strict=True)
    )
