"""The arms: which layers train when, and at which rates. An arm is a table of rates and a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
from keras.optimizers.schedules import CosineDecay, LearningRateSchedule

from dlr_tf import SGDR, LayerGroup, OneCycle, split_layers
from dlr_tf.app.run import split_task
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.learning_rates import Rate, resolve_learning_rates
from dlr_tf.training.named_schedules import make_schedule
from dlr_tf.training.rate_choice import TYPICAL_ADAM_RATE

ONE, RATIO, DECAY = "one", "ratio", "decay"
CONSTANT, COSINE, ONECYCLE = "constant", "cosine", "onecycle"
SGDR_1, SGDR_2 = "sgdr-1", "sgdr-2"
GUIDE, FASTAI = "guide", "fastai"
GUIDE_HEAD_RATE = 1e-3  # of Adam by default, which Keras' guide trains the head with
N_GROUPS = 3  # the command's default
EQUAL_CYCLES = 3  # of SGDR with `t_mul=1`


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    Args:
        name: The name.
        rates: `ONE` rate for all layers; `RATIO`: geometric from the first group to the head;
            `DECAY`: each block has `value` times the rate of the next one.
        value: The ratio of the head's rate to the first group's, or the decay.
        schedule: How rates change over the steps.
        frozen_epochs: First epochs in which only the head trains; all of them where `head_only`.
        frozen_share: The share of the epochs in which only the head trains, instead of a number.
        batch_norm: `"frozen"` or `"train"`.
        gradual: Whether one more group is unfrozen per epoch.
        head_only: Whether nothing but the head ever trains.
        in_sensitivity: Whether it is also run at rates that are too low and too high.
        chosen_by: How it chooses its rates for each seed: a key of `choices.CHOICES`. Defaults to
            `""`: its rate is tuned.
        length: How many times the task's number of epochs it trains.
        solved: Whether the head starts from the logistic regression on the frozen features.
        mean_rate: The geometric mean of the groups' rates, where these are the usual ones.
        averaged: Whether the model at the end is the mean of the weights after every step.
        temperature: What the logits of the solved head are divided by.
    """

    name: str
    rates: str
    schedule: str
    value: float = 1.0
    frozen_epochs: int = 0
    frozen_share: float = 0.0
    batch_norm: str = "frozen"
    gradual: bool = False
    head_only: bool = False
    in_sensitivity: bool = False
    chosen_by: str = ""
    length: float = 1.0
    solved: bool = False
    mean_rate: float = TYPICAL_ADAM_RATE
    averaged: bool = False
    temperature: float = 1.0


def groups_of(arm: Arm, model: keras.Model, blocks: Sequence[str]) -> Sequence[LayerGroup]:
    """Return the groups that a user of the product gives the arm's rates to.

    They are those of `dlr-tf finetune --groups 3`, or one group per block for `DECAY`.

    Args:
        arm: The arm.
        model: The classifier.
        blocks: The first layer of every block but the first.
    """
    if arm.rates == DECAY:
        return split_layers(model, blocks)
    return split_task(model, N_GROUPS)


def peak_rates(arm: Arm, learning_rate: float, n_groups: int) -> list[float]:
    """Return the peak rate of each group, the head's last.

    >>> [f"{rate:.0e}" for rate in peak_rates(Arm("", RATIO, COSINE, 100), 0.1, 3)]
    ['1e-03', '1e-02', '1e-01']
    >>> peak_rates(Arm("", DECAY, COSINE, 0.5), 0.4, 3)
    [0.1, 0.2, 0.4]
    """
    rates: slice | float | list[float] = learning_rate
    if arm.rates == RATIO:
        rates = slice(learning_rate / arm.value, learning_rate)
    elif arm.rates == DECAY:
        rates = [learning_rate * arm.value ** (n_groups - 1 - g) for g in range(n_groups)]
    return [float(rate) for rate in resolve_learning_rates(rates, n_groups)]


