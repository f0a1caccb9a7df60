"""The study of the recipe: length, ratio and head start, against rivals of the same length."""

from __future__ import annotations

import dataclasses

from benchmarks.transfer.arms import DECAY, FASTAI, GUIDE, ONE, ONECYCLE, RATIO, Arm
from benchmarks.transfer.protocol import FULL, TUNED
from benchmarks.transfer.study import Outline, Study, Wave
from benchmarks.transfer.tasks import IMAGE_SIZE, OBJECTS_SIZE
from dlr_tf.training.head_start import TEMPERATURE
from dlr_tf.training.rate_choice import HEAD_START_RATE, TYPICAL_ADAM_RATE

LENGTHS = (1, 3, 6, 10)
RATIOS = (1, 10, 100)
SAME_STEPS = 0.2  # the length that has the steps of 20 examples a class with 100 a class
# The length of all arms but those of the length: a guess, until those are complete.
LENGTH = 3


def ratio_arm(ratio: int, length: float, solved: bool = False) -> Arm:
    """Return the arm whose rates are chosen by `auto` in this ratio.

    From a solved head the loss rises with any rate, so a range test has nothing to suggest there:
    the rates are the usual ones, without a range test.
    """
    name = f"{'solved head, ' if solved else ''}ratio {ratio}, x{length:g}"
    chosen_by = "usual" if solved else "auto"
    return Arm(name, RATIO, ONECYCLE, ratio, chosen_by=chosen_by, length=length, solved=solved)


def averaged_arm(
    ratio: int, length: float, mean_rate: float | None = None, temperature: float = 1.0
) -> Arm:
    """Return the arm of a solved head whose weights are averaged over the training.

    Args:
        ratio: The ratio of the head's rate to the first group's.
        length: As of `Arm`.
        mean_rate: As of `Arm`. Defaults to the product's after a head start.
        temperature: As of `Arm`.
    """
    rate = "" if mean_rate is None else f", rate {mean_rate:.1e}"
    head = "solved head" if temperature == 1 else f"head at temperature {temperature:g}"
    return Arm(
        f"{head}, averaged, ratio {ratio}{rate}, x{length:g}",
        RATIO,
        ONECYCLE,
        ratio,
        chosen_by="usual",
        length=length,
        solved=True,
        mean_rate=mean_rate or HEAD_START_RATE,
        averaged=True,
        temperature=temperature,
    )


def names(*arms: Arm) -> tuple[str, ...]:
    """Return the names of arms."""
    return tuple(arm.name for arm in arms)


SHORTEST = ratio_arm(10, 1)
FEATURES = Arm("features alone", ONE, ONECYCLE, chosen_by="none", length=0, solved=True)
BY_RATIO = {ratio: tuple(ratio_arm(ratio, length) for length in LENGTHS) for ratio in RATIOS}
SHORT = ratio_arm(10, SAME_STEPS)
SOLVED = tuple(ratio_arm(ratio, length, solved=True) for length in (LENGTH, 1) for ratio in RATIOS)
# Of the command, which has the limit of a range test too.
DEFAULT = averaged_arm(1, LENGTH, temperature=TEMPERATURE)
SOFT = (
    averaged_arm(10, LENGTH, temperature=TEMPERATURE),
    averaged_arm(1, LENGTH, temperature=10.0),
    averaged_arm(1, 1, temperature=TEMPERATURE),
)
HARD = averaged_arm(1, LENGTH)
AVERAGED = (*(averaged_arm(ratio, LENGTH) for ratio in (3, 10)), averaged_arm(3, 1))
AVERAGED_FASTER = tuple(averaged_arm(ratio, LENGTH, TYPICAL_ADAM_RATE) for ratio in (1, 3, 10))
# How much depends on the rate of the default.
FACTORS = {"a third of": 1 / 3, "three times": 3.0}
SENSITIVITY = tuple(
    averaged_arm(1, LENGTH, HEAD_START_RATE * factor, TEMPERATURE) for factor in FACTORS.values()
)
HARD_SENSITIVITY = tuple(
    averaged_arm(1, LENGTH, HEAD_START_RATE * factor) for factor in FACTORS.values()
)
# At the rates that a network for texts takes without a head start.
AVERAGED_DECAY = Arm(
    f"solved head, averaged, decay 0.8, x{LENGTH}",
    DECAY,
    ONECYCLE,
    0.8,
    chosen_by="usual",
    length=LENGTH,
    solved=True,
    mean_rate=3e-4 * 0.8**3,
    averaged=True,
)
AUTO_AVERAGED = dataclasses.replace(
    ratio_arm(10, LENGTH), name=f"ratio 10, averaged, x{LENGTH}", averaged=True
)
TUNED_RIVALS = (
    Arm(f"tuned: one rate, one-cycle, x{LENGTH}", ONE, ONECYCLE, length=LENGTH),
    Arm(
        f"tuned: head, then all at a low rate (Keras' guide), x{LENGTH}",
        ONE,
        GUIDE,
        frozen_share=2 / 3,
        length=LENGTH,
    ),
    Arm(
        f"tuned: fine_tune of fastai, x{LENGTH}",
        RATIO,
        FASTAI,
        100,
        frozen_epochs=1,
        length=LENGTH,
    ),
)
ARMS: tuple[Arm, ...] = (
    FEATURES,
    *BY_RATIO[10],
    SHORT,
    *BY_RATIO[1],
    *BY_RATIO[100],
    *SOLVED,
    DEFAULT,
    *SOFT,
    *SENSITIVITY,
    HARD,
    *AVERAGED,
    *AVERAGED_FASTER,
    *HARD_SENSITIVITY,
    AVERAGED_DECAY,
    AUTO_AVERAGED,
    *TUNED_RIVALS,
)

