"""The cost of steps as eight numbers, for reports, files, and simulated machines."""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.scheduler.cost import (
    CHUNKS,
    COPY_SECONDS,
    ROWS,
    SNAPSHOT_TOKEN_SECONDS,
    CostModel,
)


class Costs(NamedTuple):
    """Seconds of the parts of steps.

    Attributes:
        row_group, row, row_context: A group of rows, a row, and its thousand tokens of context.
        chunk_group, chunk_token, chunk_context: The same of chunks.
        copy: Copying a slot.
        snapshot_token: Saving or restoring a token.
    """

    row_group: float
    row: float
    row_context: float
    chunk_group: float
    chunk_token: float
    chunk_context: float
    copy: float
    snapshot_token: float

    def model(self) -> CostModel:
        """A model that predicts these costs."""
        model = CostModel()
        model.rows.weights, model.chunks.weights = list(self[:3]), list(self[3:6])
        model.copy_seconds, model.snapshot_token_seconds = self.copy, self.snapshot_token
        return model


DEFAULT_COSTS = Costs(*ROWS, *CHUNKS, COPY_SECONDS, SNAPSHOT_TOKEN_SECONDS)
