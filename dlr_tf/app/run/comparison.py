"""The comparison of `finetune --compare`: several seeds, with our rates and with one rate."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from dlr_tf.app.config import RunConfig
from dlr_tf.app.results import scores_name
from dlr_tf.app.run import checkpoint
from dlr_tf.app.run.run import COMPARISON, TRAINING, Run
from dlr_tf.app.run.training import Result, train
from dlr_tf.app.terminal import print_note
from dlr_tf.core.assignment import assign_variables

ONE_RATE = "one rate for all layers"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison found: for each seed the result of our training, and of one with one rate
    for all layers. The first of ours is that of the run.
    """

    seeds: Sequence[int]
    ours: Sequence[Result]
    theirs: Sequence[Result]
    score: str = "accuracy"

    @property
    def our_scores(self) -> list[float]:
        """The test scores of our trainings."""
        return [result.score for result in self.ours]

    @property
    def head_scores(self) -> list[float]:
        """The test scores of the head alone; empty without a head start."""
        return [result.head_alone for result in self.ours if result.head_alone is not None]

    @property
    def their_scores(self) -> list[float]:
        """The test scores of the trainings with one rate."""
        return [result.score for result in self.theirs]

    def report(self) -> dict[str, Any]:
        """Return the entry `"compare"` of report.json."""
        return {
            "label": ONE_RATE,
            "seeds": list(self.seeds),
            "learning_rates": [result.rates[-1] for result in self.theirs],
            "learning_rates_of_the_run": [result.rates for result in self.ours],
            "score": self.score,
            "head_alone": self.head_scores,
            scores_name(self.score): self.their_scores,
            "test_losses": [result.loss for result in self.theirs],
            "history": self.theirs[0].history,
        }


def compare(run: Run, start: Mapping[str, np.ndarray], label: str, result: Result) -> Comparison:
    """Train with several seeds, each with our rates and with one rate for all layers.

    Both have the same schedule and epochs. A range test chooses the one rate, without a head start
    and without averages. Afterwards the model is that of the last of these trainings.

    Args:
        run: The run.
        start: The state of the model before the training of the run.
        label: What the rates of that training are called.
        result: Its result.

    Raises:
        UsageError: If no rate can be suggested.
        DivergedError: If one of the trainings diverges.
    """
    config, task, model = run.config, run.task, run.task.model
    last = len(task.groups) - 1
    head = []
    if not config.keep_head:
        head = [v.variable for v in assign_variables(model, task.groups) if v.group == last]
    seeds = range(config.seed, config.seed + config.compare_seeds)
    ours, theirs = [result], list[Result]()

    def train_with_seed(
        config: RunConfig, name: str, label: str, rates: Sequence[float] | None, ratios: list[float]
    ) -> Result:
        index = len(ours) + len(theirs)
        print_note(f"for comparison ({index} of {2 * len(seeds) - 1}): {label}, seed {config.seed}")
        name = f"{name}-{config.seed}"
        stored = run.stored(f"{name}-result")
        if stored is None:
            checkpoint.load_model_arrays(model, start)
            if config.seed != run.config.seed:
                start_with_seed(model, head, config.seed)
            rates = run.rates(name, config, ratios) if rates is None else rates
            found = train(run, name, config, rates)
            stored = {}, {key: getattr(found, key) for key in _NUMBERS}
            run.store(f"{name}-result", *stored)
            # The weights of a training that is finished are of no more use.
            run.remove_checkpoint(name)
        found = Result(**stored[1])
        print_note(f"test {task.target.score_words} {found.score:.4f}")
        return found

    # Without its frozen epochs if it has no others, or the other layers would never move.
    frozen = 0 if config.trains_head_only else config.frozen_epochs
    ones = [1.0] * len(task.groups)
    for seed in seeds:
        seeded = dataclasses.replace(config, seed=seed)
        if seed != config.seed:
            ours.append(train_with_seed(seeded, TRAINING, label, task.rates, task.ratios))
        one_rate = dataclasses.replace(
            seeded, frozen_epochs=frozen, head_start=False, average_weights=False
        )
        theirs.append(train_with_seed(one_rate, COMPARISON, ONE_RATE, None, ones))
    return Comparison(seeds, ours, theirs, task.target.score)


_NUMBERS = ("rates", "history", "score", "loss", "kept_epoch", "head_alone")


def start_with_seed(model: keras.Model, head: Sequence[keras.Variable], seed: int) -> None:
    """Give a dense head new random weights, and dropout another seed. No head stays as it is."""
    for variable in head:
        is_kernel = len(variable.shape) > 1
        initializer = keras.initializers.GlorotUniform(seed) if is_kernel else keras.ops.zeros
        variable.assign(initializer(variable.shape))
    weights = {id(variable) for variable in model.weights}
    states = [variable for variable in model.variables if id(variable) not in weights]
    for number, state in enumerate(states):
        state.assign([1000 * (seed + 1) + number, 0])


def comparison_lines(
    label: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    score: str = "accuracy",
    heads: Sequence[float] = (),
) -> list[str]:
    """Return what a comparison found: one score per seed. Nothing in it is called better.

    With a head start, `heads` are the scores of the head alone.

    >>> found = comparison_lines("differential rates", [0.96, 0.95, 0.97], [0.94, 0.96, 0.97])
    >>> print(*found, sep="\\n")
    test accuracy on average over 3 seeds, and from lowest to highest:
      differential rates       0.9600, 0.9500 to 0.9700
      one rate for all layers  0.9567, 0.9400 to 0.9700
      difference               +0.33, -1.00 to +2.00 points
    >>> comparison_lines("only the head", [0.5], [0.5])[0]
    'test accuracy with one seed (with another seed, the order can be the opposite):'
    """
    is_share = score == "accuracy"
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    difference = _spread([100 * value for value in differences], "+.2f") + " points"
    if not is_share:
        difference = _spread(differences, "+.4f")
    rows = [(label, ours), (ONE_RATE, theirs)]
    rows = [("the head alone", heads), *rows] if heads else rows
    width = max(len(name) for name, _ in rows)
    several = len(ours) > 1
    return [
        f"test {score} on average over {len(ours)} seeds, and from lowest to highest:"
        if several
        else f"test {score} with one seed (with another seed, the order can be the opposite):",
        *(f"  {name:{width}s}  {_spread(values, '.4f')}" for name, values in rows),
        f"  {'difference':{width}s}  {difference}",
    ]


def _spread(values: Sequence[float], form: str) -> str:
    mean = f"{statistics.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean}, {min(values):{form}} to {max(values):{form}}"
