"""What an observer keeps of requests, and what sentences are made of it."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import DeadlinePassed
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.step import (
    Copy,
    Operation,
    Restore,
    Run,
    RunResult,
    Step,
    StepResult,
)
from llm_serving_engine.server.request_history.request_history import (
    HistoryObserver,
    RequestHistory,
)
from llm_serving_engine.server.request_history.sentences import sentences


class Story:
    """A request whose transitions a test makes, and what is kept of it."""

    def __init__(self, kept_max: int = 10) -> None:
        self.now = 0.0
        self.history = RequestHistory(kept_max, lambda: self.now, lambda: 1000.0 + self.now)
        self.observer: HistoryObserver = self.history.observer(lambda: None)
        self._keys = 0

    def submit(self, request_id: str = "one", prompt: int = 10) -> Sequence:
        self._keys += 1
        arrival = Transition(State.WAITING, self.now, Event.SUBMIT)
        sequence = Sequence(Request(request_id, (1,) * prompt, 20), self._keys, [arrival])
        self.observer.transitioned(sequence)
        return sequence

    def move(self, sequence: Sequence, event: Event, slot: int | None = None) -> None:
        sequence.slot = slot
        sequence.advance(event, self.now)
        self.observer.transitioned(sequence)

    def step(
        self, sequence: Sequence, slot: int, *operations: Operation, failed: bool = False
    ) -> None:
        run = Run(sequence.key, slot, 0, (1,))
        result = StepResult(
            1, runs=(RunResult(sequence.key, 1),), failed=(0,) if failed else (), seconds=0.1
        )
        self.observer.stepped(Step(1, operations, (run,)), result)

    def text(self) -> str:
        (record,) = self.history
        return "\n".join(sentences(record, self.now))


def test_a_quiet_life() -> None:
    story = Story()
    one = story.submit()
    story.move(one, Event.ADMIT, 2)
    one.cached_prompt_tokens = 4
    story.now = 0.5
    story.move(one, Event.FIRST_TOKEN, 2)
    one.output += [7] * 20
    one.finish_reason = FinishReason.END_OF_SEQUENCE
    story.now = 2.5
    story.move(one, Event.FINISH)
    assert story.text().splitlines() == [
        "It is a request in class normal, with 10 prompt tokens and at most 20 to produce.",
        "It got a slot at once.",
        "4 of its 10 prompt tokens were in the cache.",
        "Its prompt was computed in slot 2 in 0.5 s.",
        "It produced 20 more tokens in 2.0 s (10.0 per second).",
        "It finished after 2.5 s, with 20 tokens: the model ended its answer.",
    ]


def test_all_tokens_that_come_at_once() -> None:
    story = Story()
    one = story.submit()
    story.move(one, Event.ADMIT, 2)
    one.output += [7] * 3
    story.move(one, Event.FIRST_TOKEN, 2)
    assert "It produced 0 more tokens" in story.text()
    story.move(one, Event.FINISH)
    assert "more tokens" not in story.text()


def test_a_cache_that_is_restored() -> None:
    story = Story()
    one = story.submit()
    story.move(one, Event.ADMIT, 0)
    story.move(one, Event.PREEMPT)
    story.now = 1.0
    story.move(one, Event.ADMIT, 1)
    story.now = 1.25
    story.step(one, 1, Restore(1, 5, 64))
    assert "A cache of 64 tokens was restored from memory to slot 1." in story.text()
    story.now = 2.0
    restored = "A cache of 64 tokens was restored from memory to slot 1, in 0.2 s."
    assert restored in story.text()
    assert "The rest of its prompt was computed in slot 1 in 1.0 s." in story.text()
    assert "Its slot went to another request; it waited 1.0 s for another." in story.text()


def test_a_prefix_that_is_copied_and_one_that_could_not_be() -> None:
    for failed in (False, True):
        story = Story()
        one = story.submit()
        story.move(one, Event.ADMIT, 1)
        story.step(one, 1, Copy(0, 1, 64), failed=failed)
        assert ("64 tokens was copied from another slot" in story.text()) is not failed


def test_a_move_is_kept_with_its_time() -> None:
    story = Story()
    one = story.submit()
    story.move(one, Event.ADMIT, 3)
    story.move(one, Event.FIRST_TOKEN, 3)
    story.step(one, 3)
    story.now = 4.0
    story.step(one, 0)
    story.step(one, 0)
    (record,) = story.history
    assert record.moves == [(4.0, 0)]
    assert record.stages[-1].slot == 3


def test_a_runner_that_is_lost_and_a_deadline_that_passes() -> None:
    story = Story()
    one = story.submit()
    story.move(one, Event.ADMIT, 0)
    story.move(one, Event.LOSE)
    story.now = 150.0
    one.error = DeadlinePassed(DeadlinePassed.RUNNING_TIMEOUT, "the deadline passed")
    story.move(one, Event.EXPIRE)
    assert "Its runner was lost; it waited 2 min for another runner." in story.text()
    assert story.text().splitlines()[-1] == "It ran out of time after 2 min: the deadline passed."


def test_states_of_one_step_are_told_of_once() -> None:
    story = Story()
    one = story.submit()
    one.advance(Event.ADMIT, 0.0)
    one.advance(Event.FIRST_TOKEN, 0.1)
    one.advance(Event.FINISH, 0.1)
    story.observer.transitioned(one)
    (record,) = story.history
    assert [stage.event for stage in record.stages] == [
        *(Event.SUBMIT, Event.ADMIT, Event.FIRST_TOKEN, Event.FINISH)
    ]


def test_the_limit_and_what_changed() -> None:
    story = Story(kept_max=2)
    for name in ("a", "b", "c"):
        story.submit(name)
    assert [record.request_id for record in story.history] == ["b", "c"]
    assert [record.request_id for record in story.history.take_changed()] == ["b", "c"]
    assert story.history.take_changed() == []
    assert story.history.of_id("a") == []


def test_engines_have_numbers_and_keys_of_their_own() -> None:
    story = Story()
    story.submit("before")
    story.observer, story._keys = story.history.observer(lambda: None), 0
    after = story.submit("after")
    story.move(after, Event.ADMIT, 0)
    assert [(record.request_id, len(record.stages)) for record in story.history] == [
        ("before", 1),
        ("after", 2),
    ]
