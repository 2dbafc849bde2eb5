"""The cost of steps as nine numbers, for reports, files, and simulated machines."""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.scheduler.cost import (
    CHUNKS,
    ROWS,
    TRANSFERS,
    CostModel,
)


class Costs(NamedTuple):
    """Seconds of the parts of steps.

    Attributes:
        row_group, row, row_context: A group of rows, a row, and its thousand tokens of context.
        chunk_group, chunk_token, chunk_context: The same of chunks.
        transfer: Copying, saving, or restoring a slot, beside its tokens.
        copied_token: Copying a token.
        snapshot_token: Saving or restoring a token.
    """

    row_group: float
    row: float
    row_context: float
    chunk_group: float
    chunk_token: float
    chunk_context: float
    transfer: float
    copied_token: float
    snapshot_token: float

    def model(self) -> CostModel:
        """A model that predicts these costs."""
        model = CostModel()
        model.rows.weights, model.chunks.weights = list(self[:3]), list(self[3:6])
        model.transfers.weights = list(self[6:])
        return model


DEFAULT_COSTS = Costs(*ROWS, *CHUNKS, *TRANSFERS)