def schedule_of(arm: Arm, peak: float, epochs: int, steps_per_epoch: int) -> Rate:
    """Return the schedule that the product makes from a group's peak rate."""
    total = epochs * steps_per_epoch
    if arm.schedule == COSINE:
        return CosineDecay(peak, total)
    if arm.schedule == SGDR_1:
        return SGDR(peak, -(-total // min(EQUAL_CYCLES, total)), t_mul=1.0)
    name = "sgdr" if arm.schedule == SGDR_2 else arm.schedule
    return make_schedule(name, steps_per_epoch=steps_per_epoch, epochs=epochs)(peak)


def cycle_ends(arm: Arm, epochs: int, steps_per_epoch: int) -> list[int]:
    """Return the numbers of steps after which an SGDR cycle, or the training, ends.

    >>> cycle_ends(Arm("", ONE, SGDR_1), epochs=5, steps_per_epoch=4)
    [7, 14, 20]
    """
    if arm.schedule not in (SGDR_1, SGDR_2):
        return []
    total = epochs * steps_per_epoch
    schedule = schedule_of(arm, 1.0, epochs, steps_per_epoch)
    assert isinstance(schedule, SGDR)
    return [*(step for step in schedule.restart_steps(total) if step), total]


def rate_table(rates: Sequence[Rate], steps: int) -> np.ndarray:
    """Return the rate of each group at each step, float64 of shape `(steps, n_groups)`.

    A schedule's value is rounded to float32, as it is in an optimizer.
    """
    table = np.empty((steps, len(rates)))
    for group, rate in enumerate(rates):
        if isinstance(rate, LearningRateSchedule):
            table[:, group] = [
                float(keras.ops.convert_to_numpy(rate(step))) for step in range(steps)
            ]
        else:
            table[:, group] = rate
    return table


def rates_of(arm: Arm, peaks: Sequence[float], epochs: int, steps_per_epoch: int) -> np.ndarray:
    """Return the rate of each group at each step, from their peak rates.

    `GUIDE` is the guide of Keras: the head alone at Adam's usual rate, then everything at one low
    rate. `FASTAI` is `Learner.fine_tune` of fastai: a rise for the head alone, then a one-cycle
    schedule with half the rates.
    """
    total = epochs * steps_per_epoch
    if total == 0:
        return np.zeros((0, len(peaks)))
    frozen = frozen_epochs_of(arm, epochs) * steps_per_epoch
    if arm.schedule == GUIDE:
        table = rate_table(peaks, total)
        table[:frozen, -1] = GUIDE_HEAD_RATE
        return table
    if arm.schedule == FASTAI:
        first = rate_table([OneCycle(peak, frozen, pct_start=0.99) for peak in peaks], frozen)
        second = [OneCycle(peak / 2, total - frozen, pct_start=0.3, div=5.0) for peak in peaks]
        return np.concatenate([first, rate_table(second, total - frozen)])
    return rate_table([schedule_of(arm, peak, epochs, steps_per_epoch) for peak in peaks], total)


def epochs_of(arm: Arm, task_epochs: int) -> int:
    """Return the number of epochs of an arm.

    >>> [epochs_of(Arm("", ONE, COSINE, length=length), 7) for length in (0, 0.2, 1, 3)]
    [0, 1, 7, 21]
    """
    return max(round(arm.length * task_epochs), 1) if arm.length else 0


def frozen_epochs_of(arm: Arm, epochs: int) -> int:
    """Return the number of first epochs in which only the head trains."""
    return round(arm.frozen_share * epochs) if arm.frozen_share else arm.frozen_epochs


def group_of_each(
    finer: Sequence[LayerGroup], groups: Sequence[LayerGroup], model: keras.Model
) -> list[int]:
    """Return the number of the group that holds each of the finer groups.

    Args:
        finer: Groups that each lie within one of `groups`, as those of `split_layerwise` do.
        groups: The groups.
        model: Their model.
    """
    holder = {id(entry.variable): entry.group for entry in assign_variables(model, groups)}
    found: dict[int, int] = {}
    for entry in assign_variables(model, finer):
        if found.setdefault(entry.group, holder[id(entry.variable)]) != holder[id(entry.variable)]:
            raise ValueError(f"{entry.path} is in another group than the rest of its layer.")
    return [found[number] for number in range(len(finer))]


def first_trainable_groups(arm: Arm, n_groups: int, epochs: int) -> list[int]:
    """Return the index of the first trainable group in each epoch.

    >>> first_trainable_groups(Arm("", ONE, COSINE, gradual=True), n_groups=3, epochs=4)
    [2, 1, 0, 0]
    >>> first_trainable_groups(Arm("", ONE, COSINE, frozen_epochs=1), n_groups=3, epochs=3)
    [2, 0, 0]
    """
    head = n_groups - 1
    if arm.head_only:
        return [head] * epochs
    if arm.gradual:
        return [max(head - epoch, 0) for epoch in range(epochs)]
    frozen = frozen_epochs_of(arm, epochs)
    return [head if epoch < frozen else 0 for epoch in range(epochs)]
