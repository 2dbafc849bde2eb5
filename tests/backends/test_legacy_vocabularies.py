"""The vocabularies of GGML files and of early Falcon files, in Python."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import pytest
from backend_cases import missing_library
from ggml_model import END_OF_TEXT, SPECIAL, tokens_of, write_ggml_model
from tiny_falcon import END_OF_TEXT as FALCON_END
from tiny_falcon import MERGES, write_tiny_falcon

from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound
from llm_serving_engine.backends.models.ggml_file import LAYOUTS, GGMLFile, is_legacy
from llm_serving_engine.backends.text.falcon_tokenizer import FalconTokenizer
from llm_serving_engine.backends.text.ggml_tokenizer import GGMLTokenizer
from llm_serving_engine.backends.text.tokenizer import Tokenizer

PARTS = (
    "the", " the", " once upon", " a time", "'s", "'ll", "123", " 4567", "!?", " (x)", "é", "😀",
    "\n\n", "\t ", "   ", "▁the", "<|user|>", "<|end|>", "### End", "### Response:", "<|", "_",
)  # fmt: skip


def texts() -> list[str]:
    """Some of everything, in random order."""
    dice = random.Random(0)
    return ["".join(dice.choices(PARTS, k=dice.randint(1, 12))) for _ in range(200)]


def ggml_tokenizer(folder: Path, architecture: str) -> GGMLTokenizer:
    path = write_ggml_model(folder / "model.bin", architecture)
    return GGMLTokenizer(GGMLFile.read(path, architecture))


@pytest.mark.parametrize("architecture", LAYOUTS)
def test_as_ctransformers_tokenizes(architecture: str, tmp_path: Path) -> None:
    if missing_library():
        pytest.skip(missing_library())
    from ctransformers.llm import LLM

    ours = ggml_tokenizer(tmp_path, architecture)
    theirs = LLM(str(tmp_path / "model.bin"), architecture)
    # Its own method takes a buffer for characters, and writes tokens of bytes to it.
    buffer = (ctypes.c_int * 4096)()
    for text in texts():
        count = theirs.ctransformers_llm_tokenize(text.encode(), False, buffer)
        assert ours.encode(text, special=True) == buffer[:count], text
    # A token of a zero byte ends its C string.
    for token in set(range(ours.vocabulary_size)) - {1}:
        assert theirs.detokenize([token], decode=False) == ours.name(token)
        assert theirs.is_eos_token(token) == (token in ours.stop_tokens)


@pytest.mark.parametrize("architecture", LAYOUTS)
def test_texts_come_back(architecture: str, tmp_path: Path) -> None:
    tokenizer = ggml_tokenizer(tmp_path, architecture)
    for text in texts():
        tokens = tokenizer.encode(text, special=False)
        given_back = spelled(tokenizer, tokens)
        if architecture == "replit":
            # It writes spaces as this character, and cannot tell them from it.
            given_back, text = given_back.replace("▁", " "), text.replace("▁", " ")
        assert given_back == text
        assert len(text.encode()) <= tokenizer.longest_piece * len(tokens)


def spelled(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return b"".join(map(tokenizer.name, tokens)).decode()


@pytest.mark.parametrize("architecture", ["dolly-v2", "starcoder"])
def test_control_tokens_are_text_in_a_prompt(architecture: str, tmp_path: Path) -> None:
    tokenizer = ggml_tokenizer(tmp_path, architecture)
    for name in SPECIAL[architecture]:
        (token,) = tokenizer.encode(name.decode(), special=True)
        assert tokenizer.piece(token) == b""
        assert tokenizer.name(token) == name
        written = tokenizer.encode(name.decode(), special=False)
        assert len(written) > 1
        assert token not in written
    assert tokenizer.eos_text == END_OF_TEXT.decode()
    assert len(tokenizer.stop_tokens) == 2
    with pytest.raises(IndexError, match="token 999 is not within"):
        tokenizer.piece(999)


def test_a_long_word_takes_no_longer_than_a_long_text(tmp_path: Path) -> None:
    for tokenizer in (
        ggml_tokenizer(tmp_path, "gpt2"),
        ggml_tokenizer(tmp_path, "replit"),
        FalconTokenizer(write_tiny_falcon(tmp_path / "falcon.gguf")),
    ):
        assert len(tokenizer.encode("b" * 100_000, special=False)) == 100_000


@pytest.fixture(scope="module")
def falcon(tmp_path_factory: pytest.TempPathFactory) -> FalconTokenizer:
    return FalconTokenizer(write_tiny_falcon(tmp_path_factory.mktemp("falcon") / "falcon.gguf"))


def test_falcon_merges_in_the_order_of_its_merges(falcon: FalconTokenizer) -> None:
    named = {falcon.name(token): token for token in range(falcon.vocabulary_size)}
    for text, parts in (
        ("the", [b"t", b"he"]),
        (" the", [b" the"]),
        (" then", [b" the", b"n"]),
        (" tone", [b" t", b"on", b"e"]),
        ("é", ["é".encode()]),
        ("ë", [b"\xc3", b"\xab"]),
        # Two line breaks are one token, and the last space goes with the word.
        ("\n\n  on", [b"\n\n", b" ", b" ", b"on"]),
        # Punctuation leaves its space behind; a number is cut after three digits.
        (" (1234)", [b" ", b"(", b"1", b"2", b"3", b"4", b")"]),
        ("hehe", [b"he", b"he"]),
    ):
        assert falcon.encode(text, special=False) == [named[part] for part in parts], text
    assert len(MERGES) == falcon.vocabulary_size - 257


def test_falcon_gives_texts_back(falcon: FalconTokenizer) -> None:
    for text in texts():
        assert spelled(falcon, falcon.encode(text, special=False)) == text
    both = "on<|endoftext|>on"
    assert FALCON_END in falcon.encode(both, special=True)
    assert FALCON_END not in falcon.encode(both, special=False)
    assert falcon.piece(FALCON_END) == b""
    assert falcon.stop_tokens == {FALCON_END}
    assert falcon.encode("", special=True) == []
    with pytest.raises(IndexError, match="is not within"):
        falcon.name(-1)


# The files


@pytest.mark.parametrize("architecture", LAYOUTS)
def test_what_a_file_says(architecture: str, tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "model.bin", architecture)
    assert is_legacy(path)
    file = GGMLFile.read(path, architecture)
    assert len(file.tokens) == len(tokens_of(architecture))
    assert file.tokens[0] == END_OF_TEXT
    info = file.info
    assert (info.architecture, info.quantization, info.training_context) == (
        architecture, "F32", 256,
    )  # fmt: skip
    assert (info.layers, info.embedding_length, info.heads) == (2, 32, 2)
    assert info.weights_bytes == 4 * info.parameter_count > 100_000


@pytest.mark.parametrize("architecture", [None, "bert"])
def test_an_architecture_must_be_named(architecture: str | None, tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "model.bin", "gpt2")
    with pytest.raises(ModelFileError, match=r"model\.runner\.architecture .*dolly-v2, gpt2"):
        GGMLFile.read(path, architecture)


@pytest.mark.parametrize("architecture", sorted(set(LAYOUTS) - {"gpt2", "starcoder"}))
def test_another_architecture_is_noticed(architecture: str, tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "model.bin", "gpt2")
    with pytest.raises(ModelFileError, match=f"(not a sound|not of) {architecture}"):
        GGMLFile.read(path, architecture)


@pytest.mark.parametrize("length", [0, 3, 10, 40, 2000, -1])
def test_a_file_that_ends_early(length: int, tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "model.bin", "gpt2")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelFileError, match=r"truncated|is empty"):
        GGMLFile.read(path, "gpt2")


def test_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"tjgg" + bytes(100))
    assert is_legacy(path)
    with pytest.raises(ModelFileError, match="a GGJT file, which is not read here: convert it"):
        GGMLFile.read(path, "gpt2")
    path.write_bytes(b"GGUF" + bytes(100))
    assert not is_legacy(path)
    with pytest.raises(ModelFileError, match="not a GGML file"):
        GGMLFile.read(path, "gpt2")
    path.unlink()
    assert not is_legacy(path)
    with pytest.raises(ModelNotFound):
        GGMLFile.read(path, "gpt2")


def test_an_older_quantization(tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "model.bin", "gpt_neox")
    data = path.read_bytes()
    # The first tensor, called Q4_0: 32 elements take 18 bytes instead of 128.
    name = b"gpt_neox.embed_in.weight"
    at = data.index(name)
    elements = 32 * len(tokens_of("gpt_neox"))
    kind = data[at - 12 : at - 8]
    assert kind == bytes(4)
    begin, rest = data[: at - 12], data[at - 8 : at + len(name)]
    weights = data[at + len(name) : at + len(name) + elements // 32 * 18]
    path.write_bytes(begin + b"\x02\0\0\0" + rest + weights)
    with pytest.raises(
        ModelFileError, match="quantized in version 0 of the format; only version 2"
    ):
        GGMLFile.read(path, "gpt_neox")
