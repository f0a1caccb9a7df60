"""The command `schedule`: draw a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dlr_tf.app.config import OneCycleConfig, ScheduleConfig, SgdrConfig, TriangularConfig
from dlr_tf.app.results import check_new_file
from dlr_tf.app.terminal import messages_to_stderr, usage_errors, written_line
from dlr_tf.core.schedules import SGDR, OneCycle, Triangular, cycle_length
from dlr_tf.training import plotting

MAX_STEPS = 1_000_000


def run(config: ScheduleConfig) -> int:
    """Draw the learning rate over the steps, and return the exit code, 0.

    Raises:
        UsageError: If something is wrong with the arguments, before anything is written.
    """
    with messages_to_stderr(), usage_errors():
        schedule, steps, restarts = named_schedule(config)
        output = Path(config.output or f"{config.kind}.png")
        check_new_file(output)
        plotting.require_matplotlib()
        rates = schedule_rates(schedule, steps)
        plotting.plot_schedule(
            np.arange(steps), rates, output, title=describe(schedule), restarts=restarts
        )
    print(written_line(output))
    return 0


def describe(schedule: Any) -> str:
    """Return the name and the arguments of a schedule in one line.

    >>> describe(OneCycle(0.1, 100))
    'OneCycle: max_learning_rate=0.1, total_steps=100, pct_start=0.25, div=25, div_final=100000'
    """
    arguments = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in schedule.get_config().items()
        if name != "name"
    )
    return f"{schedule.name}: {arguments}"


def schedule_rates(schedule: Any, steps: int) -> np.ndarray:
    """Return the rate at each of the first steps.

    Raises:
        ValueError: If a rate is above the range of float32, the dtype of every rate.

    >>> schedule_rates(SGDR(0.5, 2), 3).tolist()
    [0.5, 0.25, 0.5]
    """
    # The message below says more than NumPy's warning.
    with np.errstate(over="ignore", invalid="ignore"):
        rates = np.asarray(schedule(np.arange(steps)))
    wrong = np.flatnonzero(~np.isfinite(rates))
    if wrong.size:
        raise ValueError(
            f"The learning rate is above the range of float32 at step {wrong[0]}. Give a lower "
            "--learning-rate, or factors that do not raise it so far. "
            f"Received: {describe(schedule)}"
        )
    return rates


def named_schedule(config: ScheduleConfig) -> tuple[Any, int, list[int]]:
    """Return the schedule, the number of steps to draw, and the restarts among them.

    Raises:
        ValueError: If an argument is out of range, or there are too many steps to draw.
    """
    if isinstance(config, SgdrConfig):
        sgdr = SGDR(
            config.learning_rate,
            config.first_decay_steps,
            t_mul=config.t_mul,
            m_mul=config.m_mul,
            alpha=config.alpha,
            warmup_steps=config.warmup_steps,
        )
        # Three cycles show how the cycles change.
        cycles = (cycle_length(i, config.first_decay_steps, config.t_mul) for i in range(3))
        steps = _checked_steps(config.steps, config.warmup_steps + sum(cycles))
        return sgdr, steps, sgdr.restart_steps(steps)
    if isinstance(config, OneCycleConfig):
        one_cycle = OneCycle(
            config.learning_rate,
            config.steps,
            pct_start=config.pct_start,
            div=config.div,
            div_final=config.div_final,
        )
        return one_cycle, _checked_steps(config.steps, 0), []
    assert isinstance(config, TriangularConfig)
    triangular = Triangular(
        config.base_learning_rate,
        config.learning_rate,
        config.step_size,
        mode=config.mode,
        gamma=config.gamma,
    )
    return triangular, _checked_steps(config.steps, 6 * config.step_size), []


def _checked_steps(steps: int | None, default: int) -> int:
    count = steps or default
    if count > MAX_STEPS:
        kind = "steps" if steps else "steps in three cycles, the default"
        raise ValueError(f"--steps should be from 1 to {MAX_STEPS}. Received: {count} {kind}")
    return count
