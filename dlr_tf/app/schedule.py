"""The command `schedule`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from dlr_tf.app.messages import messages_to_stderr, mistakes
from dlr_tf.app.output import check_new_file
from dlr_tf.core.schedules import SGDR, OneCycle, Triangular
from dlr_tf.training import plotting

MOST_STEPS = 1_000_000  # of a drawn schedule


def run(args: argparse.Namespace) -> int:
    with messages_to_stderr(), mistakes():
        schedule, steps, restarts = _named_schedule(args)
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"--steps should be from 1 to {MOST_STEPS}. Received: {steps} steps")
        # A look at the terminal needs no file.
        output = Path(args.output or f"{args.kind}.png") if args.output or not args.ascii else None
        if output is not None:
            check_new_file(output)
            plotting.require_matplotlib()
    rates = np.asarray(schedule(np.arange(steps)))
    if args.ascii:
        print(plotting.ascii_plot(rates))
    if output is not None:
        title = ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in schedule.get_config().items()
            if name != "name"
        )
        plotting.plot_schedule(
            np.arange(steps), rates, output, title=f"{schedule.name}: {title}", restarts=restarts
        )
        print(f"written to {output}")
    return 0


def _named_schedule(args: argparse.Namespace) -> tuple[Any, int, list[int]]:
    """The schedule, the number of steps to draw, and the restarts among them."""
    if args.kind == "sgdr":
        sgdr = SGDR(
            args.learning_rate,
            args.first_decay_steps,
            t_mul=args.t_mul,
            m_mul=args.m_mul,
            alpha=args.alpha,
            warmup_steps=args.warmup_steps,
        )
        # By default three cycles, the least that shows how they change.
        steps = args.steps or args.warmup_steps + sum(
            round(args.first_decay_steps * args.t_mul**cycle) for cycle in range(3)
        )
        return sgdr, steps, sgdr.restart_steps(min(steps, MOST_STEPS))
    if args.kind == "onecycle":
        one_cycle = OneCycle(
            args.learning_rate,
            args.steps,
            pct_start=args.pct_start,
            div=args.div,
            div_final=args.div_final,
        )
        return one_cycle, args.steps, []
    triangular = Triangular(
        args.base_learning_rate,
        args.learning_rate,
        args.step_size,
        mode=args.mode,
        gamma=args.gamma,
    )
    return triangular, args.steps or 6 * args.step_size, []
