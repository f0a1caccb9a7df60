"""One run of an arm: rates are chosen, the model is trained, and what came out is measured."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.transfer import choices, solved_head
from benchmarks.transfer.arms import Arm, cycle_ends, epochs_of, peak_rates
from benchmarks.transfer.training import Trainer, accuracy


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run measured.

    Args:
        loss: Mean loss of the batches of each epoch.
        validation: Accuracy on the validation part after each epoch, or after the last one only.
        test: Accuracy on the test part after the last epoch; `None` where it was not asked for.
        ensemble_validation: Accuracy of the mean of the predictions at the ends of the cycles.
        ensemble_test: The same on the test part.
        last_test: The accuracy on the test part before the weights were averaged.
        rates: The peak rate of each group, where the arm chooses them.
        steps: Number of training steps.
        training_seconds: Seconds in which the head was solved, the rates chosen and the model
            trained, with what is validated or predicted in between.
        training_processor_seconds: The same on the clock of the processor: the sum over all its
            cores. Other work on the machine does not count.
    """

    loss: list[float]
    validation: list[float]
    test: float | None = None
    ensemble_validation: float | None = None
    ensemble_test: float | None = None
    last_test: float | None = None
    rates: list[float] | None = None
    steps: int = 0
    training_seconds: float = dataclasses.field(default=0.0, compare=False)
    training_processor_seconds: float = dataclasses.field(default=0.0, compare=False)


def run_arm(
    trainer: Trainer,
    arm: Arm,
    learning_rate: float,
    seed: int,
    *,
    with_test: bool,
    each_epoch: bool = True,
    on_step: Callable[[int], Any] | None = None,
) -> Outcome:
    """Train from the pretrained weights, and measure.

    Args:
        trainer: The trainer of the task.
        arm: The arm.
        learning_rate: Its peak rate: the head's. Not used if the arm chooses its rates.
        seed: Seed of the examples, of the head's first weights, and of order and dropout.
        with_test: Whether to measure on the test part, and the ensemble of the cycles.
        each_epoch: Whether to validate after each epoch. Defaults to `True`; with `False`, which
            takes less time, only after the last one.
        on_step: Called after each step with its number. Defaults to nothing.
    """
    task = trainer.task
    train, validation, test = task.split(seed)
    parts = [validation, test] if with_test else [validation]
    epochs = epochs_of(arm, task.epochs)
    ends = cycle_ends(arm, epochs, task.steps_per_epoch()) if with_test else []
    accuracies: list[float] = []
    members: list[list[np.ndarray]] = []

    def after_step(step: int) -> None:
        if on_step is not None:
            on_step(step)
        if step + 1 in ends:
            members.append([trainer.predict(part) for part in parts])

    def after_epoch(epoch: int) -> None:
        if each_epoch and epoch + 1 < epochs:
            accuracies.append(accuracy(trainer.predict(validation), validation.y))

    trainer.prepare(arm, epochs)
    start, processor_start = time.monotonic(), time.process_time()
    trainer.first_head = None
    if arm.solved:
        kernel, bias = solved_head.solve_head(trainer.features(train), train.y, seed)
        trainer.first_head = (kernel / arm.temperature, bias / arm.temperature)
    if arm.chosen_by:
        peaks = [float(rate) for rate in choices.CHOICES[arm.chosen_by](trainer, arm, seed)]
    else:
        peaks = peak_rates(arm, learning_rate, trainer.n_groups(arm))
    losses = trainer.train(arm, peaks, train, seed, epochs, after_step, after_epoch)
    seconds, processor_seconds = time.monotonic() - start, time.process_time() - processor_start
    last_test = None
    if arm.averaged:
        last_test = accuracy(trainer.predict(test), test.y) if with_test else None
        trainer.use_averages()
    accuracies.append(accuracy(trainer.predict(validation), validation.y))
    outcome = Outcome(
        losses,
        accuracies,
        last_test=last_test,
        rates=peaks if arm.chosen_by else None,
        steps=epochs * task.steps_per_epoch(),
        training_seconds=round(seconds, 3),
        training_processor_seconds=round(processor_seconds, 3),
    )
    if with_test:
        outcome = dataclasses.replace(outcome, test=accuracy(trainer.predict(test), test.y))
    if ends:
        means = [np.mean([member[i] for member in members], axis=0) for i in range(2)]
        outcome = dataclasses.replace(
            outcome,
            ensemble_validation=accuracy(means[0], parts[0].y),
            ensemble_test=accuracy(means[1], parts[1].y),
        )
    return outcome
