"""The scripted backend: arithmetic, and a strict reading of the contract."""

from __future__ import annotations

import pytest
from steps import DRAW, Tokens, chunk, draw, opened, row

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.scripted import (
    END_OF_SEQUENCE,
    VOCABULARY_SIZE,
    ByteTokenizer,
    ContractViolation,
    ScriptedBackend,
    next_token,
)
from llm_serving_engine.scheduler.step import (
    FOLLOW,
    Close,
    Copy,
    Drop,
    Output,
    Restore,
    Run,
    RunResult,
    Save,
    Step,
)

PROMPT = (104, 101, 108, 108, 111)


@pytest.fixture
def backend() -> ScriptedBackend:
    config = BackendConfig(sequences=3, context_per_sequence=8)
    return ScriptedBackend(config=config)


def prefill(slot: int = 0, start: int = 0, tokens: Tokens = PROMPT) -> Run:
    return chunk(slot, tokens, start, DRAW)


def test_the_next_token_depends_on_all_before(backend: ScriptedBackend) -> None:
    result = backend.execute(Step(1, (opened(0),), (prefill(),)))
    first = next_token(list(PROMPT))
    assert result.runs == (RunResult(0, len(PROMPT), (first,)),)
    assert result.number == 1
    result = backend.execute(Step(2, (), (row(0, 5, first, DRAW),)))
    assert result.runs == (RunResult(0, 1, (next_token([*PROMPT, first]),)),)


def test_chunks_and_others_change_nothing(backend: ScriptedBackend) -> None:
    whole = draw(backend, opened(0), prefill())
    parts = (chunk(1, PROMPT[:2], output=Output.NONE), chunk(2, (1, 2), output=DRAW))
    assert len(draw(backend, opened(1), opened(2), *parts)) == 1
    assert draw(backend, prefill(1, 2, PROMPT[2:])) == whole


def test_a_copied_prefix(backend: ScriptedBackend) -> None:
    draw(backend, opened(0), prefill())
    result = backend.execute(Step(2, (Copy(0, 1, 3), opened(1)), (prefill(1, 3, PROMPT[3:]),)))
    assert result.runs[0].tokens == (next_token(list(PROMPT)),)


def test_a_run_drops_what_is_beyond_its_start(backend: ScriptedBackend) -> None:
    expected = draw(backend, opened(0), prefill())
    assert draw(backend, prefill(0, 2, PROMPT[2:])) == expected


def test_a_snapshot(backend: ScriptedBackend) -> None:
    expected = draw(backend, opened(0), prefill())
    backend.execute(Step(2, (Save(0, 9, 5),)))
    backend.execute(Step(3, (Restore(1, 9, 5), opened(1))))
    assert draw(backend, prefill(1, 4, PROMPT[4:])) == expected
    backend.execute(Step(4, (Drop(9),)))
    assert not backend.snapshots


def test_log_probabilities(backend: ScriptedBackend) -> None:
    ((token, logprobs),) = draw(backend, opened(0, top=3), chunk(0, PROMPT))
    assert logprobs is not None
    assert len(logprobs.top) == 3
    assert logprobs.top[0] == (token, 0.0)
    assert all(0 <= other < VOCABULARY_SIZE for other, _ in logprobs.top)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(2, (), (prefill(1),)), "key 1 is not open"),
        (Step(2, (), (row(0, 6, 1),)), "slot 0 is at 5, not 6"),
        (Step(2, (), (prefill(0, 5, ()),)), "a run without its tokens"),
        (Step(2, (), (row(0, 5, FOLLOW),)), "a run without its tokens"),
        (Step(2, (), (prefill(0, 5, (1, 2, 3, 4)),)), "context overrun"),
        (Step(2, (Copy(0, 1, 6),)), "copies more than the source holds"),
        (Step(2, (Copy(0, 0, 2),)), "copies a slot to itself"),
        (Step(2, (Save(0, 1, 4),)), "saves another length"),
        (Step(2, (Restore(1, 4, 2),)), "restores what was not saved"),
        (Step(2, (Drop(4),)), "drops what was not saved"),
        (Step(2, (Close(1),)), "closes a key that is not open"),
        (Step(2, (opened(1),), (prefill(1), prefill(0))), "not in ascending order"),
        (Step(2, (), (row(0, 5, 1), row(0, 6, 1))), "not in ascending order"),
        (Step(2, (opened(1),), (prefill(0, 5, (1, 2)), row(1, 0, 1))), "a row among chunks"),
        (
            Step(2, (opened(2),), (prefill(0, 5, (1, 2)), prefill(2))),
            "joined chunks with a hole between",
        ),
        (
            Step(2, (opened(1),), (prefill(0, 0, PROMPT * 2), prefill(1))),
            "joined chunks differ in length",
        ),
    ],
)
def test_steps_that_break_the_contract(backend: ScriptedBackend, step: Step, words: str) -> None:
    draw(backend, opened(0), prefill())
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


@pytest.mark.parametrize(
    ("settings", "longest"), [({"prefill_chunk": 512}, 512), ({"sequences": 300}, 300), ({}, 256)]
)
def test_a_call_takes_a_chunk_and_all_rows(settings: dict[str, int], longest: int) -> None:
    backend = ScriptedBackend(config=BackendConfig(**settings))  # type: ignore[arg-type]
    assert backend.report.capabilities.call_tokens_max == longest
