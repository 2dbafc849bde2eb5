"""The scripted backend: arithmetic, and a strict reading of the contract."""

from __future__ import annotations

import pytest

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.scripted import (
    END_OF_SEQUENCE,
    VOCABULARY_SIZE,
    ByteTokenizer,
    ContractViolation,
    ScriptedBackend,
    next_token,
)
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    ClearSlot,
    CopyPrefix,
    DecodeRow,
    OpenSequence,
    PrefillChunk,
    SampledToken,
    Step,
)

PROMPT = (104, 101, 108, 108, 111)


@pytest.fixture
def backend() -> ScriptedBackend:
    config = BackendConfig(sequences=3, context_per_sequence=8)
    return ScriptedBackend(config=config)


def opened(*slots: int, top_logprobs: int | None = None) -> tuple[OpenSequence, ...]:
    return tuple(OpenSequence(slot, Sampling(), top_logprobs) for slot in slots)


def prefill(slot: int = 0, position: int = 0, tokens: tuple[int, ...] = PROMPT) -> PrefillChunk:
    return PrefillChunk(slot, position, tokens, sample=True)


def test_the_next_token_depends_on_all_before(backend: ScriptedBackend) -> None:
    result = backend.execute(Step(1, (), opened(0), (prefill(),)))
    first = next_token(list(PROMPT))
    assert result.tokens == (SampledToken(0, first),)
    assert result.number == 1
    result = backend.execute(Step(2, decodes=(DecodeRow(0, 5, first),)))
    assert result.tokens == (SampledToken(0, next_token([*PROMPT, first])),)


def test_chunks_and_company_change_nothing(backend: ScriptedBackend) -> None:
    whole = backend.execute(Step(1, (), opened(0), (prefill(),))).tokens[0].token
    parts = (
        PrefillChunk(1, 0, PROMPT[:2], sample=False),
        PrefillChunk(2, 0, (1,), sample=True),
    )
    first = backend.execute(Step(2, (), opened(1, 2), parts))
    assert [sampled.slot for sampled in first.tokens] == [2]
    rest = Step(3, (), (), (prefill(1, 2, PROMPT[2:]),), (DecodeRow(0, 5, 7),))
    assert backend.execute(rest).tokens[0] == SampledToken(1, whole)


def test_a_copied_prefix(backend: ScriptedBackend) -> None:
    backend.execute(Step(1, (), opened(0), (prefill(),)))
    copied = Step(2, (CopyPrefix(0, 1, 3),), opened(1), (prefill(1, 3, PROMPT[3:]),))
    assert backend.execute(copied).tokens == (SampledToken(1, next_token(list(PROMPT))),)


def test_a_slot_that_is_cleared_in_part(backend: ScriptedBackend) -> None:
    backend.execute(Step(1, (), opened(0), (prefill(),)))
    again = Step(2, (ClearSlot(0, 2),), (), (prefill(0, 2, PROMPT[2:]),))
    assert backend.execute(again).tokens == (SampledToken(0, next_token(list(PROMPT))),)


def test_log_probabilities(backend: ScriptedBackend) -> None:
    (sampled,) = backend.execute(Step(1, (), opened(0, top_logprobs=3), (prefill(),))).tokens
    assert sampled.logprobs is not None
    assert len(sampled.logprobs.top) == 3
    assert sampled.logprobs.top[0] == (sampled.token, 0.0)
    assert all(0 <= token < VOCABULARY_SIZE for token, _ in sampled.logprobs.top)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(2, (), (), (prefill(1),)), "slot 1 is not open"),
        (Step(2, decodes=(DecodeRow(0, 4, 1),)), "slot 0 is at 5, not 4"),
        (Step(2, decodes=(DecodeRow(0, 6, 1),)), "slot 0 is at 5, not 6"),
        (Step(2, (), (), (prefill(0, 5, ()),)), "an empty chunk"),
        (Step(2, (), (), (prefill(0, 5, (1, 2, 3, 4)),)), "context overrun"),
        (Step(2, (CopyPrefix(0, 1, 6),)), "copies more than the source holds"),
        (Step(2, (), opened(1), (prefill(1), prefill(1, 5, (1,)))), "two chunks for one slot"),
        (
            Step(2, (), (), (prefill(0, 5, (1,)),), (DecodeRow(0, 6, 1),)),
            "both prefills and decodes",
        ),
        (
            Step(2, (), opened(1), (), (DecodeRow(1, 0, 1), DecodeRow(0, 5, 1))),
            "not in ascending order",
        ),
        (Step(2, (), (), (), (DecodeRow(0, 5, 1), DecodeRow(0, 6, 1))), "not in ascending order"),
    ],
)
def test_steps_that_break_the_contract(backend: ScriptedBackend, step: Step, words: str) -> None:
    backend.execute(Step(1, (), opened(0), (prefill(),)))
    with pytest.raises(ContractViolation, match=words):
        backend.execute(step)


def test_the_script_ends_sometimes_and_is_text_otherwise() -> None:
    tokens = list(PROMPT)
    for _ in range(2000):
        tokens.append(next_token(tokens))
    assert END_OF_SEQUENCE in tokens
    assert len(set(tokens)) > 20
    assert bytes(token for token in tokens if token != END_OF_SEQUENCE).decode("ascii")


def test_the_tokenizer() -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode("é!", special=False)
    assert tokens == [0xC3, 0xA9, 0x21]
    assert b"".join(map(tokenizer.piece, tokens)).decode() == "é!"
    assert tokenizer.piece(END_OF_SEQUENCE) == b""
    assert tokenizer.name(END_OF_SEQUENCE) == b"<end>"
