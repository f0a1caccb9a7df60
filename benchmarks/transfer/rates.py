"""The study of the rates: rates per group, restarts, and ways to choose the peak rates."""

from __future__ import annotations

from benchmarks.transfer.arms import (
    CONSTANT,
    COSINE,
    DECAY,
    ONE,
    ONECYCLE,
    RATIO,
    SGDR_1,
    SGDR_2,
    Arm,
)
from benchmarks.transfer.protocol import FULL, SENSITIVE, TUNED
from benchmarks.transfer.study import Outline, Study, Wave
from benchmarks.transfer.tasks import IMAGE_SIZE

RIVAL = "one rate, one-cycle"  # the honest rival
COMMON = "one rate, constant"  # what people do
OLD_DEFAULT = "ratio 100, SGDR 2, 1 frozen epoch"  # of the product before this was measured
DEFAULT = "ratio 10, one-cycle, auto"  # of the product now

N_KEY = 17
# The key arms first: a computation that is stopped has done these.
ARMS: tuple[Arm, ...] = (
    Arm(RIVAL, ONE, ONECYCLE, in_sensitivity=True),
    Arm(COMMON, ONE, CONSTANT, in_sensitivity=True),
    Arm("ratio 10, one-cycle", RATIO, ONECYCLE, 10, in_sensitivity=True),
    Arm(OLD_DEFAULT, RATIO, SGDR_2, 100, frozen_epochs=1, in_sensitivity=True),
    Arm("head only", ONE, ONECYCLE, head_only=True),
    Arm("ratio 100, one-cycle", RATIO, ONECYCLE, 100),
    Arm("decay 0.75, one-cycle", DECAY, ONECYCLE, 0.75),
    Arm(DEFAULT, RATIO, ONECYCLE, 10, chosen_by="auto"),
    Arm("one rate, one-cycle, auto", ONE, ONECYCLE, chosen_by="auto"),
    Arm("ratio 10, one-cycle, usual rates", RATIO, ONECYCLE, 10, chosen_by="usual"),
    Arm("one rate, one-cycle, sweep", ONE, ONECYCLE, chosen_by="sweep"),
    Arm("ratio 10, one-cycle, sweep", RATIO, ONECYCLE, 10, chosen_by="sweep"),
    Arm("ratio 10, one-cycle, short sweep", RATIO, ONECYCLE, 10, chosen_by="short sweep"),
    Arm("ratio 100, one-cycle, sweep", RATIO, ONECYCLE, 100, chosen_by="sweep"),
    Arm("decay 0.75, one-cycle, sweep", DECAY, ONECYCLE, 0.75, chosen_by="sweep"),
    Arm("3 groups, one-cycle, sweep per group", RATIO, ONECYCLE, 10, chosen_by="sweeps"),
    Arm("ratio 10, one-cycle, trials", RATIO, ONECYCLE, 10, chosen_by="trials"),
    Arm("one rate, cosine", ONE, COSINE),
    Arm("ratio 10, cosine", RATIO, COSINE, 10),
    Arm("gradual unfreezing", ONE, ONECYCLE, gradual=True),
    Arm("one rate, SGDR 2", ONE, SGDR_2),
    Arm("ratio 10, SGDR 2", RATIO, SGDR_2, 10),
    Arm("ratio 10, SGDR 1", RATIO, SGDR_1, 10),
    Arm("ratio 10, constant", RATIO, CONSTANT, 10),
    Arm("one rate, one-cycle, 1 frozen epoch", ONE, ONECYCLE, frozen_epochs=1),
    Arm("ratio 10, one-cycle, 1 frozen epoch", RATIO, ONECYCLE, 10, frozen_epochs=1),
    Arm("ratio 10, SGDR 2, 1 frozen epoch", RATIO, SGDR_2, 10, frozen_epochs=1),
    Arm("ratio 100, one-cycle, 1 frozen epoch", RATIO, ONECYCLE, 100, frozen_epochs=1),
    Arm("decay 0.9, one-cycle", DECAY, ONECYCLE, 0.9),
    Arm("decay 0.6, one-cycle", DECAY, ONECYCLE, 0.6),
    Arm("ratio 100, cosine", RATIO, COSINE, 100),
    Arm("ratio 100, SGDR 2", RATIO, SGDR_2, 100),
    Arm("ratio 100, SGDR 1", RATIO, SGDR_1, 100),
    Arm("ratio 100, constant", RATIO, CONSTANT, 100),
    Arm("one rate, one-cycle, batch norm trains", ONE, ONECYCLE, batch_norm="train"),
    Arm("ratio 10, one-cycle, batch norm trains", RATIO, ONECYCLE, 10, batch_norm="train"),
    Arm("ratio 10, SGDR 2, batch norm trains", RATIO, SGDR_2, 10, batch_norm="train"),
)

# A run of the digits takes a second, so they have all arms. The other tasks change one thing at a
# time, so they are without these arms.
_LEFT_OUT = (
    "one rate, SGDR 2",
    "ratio 10, SGDR 2, 1 frozen epoch",
    "ratio 100, one-cycle, 1 frozen epoch",
    "ratio 100, cosine",
    "ratio 100, SGDR 2",
    "ratio 100, SGDR 1",
    "ratio 100, constant",
    "ratio 10, SGDR 2, batch norm trains",
    "one rate, cosine",
    "one rate, one-cycle, 1 frozen epoch",
    "ratio 10, SGDR 1",
    "ratio 10, cosine",
    "ratio 10, constant",
    "decay 0.9, one-cycle",
    "decay 0.6, one-cycle",
)
# The ways to choose rates that take longest. They are tried on the two other tasks.
_LONG_CHOICES = ("3 groups, one-cycle, sweep per group", "ratio 10, one-cycle, trials")
_ONE_AT_A_TIME = tuple(arm.name for arm in ARMS if arm.name not in _LEFT_OUT)

# Whether the rates that are chosen stay good under other conditions.
_FEW = ("one rate, one-cycle", "ratio 10, one-cycle", "ratio 10, one-cycle, auto")

OUTLINES = {
    "digits": Outline("digits 0 to 4, then 5 to 9, 20 images a class"),
    "text": Outline(
        "MiniLM-L6 on Debian's package descriptions, 9 classes, 20 texts a class",
        has_batch_norm=False,
        arms=tuple(name for name in _ONE_AT_A_TIME if name not in _LONG_CHOICES),
    ),
    "images": Outline(
        f"MobileNetV2 on Fashion-MNIST, {IMAGE_SIZE} pixels, 20 images a class",
        arms=_ONE_AT_A_TIME,
    ),
    **{
        f"{task}-{change}": Outline(f"{task}, {title}", arms=_FEW, has_sensitivity=False)
        for task in ("digits", "text", "images")
        for change, title in (
            ("half", "half the examples: 10 a class"),
            ("batch-48", "batches of 48 instead of 16"),
        )
    },
}

_KEY, _OTHERS = (tuple(arm.name for arm in arms) for arms in (ARMS[:N_KEY], ARMS[N_KEY:]))
STUDY = Study(
    "rates",
    ARMS,
    OUTLINES,
    FULL,
    [Wave(names, stages) for names in (_KEY, _OTHERS) for stages in (TUNED, SENSITIVE)],
    each_epoch=True,
)
