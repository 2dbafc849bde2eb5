"""Vocabularies of every kind that llama.cpp knows, with and without keys for special tokens."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from vocabularies import BYTES, KINDS, byte_letters, write_vocabulary

from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.text.tokenizer import LlamaTokenizer

TEXT = "Once and, for all"
CONTROL, NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
COMMA = 11


def text_of(tokenizer: LlamaTokenizer, text: str) -> str:
    return b"".join(map(tokenizer.piece, tokenizer.encode(text, special=False))).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_back(kind: str, tmp_path: Path) -> None:
    tokenizer = LlamaTokenizer(write_vocabulary(tmp_path / "v.gguf", kind))
    # WordPiece writes small letters, and a space around each sign.
    text = "once and , for all" if kind == "WPM" else TEXT
    assert text_of(tokenizer, TEXT).lstrip() == text


@pytest.mark.parametrize("kind", ["SPM", "BPE", "RWKV", "PLaMo2"])
def test_vocabularies_of_bytes_spell_any_text(kind: str, tmp_path: Path) -> None:
    tokenizer = LlamaTokenizer(write_vocabulary(tmp_path / "v.gguf", kind))
    text = "Grüße, 世界! 👩‍👩‍👧\0\n\t é\u0301"
    assert text_of(tokenizer, text).removeprefix(" ") == text


@pytest.mark.parametrize("kind", KINDS)
def test_text_cut_at_control_tokens_gives_the_tokens_of_the_whole(
    kind: str, tmp_path: Path
) -> None:
    tokenizer = LlamaTokenizer(write_vocabulary(tmp_path / "v.gguf", kind))
    names = [entry for entry, token_type in KINDS[kind][1] if token_type is CONTROL]
    assert names
    for name in names:
        for text in (TEXT, f"{name}{TEXT}", f"{TEXT} {name}\n{TEXT}{name}{name} ", f"{name} "):
            pieces = tokenizer.control_tokens.split(text)
            assert tokenizer.encode_pieces(pieces) == tokenizer.encode(text, special=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_keys_name_the_special_tokens(kind: str, tmp_path: Path) -> None:
    _, entries, _ = KINDS[kind]
    keys = {"bos": len(entries) - 2, "eos": len(entries) - 1}
    tokenizer = LlamaTokenizer(write_vocabulary(tmp_path / "v.gguf", kind, special=keys))
    names = [tokenizer.name(token).decode("utf-8", "replace").strip() for token in keys.values()]
    assert [tokenizer.bos_text.strip(), tokenizer.eos_text.strip()] == names
    assert keys["eos"] in tokenizer.stop_tokens


def byte_level(path: Path, **special: int) -> LlamaTokenizer:
    """GPT-2's order of bytes, in which "," is token 11, and two control tokens after it."""
    letters = [chr(byte) for byte in range(33, 127)]
    rest = [letter for letter in byte_letters() if letter not in letters]
    names = ("<|begin|>", "<|done|>")
    entries = [(text, NORMAL) for text in (*letters, *rest)] + [(name, CONTROL) for name in names]
    return LlamaTokenizer(write_vocabulary(path / "v.gguf", "BPE", entries, special))


def test_a_file_without_keys_gets_no_default(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    assert tokenizer.name(COMMA) == b","
    assert tokenizer.stop_tokens == frozenset()
    assert (tokenizer.bos_text, tokenizer.eos_text) == ("", "")
    assert tokenizer.piece(tokenizer.encode(TEXT, special=False)[0]) == b"O"


def test_a_key_that_names_no_token_is_as_none(tmp_path: Path) -> None:
    assert byte_level(tmp_path, eos=1_000_000, bos=1_000_000).stop_tokens == frozenset()


def test_a_key_may_name_any_token(tmp_path: Path) -> None:
    assert byte_level(tmp_path, eos=COMMA).stop_tokens == {COMMA}
    assert byte_level(tmp_path, eos=257, eot=256).stop_tokens == {256, 257}
    assert byte_level(tmp_path, eot=COMMA).stop_tokens == {COMMA}


def test_sentencepieces_defaults_are_taken_where_they_are_control_tokens(tmp_path: Path) -> None:
    tokenizer = LlamaTokenizer(write_vocabulary(tmp_path / "v.gguf", "SPM"))
    assert (tokenizer.bos_text, tokenizer.eos_text) == ("<s>", "</s>")
    assert tokenizer.encode("", special=False) == [1]
    words = [("<unk>", gguf.TokenType.UNKNOWN), ("a", NORMAL), ("b", NORMAL), *BYTES]
    tokenizer = LlamaTokenizer(write_vocabulary(tmp_path / "w.gguf", "SPM", words))
    assert (tokenizer.bos_text, tokenizer.eos_text) == ("", "")
    assert tokenizer.encode("", special=False) == []
    assert tokenizer.stop_tokens == frozenset()


@pytest.mark.parametrize("name", ["none", "no_vocab", ""])
def test_a_file_without_a_vocabulary_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "none", (name, KINDS["RWKV"][1], float))
    path = write_vocabulary(tmp_path / "v.gguf", "none")
    with pytest.raises(ModelFileError, match="has no vocabulary") as caught:
        LlamaTokenizer(path)
    assert str(path) in str(caught.value)
