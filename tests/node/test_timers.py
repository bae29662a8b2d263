"""The timer queue against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.timers import Timers
from protocol.events import Timer

operations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 5), st.integers(0, 50)),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("pop"), st.just(0), st.integers(0, 50)),
    ),
    max_size=300,
)


@given(operations)
def test_it_is_a_dictionary_of_deadlines(steps: list[tuple[str, int, int]]) -> None:
    timers, model = Timers(), dict[Timer, int]()
    for verb, name, at in steps:
        if verb == "set":
            timers.set((name,), at)
            model[name,] = at
        elif verb == "cancel":
            timers.cancel((name,))
            model.pop((name,), None)
        else:
            earliest = min(model.values(), default=None)
            assert timers.next_due() == earliest
            fired = timers.pop(at)
            assert (fired is None) == (earliest is None or earliest > at)
            if fired is not None:
                assert fired[1] == earliest == model.pop(fired[0])
        assert len(timers) == len(model)


def test_equal_times_come_in_the_order_of_setting() -> None:
    timers = Timers()
    for name in range(10):
        timers.set((name,), 7)
    timers.set((3,), 7)
    assert [timers.pop(7) for _ in range(10)] == [((name,), 7) for name in (0, 1, 2, 4, 5, 6, 7, 8, 9, 3)]


def test_replacing_for_ever_keeps_the_heap_small() -> None:
    timers = Timers()
    for at in range(10_000):
        timers.set(("same",), at)
    assert len(timers._heap) < 200
    assert timers.pop(10_000) == (("same",), 9_999)
