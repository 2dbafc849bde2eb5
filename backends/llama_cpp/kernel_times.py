"""How fast each kind of kernels multiplies with weights as a model has them.

A sample is measured, of the model's width and of each weight type that matters,
before anything of the model is loaded. It takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends.llama_cpp import ggml
from llm_serving_engine.backends.llama_cpp.ggml import Address
from llm_serving_engine.backends.llama_cpp.kernels import Kernels
from llm_serving_engine.backends.models.gguf_file import TENSOR_TYPES
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.other_processes import OtherProcesses

# What requests are taken to be when kinds are weighed: a question in a chat, and its answer.
PROMPT_TOKENS = 400
OUTPUT_TOKENS = 150
CHUNK = 64

ROUNDS_MAX = 5
SECONDS_MAX = 0.5
# Enough that a processor's caches do not hold all of it, as they do not hold a model.
SAMPLE_BYTES = 32_000_000
MATRICES_MAX = 16
# A type that holds less of the weights than this changes little.
SHARE_MIN = 0.1
# Other types are quantized by a search that takes longer than what is to be measured.
MEASURABLE = frozenset(
    {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
     "Q6_K", "IQ4_NL", "IQ4_XS"}
)  # fmt: skip

_CODES = {kind.name: code for code, kind in TENSOR_TYPES.items()}
_ROWS_UNIT = 64
_QUANTIZED_ROWS = 8


class CannotMeasure(Exception):
    """What was measured would mislead, or could not be measured; the message says why."""


class KernelTimes(NamedTuple):
    """What multiplying with all weights of a model takes.

    Attributes:
        decode_seconds: With a row of each of so many sequences.
        prefill_seconds: With `CHUNK` tokens of a prompt.
        keeps_bits: Whether a row's result was the same in any company.
    """

    decode_seconds: float
    prefill_seconds: float
    keeps_bits: bool

    def request_seconds(self, rows: int) -> float:
        """A prompt and an answer, where so many sequences share each step."""
        prompt = PROMPT_TOKENS / CHUNK * self.prefill_seconds
        return prompt + OUTPUT_TOKENS / rows * self.decode_seconds


@dataclass(frozen=True, slots=True)
class Weights:
    """The matrices of a model.

    Attributes:
        bytes: How much is stored in each type.
        columns: Elements of a row, as most matrices have them.
        rows: Rows of a matrix.
    """

    bytes: Mapping[str, int]
    columns: int
    rows: int

    @classmethod
    def of(cls, info: ModelInfo) -> Weights:
        """Those of a model."""
        width = info.embedding_length
        return cls(info.matrix_bytes, width, info.feed_forward_length or 4 * width)

    @property
    def measured_types(self) -> dict[str, int]:
        """The types that matter and can be measured, with their bytes."""
        least = SHARE_MIN * sum(self.bytes.values())
        return {
            name: size for name, size in self.bytes.items() if name in MEASURABLE and size >= least
        }


def distinct_kinds(kernels: Kernels, weights: Weights) -> tuple[str, ...]:
    """The kinds that put weights of this model in different places, in llama.cpp's own order."""
    found: dict[tuple[Address | None, ...], str] = {}
    for kind in kernels.kinds:
        shapes = (_Shape.of(weights, name, size) for name, size in weights.measured_types.items())
        places = (kernels.used(kind, one.code, one.columns, one.rows) for one in shapes)
        # Where two do the same, the one that takes least is its name.
        found[tuple(places)] = kind
    return tuple(found.values())


def measure(
    kernels: Kernels,
    weights: Weights,
    kinds: tuple[str, ...],
    threads: int,
    rows: int,
    others: OtherProcesses | None = None,
) -> dict[str, KernelTimes]:
    """Measure kinds in turns, so that what else the machine does hits all of them.

    Args:
        kernels: The kinds there are.
        weights: The model's.
        kinds: What to measure.
        threads: Threads that compute.
        rows: Rows of a decode step.
        others: What other processes take from now on. Default: of this machine.

    Raises:
        CannotMeasure: Others computed meanwhile, or there is no memory for the samples.
    """
    try:
        return _measure(kernels, weights, kinds, threads, rows, others or OtherProcesses())
    except MemoryError as error:
        raise CannotMeasure("there was no memory to measure") from error


def _measure(
    kernels: Kernels,
    weights: Weights,
    kinds: tuple[str, ...],
    threads: int,
    rows: int,
    others: OtherProcesses,
) -> dict[str, KernelTimes]:
    device = ggml.cpu_device()
    assert device is not None
    types = weights.measured_types
    with ExitStack() as stack:
        backend = stack.enter_context(ggml.computing(device, threads))
        samples: dict[tuple[str, Address], _Sample] = {}
        for name, size in types.items():
            shape = _Shape.of(weights, name, size)
            for kind in kinds:
                place = kernels.used(kind, shape.code, shape.columns, shape.rows)
                assert place is not None
                if (name, place) not in samples:
                    sample = _Sample(device, backend, shape, place, (rows, CHUNK))
                    samples[name, place] = stack.enter_context(sample.open())
        _run_rounds(list(samples.values()), others.clock)
        if others.crowded():
            raise CannotMeasure("other processes were computing, so nothing was measured")
        times = {}
        for kind in kinds:
            chosen = [
                (size, samples[name, kernels.used(kind, *_Shape.of(weights, name, size)) or device])
                for name, size in types.items()
            ]
            times[kind] = _summed(chosen, rows)
        return times


