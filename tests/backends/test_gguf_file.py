from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_serving_engine.backends.models.errors import ModelError, ModelFileError, ModelNotFound
from llm_serving_engine.backends.models.gguf_file import TENSOR_TYPES, GGUFFile
from llm_serving_engine.backends.models.info import FILE_TYPES, ModelInfo


def test_agrees_with_the_reference_reader(builtin_model_path: Path) -> None:
    ours, reference = GGUFFile.read(builtin_model_path), gguf.GGUFReader(builtin_model_path)
    for tensor, other in zip(ours.tensors, reference.tensors, strict=True):
        shape = tuple(int(length) for length in other.shape)
        assert (tensor.name, tensor.shape, tensor.bytes) == (other.name, shape, other.n_bytes)
        assert (tensor.elements, tensor.type.name) == (other.n_elements, other.tensor_type.name)
    for key, value in ours.metadata.items():
        field = reference.get_field(key)
        assert field is not None
        contents = field.contents()
        assert value == (tuple(contents) if isinstance(contents, list) else contents)
    assert ours.array_lengths["tokenizer.ggml.tokens"] == 49152


def test_the_table_of_types_is_the_formats() -> None:
    for code, ours in TENSOR_TYPES.items():
        if ours.name != "Q2_0":  # newer than the reference
            reference = gguf.GGMLQuantizationType(code)
            assert (ours.name, ours[1:]) == (reference.name, gguf.GGML_QUANT_SIZES[reference])


def test_the_table_of_file_types_is_the_formats() -> None:
    for number, name in FILE_TYPES.items():
        if name != "Q2_0":
            assert gguf.LlamaFileType(number).name.partition("_")[2] == name


def test_what_the_builtin_model_says(builtin_model_path: Path) -> None:
    info = ModelInfo.read(builtin_model_path)
    assert (info.architecture, info.quantization, info.parameter_count) == (
        "llama", "Q4_1", 134_515_008,
    )  # fmt: skip
    assert (info.layers, info.heads, info.kv_heads) == (30, 9, (3,) * 30)
    assert (info.key_length, info.value_length) == (64, 64)
    # 30 layers, 3 heads, 64 elements of key and of value, 2 bytes each.
    assert info.cache_bytes_per_token() == 23_040
    assert info.cache_bytes_per_token(34 / 32) == 12_240


def test_what_the_tiny_model_says(tiny_model_path: Path) -> None:
    info = ModelInfo.read(tiny_model_path)
    assert (info.training_context, info.layers) == (1024, 2)
    assert info.description == "Tiny Random Llama"
    assert info.chat_template is not None


def test_a_missing_file() -> None:
    with pytest.raises(ModelNotFound):
        GGUFFile.read(Path("nowhere.gguf"))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read: Is a directory"):
        GGUFFile.read(tmp_path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "only 0 bytes"),
        (b"GGUF", "only 4 bytes"),
        (b"PK\3\4" + bytes(100), "is not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "holds no language model"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "claims 1152921504606846976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata entries"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 40), "a string of 1099511627776 bytes"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 20), "ends within its header"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 99), "unknown type 99"),
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 8, 1 << 40),
            "more than 4000000 strings",
        ),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 9, 1), "an array of unknown"),
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 1 << 62),
            "ends within its header",
        ),
    ],
)
def test_a_broken_header_is_named_in_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as raised:
        ModelInfo.read(path)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file(tiny_model_path: Path, tmp_path: Path, share: float) -> None:
    data = tiny_model_path.read_bytes()
    path = tmp_path / "truncated.gguf"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelFileError, match="is truncated"):
        ModelInfo.read(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 8000), st.binary(min_size=1, max_size=8)), min_size=1)
)
def test_a_damaged_header_is_an_error_or_harmless(
    changes: list[tuple[int, bytes]], tiny_model_path: Path, tmp_path: Path
) -> None:
    data = bytearray(tiny_model_path.read_bytes())
    for position, replacement in changes:
        data[position : position + len(replacement)] = replacement
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    # Any other exception fails.
    with contextlib.suppress(ModelError):
        ModelInfo.read(path)
