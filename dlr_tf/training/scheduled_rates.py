"""The rates of the groups under a schedule, and the length of the training that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf._names import SCHEDULES
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.learning_rates import Rate, resolve_learning_rates
from dlr_tf.core.schedules import SGDR, known_peak
from dlr_tf.training.named_schedules import (
    check_name,
    ends_within_a_cycle,
    first_cycle_steps,
    schedule_over,
)
from dlr_tf.training.training_data import FirstBatches, steps_in_epoch


class TrainingLength:
    """The length of a training, counted when it is asked for."""

    def __init__(
        self,
        train_data: Any,
        epochs: int,
        fit: Mapping[str, Any],
        validation_data: Any,
        batches_per_step: int,
    ) -> None:
        self.epochs = epochs
        self._batches_per_step = batches_per_step
        # Keras ignores the split if there are validation data.
        split = fit.get("validation_split", 0.0) if validation_data is None else 0.0
        self.validation_split = split
        self._train_data = train_data
        self._options: dict[str, Any] = {
            "batch_size": fit.get("batch_size"),
            "validation_split": split,
            "steps_per_epoch": fit.get("steps_per_epoch"),
        }

    def steps(self) -> int:
        """Return the number of optimizer steps."""
        batches = steps_in_epoch(self._train_data, **self._options) * self.epochs
        return max(1, batches // self._batches_per_step)

    def n_examples(self, first: FirstBatches) -> int | None:
        """Return the number of examples, as if all batches were full; `None` if it is not known.

        Args:
            first: The first batches.
        """
        options, size = self._options, first.batch_size
        if size is None:  # arrays, which count one by one
            options, size = {**options, "batch_size": 1, "steps_per_epoch": None}, 1
        try:
            return steps_in_epoch(self._train_data, **options) * size
        except (TypeError, ValueError):
            return None


class ScheduledRates:
    """The rates of the groups, before and after a schedule is applied to them.

    Args:
        learning_rate: The argument `learning_rate`, without `"auto"`.
        schedule: The argument `schedule`.
        warmup: The argument `warmup`.
        groups: The groups.
        length: The length of the training.
    """

    def __init__(
        self,
        learning_rate: Any,
        schedule: Any,
        warmup: float,
        groups: Sequence[LayerGroup],
        length: TrainingLength,
    ) -> None:
        if warmup and not isinstance(schedule, str):
            raise ValueError(
                "Argument `warmup` belongs to a schedule by name. Use it in `make_schedule`, or "
                f"put `WarmUp` around your schedules. Received: warmup={warmup!r}"
            )
        if isinstance(schedule, LearningRateSchedule):
            raise TypeError(
                "Argument `schedule` should be a name, a function from a rate to a schedule, or a "
                "list with one schedule per group. To use one schedule for all groups, pass it as "
                f"`learning_rate`. Received: schedule={schedule!r}"
            )
        if is_list(schedule):
            if learning_rate is not None:
                raise ValueError(
                    "A list of schedules contains every rate: pass `learning_rate=None` with it. "
                    f"Received: learning_rate={learning_rate!r}"
                )
            learning_rate = schedule
        names = [group.name for group in groups]
        given = resolve_learning_rates(learning_rate, len(groups), names)
        if isinstance(schedule, str):
            check_name(schedule)
            needs_no_length = schedule == "constant" and not warmup
            steps = 1 if needs_no_length else length.steps()
            schedule = schedule_over(schedule, steps, length.epochs, warmup=warmup)
        elif not is_list(schedule) and not callable(schedule):
            raise TypeError(
                f"Argument `schedule` should be one of {SCHEDULES}, a function from a rate to a "
                "`LearningRateSchedule`, or a list with one per group. "
                f"Received: schedule={schedule!r}"
            )
        self.peaks = [known_peak(rate) if callable(rate) else rate for rate in given]
        # A list of schedules may hold constant rates.
        listed = is_list(schedule)
        self.scheduled = [rate if listed or callable(rate) else schedule(rate) for rate in given]


def is_list(schedule: Any) -> bool:
    return isinstance(schedule, Sequence) and not isinstance(schedule, str)


def rate_warnings(rates: Sequence[Rate], length: TrainingLength) -> list[str]:
    """Return warnings about rates that are allowed but often a mistake."""
    found: list[str] = []
    cyclic = [rate for rate in rates if isinstance(rate, SGDR)]
    try:
        total = length.steps() if cyclic else 0
    except (TypeError, ValueError):  # the length is not known
        return found
    for rate in cyclic:
        fitting = first_cycle_steps(total, length.epochs, rate.t_mul)
        # The length that `make_schedule` chooses is right, apart from rounding.
        if rate.first_decay_steps != fitting and ends_within_a_cycle(rate, total):
            starts = rate.restart_steps(total)
            last = f"the cycle that starts at step {starts[-1]}" if starts else "the warm-up"
            found.append(
                f"The training ends at step {total}, within {last}, so at a high learning rate. "
                f"To end the last cycle at the last step, use `first_decay_steps={fitting}`."
            )
            break
    return found
