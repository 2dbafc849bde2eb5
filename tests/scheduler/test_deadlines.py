from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from llm_serving_engine.scheduler.deadlines import Deadlines


@given(
    st.dictionaries(st.text(max_size=3), st.floats(0, 10), max_size=20),
    st.sets(st.text(max_size=3)),
    st.floats(0, 10),
)
def test_the_overdue_come_out_once_in_order(
    deadlines: dict[str, float], gone: set[str], now: float
) -> None:
    heap = Deadlines()
    for name, deadline in deadlines.items():
        heap.add(name, deadline)
    for name in gone:
        heap.discard(name)
    expected = sorted((d, n) for n, d in deadlines.items() if n not in gone and d <= now)
    assert heap.pop_overdue(now) == [name for _, name in expected]
    assert heap.pop_overdue(now) == []


def test_memory_follows_the_live_requests() -> None:
    heap = Deadlines()
    for number in range(10_000):
        heap.add(str(number), 1e9)
        heap.discard(str(number))
    assert len(heap._heap) <= 2


def test_an_id_can_come_again_with_another_deadline() -> None:
    heap = Deadlines()
    heap.add("keep", 50.0)
    heap.add("a", 1.0)
    heap.discard("a")
    heap.add("a", 5.0)
    assert heap.pop_overdue(2.0) == []
    assert heap.pop_overdue(5.0) == ["a"]