def _run_rounds(samples: list[_Sample], clock: Callable[[], float]) -> None:
    began = clock()
    for done in range(1, ROUNDS_MAX + 1):
        for sample in samples:
            sample.run(clock)
        if (clock() - began) * (done + 1) / done > SECONDS_MAX:
            return


def _summed(samples: list[tuple[int, _Sample]], rows: int) -> KernelTimes:
    """From the time of samples to that of all weights."""
    return KernelTimes(
        sum(size * sample.seconds[rows] / sample.bytes for size, sample in samples),
        sum(size * sample.seconds[CHUNK] / sample.bytes for size, sample in samples),
        all(sample.keeps_bits for _, sample in samples),
    )


class _Shape(NamedTuple):
    """One matrix of a sample."""

    code: int
    columns: int
    rows: int

    @classmethod
    def of(cls, weights: Weights, type_name: str, size: int) -> _Shape:
        """As the model's are, but for what the type demands, and no larger than a sample."""
        code = _CODES[type_name]
        _, block, block_bytes = TENSOR_TYPES[code]
        wished = (weights.columns, weights.rows)
        columns = next((n for n in wished if n % block == 0), -(-weights.columns // block) * block)
        row_bytes = columns // block * block_bytes
        rows = min(weights.rows, size // row_bytes, SAMPLE_BYTES // row_bytes)
        return cls(code, columns, max(rows // _ROWS_UNIT, 1) * _ROWS_UNIT)


class _Sample:
    """Matrices of one type in one place, and inputs to multiply them with.

    Attributes:
        bytes: Of all its matrices.
        seconds: The fastest time by the number of input rows.
        keeps_bits: Whether the first row's result was the same in any company.
    """

    def __init__(
        self,
        device: Address,
        backend: Address,
        shape: _Shape,
        place: Address,
        inputs: tuple[int, ...],
    ) -> None:
        self._device = device
        self._backend = backend
        self._shape = shape
        self._place = place
        self._inputs = sorted({1, *inputs})
        self._graphs: dict[int, Address] = {}
        self._results: dict[int, int] = {}
        self.bytes = 0
        self.seconds: dict[int, float] = {}
        self.keeps_bits = False

    @contextmanager
    def open(self) -> Iterator[_Sample]:
        """Have the matrices in memory."""
        code, columns, rows = self._shape
        with ExitStack() as stack:
            memory = stack.enter_context(ggml.arena())
            data = _weights(code, columns, rows)
            count = min(max(SAMPLE_BYTES // data.nbytes, 1), MATRICES_MAX)
            new = ggml.function("ggml_new_tensor_2d")
            matrices = [new(memory, code, columns, rows) for _ in range(count)]
            ggml.holds_weights(stack.enter_context(ggml.allocated(memory, self._place)))
            for matrix in matrices:
                ggml.function("ggml_backend_tensor_set")(matrix, data.ctypes.data, 0, data.nbytes)
            self.bytes = count * data.nbytes
            for tokens in self._inputs:
                self._add_graph(stack, matrices, tokens)
            self._warm_up()
            yield self

    def run(self, clock: Callable[[], float]) -> None:
        """Multiply once with each number of rows."""
        for tokens, graph in self._graphs.items():
            began = clock()
            ggml.function("ggml_backend_graph_compute")(self._backend, graph)
            took = clock() - began
            self.seconds[tokens] = min(took, self.seconds.get(tokens, took))

    def _add_graph(self, stack: ExitStack, matrices: list[int], tokens: int) -> None:
        memory = stack.enter_context(ggml.arena(1 << 22))
        columns = self._shape.columns
        inputs = ggml.function("ggml_new_tensor_2d")(memory, 0, columns, tokens)
        products = [ggml.function("ggml_mul_mat")(memory, one, inputs) for one in matrices]
        graph = ggml.function("ggml_new_graph")(memory)
        for product in products:
            ggml.function("ggml_build_forward_expand")(graph, product)
        stack.enter_context(ggml.allocated(memory, ggml.plain_buffer_type(self._device)))
        data = np.random.default_rng(0).standard_normal((tokens, columns), np.float32)
        ggml.function("ggml_backend_tensor_set")(inputs, data.ctypes.data, 0, data.nbytes)
        self._graphs[tokens], self._results[tokens] = graph, products[0]

    def _warm_up(self) -> None:
        """Compute everything once, and compare the first row's results."""
        for graph in self._graphs.values():
            ggml.function("ggml_backend_graph_compute")(self._backend, graph)
        first, *others = (self._first_row(tokens) for tokens in self._inputs)
        self.keeps_bits = all(np.array_equal(first, other) for other in others)

    def _first_row(self, tokens: int) -> npt.NDArray[np.float32]:
        row = np.empty(self._shape.rows, np.float32)
        ggml.function("ggml_backend_tensor_get")(
            self._results[tokens], row.ctypes.data, 0, row.nbytes
        )
        return row


def _weights(code: int, columns: int, rows: int) -> npt.NDArray[np.uint8]:
    """Random weights in a type: a few rows, again and again."""
    few = np.random.default_rng(1).standard_normal((_QUANTIZED_ROWS, columns), np.float32)
    _, block, block_bytes = TENSOR_TYPES[code]
    quantized = np.zeros((_QUANTIZED_ROWS, columns // block * block_bytes), np.uint8)
    importance = np.ones(columns, np.float32)
    ggml.function("ggml_quantize_chunk")(
        code, few.ctypes.data, quantized.ctypes.data, 0, _QUANTIZED_ROWS, columns,
        importance.ctypes.data,
    )  # fmt: skip
    return np.tile(quantized, (rows // _QUANTIZED_ROWS, 1))