_FEW = names(FEATURES, SHORT, *BY_RATIO[10], *BY_RATIO[1])
_ALL = tuple(name for name in names(*ARMS) if name != SHORT.name)
OUTLINES = {
    "digits-20": Outline("digits 0 to 4, then 5 to 9, 20 images a class", arms=_ALL, n_seeds=20),
    "images-20": Outline(
        f"MobileNetV2 on Fashion-MNIST, {IMAGE_SIZE} pixels, 20 images a class",
        arms=_ALL,
        n_seeds=10,
    ),
    "objects": Outline(
        f"MobileNetV2 on pictures near to ImageNet, {OBJECTS_SIZE} pixels, 8 to 25 a class",
        arms=_ALL,
        n_seeds=10,
    ),
    "text-20": Outline(
        "MiniLM-L6 on Debian's package descriptions, 9 classes, 20 texts a class",
        arms=_ALL,
        n_seeds=20,
    ),
    "digits-100": Outline("digits, 100 images a class", arms=_FEW, n_seeds=20),
    "text-100": Outline("texts, 100 a class", arms=_FEW, n_seeds=20),
}
TWENTY = ("digits-20", "images-20", "objects", "text-20")
HUNDRED = ("digits-100", "text-100")

# An interrupted computation shall tell most: few seeds of every question before more seeds of one,
# and short runs before long ones.
_FIRST = (0, 1, 2)
_SHORT = (FEATURES, *BY_RATIO[10][:2])
# What the default can be, and its rivals: these have all seeds, the other arms the first ones.
DECISIVE = (*_SHORT, BY_RATIO[1][1], SOLVED[0], SOLVED[1], HARD, DEFAULT, *TUNED_RIVALS)


def _seed_by_seed(*arms: Arm, tasks: tuple[str, ...] = TWENTY) -> list[Wave]:
    return [Wave(names(*arms), TUNED, (seed,), tasks) for seed in _FIRST]


WAVES = (
    # A run of the digits takes seconds, one of the texts minutes.
    *_seed_by_seed(FEATURES, *BY_RATIO[10], tasks=TWENTY[:1]),
    *_seed_by_seed(*(arm for arm in ARMS if arm not in TUNED_RIVALS), tasks=TWENTY[:1]),
    *_seed_by_seed(*_SHORT, tasks=TWENTY[:3]),
    Wave(names(*_SHORT, BY_RATIO[1][1], SOLVED[0], SOLVED[1]), TUNED, tasks=TWENTY[:1]),
    *_seed_by_seed(BY_RATIO[1][1], SOLVED[1], SOLVED[0], tasks=TWENTY[:3]),
    *_seed_by_seed(*_SHORT, BY_RATIO[1][1], SOLVED[1], SOLVED[0]),
    *_seed_by_seed(BY_RATIO[10][2]),
    *_seed_by_seed(BY_RATIO[10][3]),
    *_seed_by_seed(*_SHORT, SHORT, BY_RATIO[1][0], BY_RATIO[1][1], tasks=HUNDRED),
    *_seed_by_seed(BY_RATIO[100][1], SOLVED[2], BY_RATIO[1][0], BY_RATIO[100][0], *SOLVED[3:]),
    Wave(names(*TUNED_RIVALS), TUNED, _FIRST, TWENTY),
    *_seed_by_seed(DEFAULT, HARD, *AVERAGED, *AVERAGED_FASTER, AVERAGED_DECAY),
    *_seed_by_seed(AUTO_AVERAGED, *SENSITIVITY, *SOFT, *HARD_SENSITIVITY),
    *(
        Wave(names(*DECISIVE), TUNED, tuple(range(start, start + 2)), TWENTY)
        for start in range(3, 20, 2)
    ),
    *_seed_by_seed(*BY_RATIO[1][2:], *BY_RATIO[100][2:]),
    *_seed_by_seed(*BY_RATIO[10][2:], *BY_RATIO[1][2:], tasks=HUNDRED),
    Wave(names(*ARMS), TUNED, tasks=("digits-20", "digits-100")),
)
STUDY = Study(
    "recipe",
    ARMS,
    OUTLINES,
    dataclasses.replace(FULL, seeds=tuple(range(20))),
    WAVES,
    each_epoch=False,
)
