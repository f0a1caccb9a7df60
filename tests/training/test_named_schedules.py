"""The schedules by name, and where their cycles end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlr_tf.core.schedules import SGDR, OneCycle
from dlr_tf.training.named_schedules import ends_within_a_cycle, first_cycle_steps, make_schedule


def test_make_schedule_takes_the_length_of_the_first_cycle() -> None:
    make = make_schedule("sgdr", steps_per_epoch=10, epochs=20, cycle_epochs=0.5, t_mul=3)
    schedule = make(0.1)
    assert isinstance(schedule, SGDR)
    assert schedule.restart_steps(100) == [0, 5, 20, 65]
    assert make_schedule("constant", steps_per_epoch=10, epochs=20)(0.1) == 0.1
    one_cycle = make_schedule("onecycle", steps_per_epoch=10, epochs=20)(0.1)
    assert isinstance(one_cycle, OneCycle)
    assert one_cycle.total_steps == 200


@given(
    steps=st.integers(1, 500),
    epochs=st.integers(1, 60),
    t_mul=st.sampled_from([1.0, 1.25, 1.5, 2.0, 3.0]),
)
@settings(max_examples=200, deadline=None)
def test_default_cycles_end_with_the_training(steps: int, epochs: int, t_mul: float) -> None:
    total = steps * epochs
    first = first_cycle_steps(total, epochs, t_mul)
    assert first >= steps  # at least an epoch
    starts = SGDR(0.1, first, t_mul=t_mul).restart_steps(10 * total + 1)
    end = next(step for step in starts if step >= total)
    # Rounding the first length up cuts the last cycle by no more than this.
    cycles = sum(step < total for step in starts)
    assert end - total <= sum(t_mul**i for i in range(cycles)) + cycles
    if steps > 20:
        # With cycles from one epoch on, one more would not fit.
        assert sum(t_mul**i for i in range(cycles)) <= epochs
        assert sum(t_mul**i for i in range(cycles + 1)) > epochs


def test_make_schedule_refuses_bad_numbers() -> None:
    with pytest.raises(ValueError, match=r"`t_mul` should be .*at least 1\. Received: t_mul=0\.5"):
        make_schedule("sgdr", steps_per_epoch=3, epochs=2, t_mul=0.5)
    with pytest.raises(ValueError, match=r"epochs above 0\. Received: cycle_epochs=0"):
        make_schedule("sgdr", steps_per_epoch=3, epochs=2, cycle_epochs=0)


@pytest.mark.parametrize(
    ("schedule", "total", "expected"),
    [
        (SGDR(0.1, 10), 70, False),
        (SGDR(0.1, 10), 66, False),
        (SGDR(0.1, 10), 65, True),
        (SGDR(0.1, 10), 71, True),
        (SGDR(0.1, 10), 50, True),
        (SGDR(0.1, 100), 50, True),
        (SGDR(0.1, 2, t_mul=1.0), 3, True),
        (SGDR(0.1, 1, t_mul=1.0), 3, False),
        (SGDR(0.1, 10, warmup_steps=5), 75, False),
        (SGDR(0.1, 10, warmup_steps=5), 70, True),
        (SGDR(0.1, 10, warmup_steps=5), 5, True),
    ],
)
def test_trainings_that_end_within_a_cycle(schedule, total, expected):
    assert ends_within_a_cycle(schedule, total) is expected
