"""The making of one step: who gets a slot, what is moved, what is computed."""

from __future__ import annotations

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel, Shape, count_runs
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.placement import Placement
from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.prefill import Cuts, PrefillBudget, plan_prefill
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import SlotTable
from llm_serving_engine.scheduler.step import (
    CacheOperation,
    Capabilities,
    CopyPrefix,
    DecodeRow,
    OpenSequence,
    PrefillChunk,
)

# Of a step's target, how much copying of prefixes may take.
SHARING_PART = 0.5


class StepPlanner:
    """Collects the parts of the next step.

    Attributes:
        operations: On the slots' caches.
        opens: Sequences that are new in their slots.
        rows: One for each sequence that decodes.
        planned: Chunks of prompts, with whose they are.
        rows_wait: Whether there are rows for which the step has no room.
    """

    def __init__(
        self,
        slots: SlotTable,
        placement: Placement,
        policy: Policy,
        cost: CostModel,
        capabilities: Capabilities,
        config: SchedulerConfig,
    ) -> None:
        self._slots = slots
        self._placement = placement
        self._policy = policy
        self._cost = cost
        self._capabilities = capabilities
        self._config = config
        self.operations: list[CacheOperation] = []
        self.opens: list[OpenSequence] = []
        self.rows: tuple[DecodeRow, ...] = ()
        self.planned: list[tuple[Sequence, PrefillChunk]] = []
        self.rows_wait = False

    def open(self, sequence: Sequence) -> None:
        """Let the runner sample for a sequence, in the slot that it has now."""
        assert sequence.slot is not None
        request = sequence.request
        prompt = request.prompt if request.sampling.penalised else ()
        self.opens.append(
            OpenSequence(
                sequence.slot,
                request.sampling,
                request.top_logprobs,
                prompt,
                tuple(sequence.output),
            )
        )

    def share_prefixes(self, now: float) -> None:
        """Copy what sequences wait for, as many as take no more than half of a step."""
        sharing = [s for s in self._slots.holders() if s.sharing]
        seconds = SHARING_PART * self._target(len(sharing))
        copies = max(int(seconds / max(self._cost.cost.copies, 1e-6)), 1)
        for sequence in sorted(sharing, key=lambda s: self._policy.prefill_key(s, now)):
            if copies and not self._waits_for_donor(sequence):
                copies -= self._share(sequence)

    @staticmethod
    def _waits_for_donor(sequence: Sequence) -> bool:
        donor = sequence.donor
        return (
            donor is not None and donor.state is State.PREFILL and donor.computed < sequence.shared
        )

    def _share(self, sequence: Sequence) -> bool:
        assert sequence.slot is not None
        sequence.donor, sequence.sharing = None, False
        match = self._placement.match(sequence)
        if match is None or match.tokens <= sequence.computed:
            return False  # the source has gone before it had more than is here already
        self.operations.append(CopyPrefix(match.slot.index, sequence.slot, match.tokens))
        sequence.computed = match.tokens
        return True

    def compact(self, now: float) -> bool:
        """Move one sequence where that makes rows dense and pays; tell whether."""
        move = self._placement.compaction(self._decoding())
        if move is None:
            return False
        sequence, target = move
        source = self._slots.release(sequence, now, keep=False)
        self._slots.take(target, sequence)
        self.operations.append(CopyPrefix(source.index, target.index, sequence.computed))
        self.open(sequence)
        return True

    def compute(self, now: float, *, rows_wait: bool) -> None:
        """Plan the rows and the chunks: together where the target has room for both.

        Where rows and even the smallest chunk are too long together, they take
        turns in steps of their own. Tokens come as often as they would, and
        whoever arrives meanwhile waits for one of them, not for both.

        Args:
            now: The time.
            rows_wait: Whether rows were left out of the step before. They are now
                alone, even if there is room for both again: two steps with prompts
                would be too long.
        """
        decoding, prompts = self._decoding(), self._prefilling(now)
        base = self._shape_of(decoding)
        seconds = self._for_prompts(prompts, self._cost.predict(base))
        cuts = self._cuts(streaming=bool(decoding))
        rows_alone = rows_wait and bool(decoding)
        if decoding and prompts and not rows_alone:
            self.rows_wait = seconds < self._smallest(prompts[0], cuts)
        if not self.rows_wait:
            self.rows = tuple(map(self._row, decoding))
        if not rows_alone:
            self._plan_chunks(prompts, 0.0 if self.rows_wait else seconds, cuts)

    def _plan_chunks(self, prompts: list[Sequence], seconds: float, cuts: Cuts) -> None:
        budget = PrefillBudget(self._cost, seconds, self._config.prefill_tokens_max, cuts)
        self.planned = list(plan_prefill(prompts, budget))
        for sequence, chunk in self.planned:
            sequence.computed += len(chunk.tokens)

    def _shape_of(self, decoding: list[Sequence]) -> Shape:
        return Shape(
            rows=len(decoding),
            runs=count_runs(s.slot for s in decoding if s.slot is not None),
            row_context=sum(s.computed for s in decoding) / 1000,
            copies=sum(isinstance(operation, CopyPrefix) for operation in self.operations),
        )

    def _for_prompts(self, prompts: list[Sequence], rows: float) -> float:
        """Seconds that a step has for prompts beside its rows; may be below 0.

        More than the target where a short prompt is then computed at once: in two
        steps, its first token would wait for a second token of everybody else.
        """
        seconds = self._target(len(prompts)) - rows
        if not prompts or prompts[0].begun:
            return seconds
        whole = self._rest(prompts[0])
        most = self._config.prompt_stretch_max * self._config.step_target_seconds
        return max(seconds, whole) if rows + whole <= most else seconds

    def _target(self, waiting: int) -> float:
        """Seconds that a step may take: longer where many wait for their first token.

        Steps between them would keep those who stream going, at the price of small
        batches, which cost most of what large ones do. Of two, the first need not
        wait for the other.
        """
        stretch = min(max(waiting - 1, 1), self._config.step_stretch_max)
        return stretch * self._config.step_target_seconds

    def _rest(self, sequence: Sequence) -> float:
        """Seconds of what is not computed of a prompt."""
        tokens = sequence.known_tokens - sequence.computed
        return self._cost.prefill_seconds(tokens, sequence.computed)

    def _smallest(self, sequence: Sequence, cuts: Cuts) -> float:
        """Seconds of the least that can be computed of a prompt."""
        start = sequence.computed
        least = self._cost.prefill_seconds(cuts.least(start, self._cost), start)
        return min(least, self._rest(sequence))

    def _cuts(self, *, streaming: bool) -> Cuts:
        """Where prompts are cut: finer while somebody's next token waits for it."""
        unit = self._capabilities.prefill_unit
        if self._config.determinism == "batch_invariant" or not streaming:
            return Cuts.at(unit)
        return Cuts.within(unit, self._cost, self._config.step_target_seconds)

    def _decoding(self) -> list[Sequence]:
        return [s for s in self._slots.holders() if s.state is State.DECODE]

    def _prefilling(self, now: float) -> list[Sequence]:
        """Who has a prompt to compute: one that others wait for goes as early as they would."""
        prefilling = [s for s in self._slots.holders() if s.state is State.PREFILL]
        keys: dict[Sequence, Key] = {s: self._policy.prefill_key(s, now) for s in prefilling}
        for sequence in prefilling:
            donor = sequence.donor
            if donor is not None and donor in keys:
                keys[donor] = min(keys[donor], keys[sequence])
        ready = [s for s in prefilling if not s.sharing]
        return sorted(ready, key=keys.__getitem__)

    @staticmethod
    def _row(sequence: Sequence) -> DecodeRow:
        assert sequence.slot is not None
        position = sequence.computed
        sequence.computed += 1
        return DecodeRow(sequence.slot, position, sequence.token(position))
