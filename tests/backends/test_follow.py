"""Rows that follow what was drawn before them, over one call or several."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.backends.scripted import ScriptedBackend, next_token
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import FOLLOW, Open, Output, Run, Step, StepResult

PROMPT = (7, 8, 9)


def drawn(tokens: int) -> list[int]:
    """What the scripted model says after the prompt."""
    known = list(PROMPT)
    for _ in range(tokens):
        known.append(next_token(known))
    return known[len(PROMPT) :]


def begun(
    keys: int = 1,
    stop: frozenset[int] = frozenset(),
    recalling: Callable[[], bool] = lambda: False,
    execute: Callable[[ScriptedBackend, Step], StepResult] = ScriptedBackend.execute,
) -> Follower:
    """A follower of keys that have drawn one token; `stop` are those of the first key."""
    backend = ScriptedBackend(config=BackendConfig(sequences=2))
    follower = Follower(lambda step: execute(backend, step), recalling)
    for key in range(keys):
        opened = Open(key, Sampling(), stop if key == 0 else frozenset())
        run = Run(key, key, 0, PROMPT, output=Output.SAMPLE)
        follower.execute(Step(1, (opened,), (run,)))
    return follower


def rows(keys: int, calls: int) -> Step:
    runs = (Run(key, key, len(PROMPT), (FOLLOW,), output=Output.SAMPLE) for key in range(keys))
    return Step(2, runs=tuple(runs), calls=calls)


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_each_call_draws_one_more_token(calls: int) -> None:
    result = begun(2).execute(rows(2, calls))
    assert result.calls == calls
    assert [(run.done, list(run.tokens)) for run in result.runs] == [
        (calls, drawn(calls + 1)[1:]),
        (calls, drawn(calls + 1)[1:]),
    ]


def test_the_next_step_follows_the_last_call() -> None:
    follower = begun()
    follower.execute(rows(1, 3))
    run = Run(0, 0, len(PROMPT) + 3, (FOLLOW,), output=Output.SAMPLE)
    assert follower.execute(Step(3, runs=(run,))).runs[0].tokens == (drawn(5)[4],)


def test_a_key_that_drew_its_stop_token_is_left_out_of_the_calls_after_that() -> None:
    stop = drawn(3)[2]
    first, second = begun(2, frozenset({stop})).execute(rows(2, 5)).runs
    assert (first.done, first.tokens[-1]) == (2, stop)
    assert (second.done, len(second.tokens)) == (5, 5)


def test_calls_end_where_no_key_goes_on() -> None:
    stop = drawn(3)[2]
    assert begun(1, frozenset({stop})).execute(rows(1, 5)).calls == 2


def test_a_recall_ends_the_calls_after_the_one_under_way() -> None:
    answers = iter([False, True])
    result = begun(recalling=lambda: next(answers)).execute(rows(1, 8))
    assert (result.calls, result.runs[0].done) == (2, 2)


def test_an_error_stays_beside_what_was_drawn_before_it() -> None:
    calls = 0

    def execute(backend: ScriptedBackend, step: Step) -> StepResult:
        nonlocal calls
        calls += 1
        result = backend.execute(step)
        if calls != 4:  # two prompts, then the second call of rows
            return result
        first = result.runs[0]._replace(done=0, tokens=(), error="broken")
        return result._replace(runs=(first, *result.runs[1:]))

    first, second = begun(2, execute=execute).execute(rows(2, 4)).runs
    assert (first.done, len(first.tokens), first.error) == (1, 1, "broken")
    assert (second.done, second.error) == (4, None)
