"""Draws the pictures of README and docs: `python docs/draw_pictures.py [--output FOLDER]`."""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from dlr_tf import SGDR
from dlr_tf.training import plotting

GROUP_RATES = {"early layers": 1e-5, "middle layers": 1e-4, "head": 1e-3}


def rates(schedule: SGDR, steps: int) -> np.ndarray:
    """The schedule's rate at steps 0 to `steps - 1`."""
    return np.array([float(schedule(step)) for step in range(steps)])


def draw(folder: pathlib.Path) -> None:
    """Draws the article's three pictures, and README's."""
    once = rates(SGDR(1e-2, first_decay_steps=200, t_mul=1.0), 200)
    plotting.plot_schedule(
        range(200), once, folder / "annealing.png", title="One cosine annealing over 200 steps"
    )
    for name, t_mul, steps, title in (
        ("restarts", 1.0, 400, "Three groups, a warm restart every 100 steps"),
        ("doubling", 2.0, 700, "Three groups, cycles that double: 100, 200, 400 steps"),
    ):
        by_group = {
            group: rates(SGDR(rate, first_decay_steps=100, t_mul=t_mul), steps)
            for group, rate in GROUP_RATES.items()
        }
        plotting.plot_learning_rates(range(steps), by_group, folder / f"{name}.png", title=title)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "images"
    )
    draw(parser.parse_args().output)
