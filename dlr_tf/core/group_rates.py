"""The learning rates of the groups: what they are now, and how they are set."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf._names import some_of
from dlr_tf.core import _keras
from dlr_tf.core._validation import warn_user
from dlr_tf.core.learning_rates import check_rate
from dlr_tf.core.schedules import is_own, known_end, known_peak, stack_schedules
from dlr_tf.core.value_views import ValueView

# A rate that was read as float32 and is set again gives a factor this near to 1.
_ROUNDING = 1e-6
# A rate that a schedule ends at is near 0 below this fraction of its peak.
_NEAR_ZERO = 0.01
# The rows of `GroupRates.record`: what is known of each group. The scale is the same for all.
_ROWS = ("factors", "scale", "limits", "set_steps", "last_rates", "last_steps")
_SAVED = _ROWS[:4]


class GroupRates:
    """The learning rate of every group.

    With the schedule `s_g` of group `g` (1 for a constant rate), its factor `f_g` and the common
    scale `c`, the rate at step `k` is

        lr_g(k) = c * f_g * s_g(k)

    A rate that is set by hand changes `c` or `f_g`. If the schedule is low at that step, the factor
    is large, and it would also multiply the next peak. So at every other step than the one at which
    the rate was set, a group with a schedule has the rate

        lr_g(k) = min(c * f_g * s_g(k), max(s_g(k), limit_g))

    where `limit_g` is the rate that was set, at most the schedule's own peak where that is known.
    So no later rate is above that peak. If the head follows a schedule, setting its rate also
    changes `c` for groups with a constant rate. At later steps such a group has at most its own
    rate `f_g`.

    Args:
        sources: One float, `LearningRateSchedule` or function without arguments per group.
        names: The names of the groups, for messages.
        iterations: Returns the number of steps made, int64: a number, or a tensor while a function
            is traced.
        add_variable: Creates a variable from a shape, a dtype, a name and an initial value.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        names: Sequence[str],
        *,
        iterations: Callable[[], Any],
        add_variable: Callable[..., keras.Variable],
    ) -> None:
        self._names = tuple(names)
        self._schedules: tuple[Any, ...] = tuple(
            source if callable(source) else None for source in sources
        )
        self._is_scheduled = np.array([schedule is not None for schedule in self._schedules])
        self._stacked = tuple(stack_schedules(self._schedules))
        # The steps at which schedules end, by group, until a warning was given.
        self.ends: dict[int, int] = {
            number: end
            for number, schedule in enumerate(self._schedules)
            if (end := known_end(schedule)) is not None
        }
        self._iterations = iterations
        self._updates_in_progress = 0
        count = len(self._names)
        # One variable: each further one costs a step of a small network a percent. In float64, a
        # rate that is set reads back as the same float32 whatever the ratios are.
        self.record = add_variable((len(_ROWS), count), "float64", "rate_record")
        factors = [1.0 if callable(source) else source for source in sources]
        unset = [[-1.0] * count, [math.nan] * count, [-1.0] * count]
        self.record.assign([factors, [1.0] * count, self._known_peaks(), *unset])

    def _recorded(self, *names: str) -> list[Any]:
        """Return rows of the record: arrays, or tensors while a function is traced."""
        record = _value_now(self.record)
        # Not by indexing, of which each costs a traced step several operations.
        rows = record if tf.executing_eagerly() else tf.unstack(record, num=len(_ROWS))
        return [rows[_ROWS.index(name)] for name in names]

    def _write(self, **rows: Any) -> None:
        """Replace rows of the record, by name: one number per group, or one for all."""
        xp: Any = np if tf.executing_eagerly() else tf
        shape = [len(self._names)]
        rows = {name: xp.broadcast_to(_float64(row), shape) for name, row in rows.items()}
        old = dict(zip(_ROWS, self._recorded(*_ROWS)))
        self.record.assign(xp.stack([*(old | rows).values()]))

    # --- Reading

    def current(self) -> tf.Tensor:
        """Return the rates now, of shape `(n_groups,)`."""
        return tf.cast(self._limited(self._bases()), keras.config.floatx())

    def check(self, rates: tf.Tensor) -> None:
        """Raise if a rate is negative or not finite, before anything is written.

        Inside a `tf.function` the values are not known, and nothing is checked.

        Raises:
            ValueError: If there is such a rate.
        """
        if not tf.executing_eagerly():
            return
        for number, (name, rate) in enumerate(zip(self._names, rates.numpy())):
            if not 0 <= rate < math.inf:
                source = "The schedule" if self._is_scheduled[number] else "The rate"
                verb = "gives the rate" if self._is_scheduled[number] else "is"
                raise ValueError(
                    f"{source} of group {name!r} {verb} {rate} at step {self._iterations()}. "
                    "A rate should be finite and not negative. Nothing was updated."
                )

    def warn_beyond_end(self, step: int) -> None:
        """Warn once of a step at or beyond the end of a schedule that ends near 0.

        Args:
            step: The number of the step, from 0. Not called while a function is traced.
        """
        for group, end in self.ends.items():
            rate, peak = float(self.of_group(group)), known_peak(self._schedules[group])
            if step >= end and peak is not None and rate < peak * _NEAR_ZERO:
                self.ends = {}
                warn_user(
                    f"The schedule of group {self._names[group]!r} ended at step {end}, and the "
                    f"training goes on at its last rate, {rate:.3g}. The schedule: "
                    f"{self._schedules[group]!r}. To train further, compile the model with a new "
                    "`MultiGroupOptimizer` whose schedule covers the further steps."
                )
                return

    def of_group(self, group: int) -> tf.Tensor:
        """Return the rate of a group now; during an update, the rate it is updated with."""
        if self._updates_in_progress and self._is_scheduled.any():
            (last_rates,) = self._recorded("last_rates")
            return tf.cast(last_rates[group], keras.config.floatx())
        rate = self._limited(self._value_of(self._schedules[group]), group)
        if tf.executing_eagerly():
            return tf.constant(float(rate), keras.config.floatx())
        return tf.cast(rate, keras.config.floatx())

    def head(self) -> tf.Tensor:
        """Return the head's rate now."""
        return self.of_group(len(self._names) - 1)

    def last(self) -> np.ndarray:
        """Return the rates of the most recent update, float of shape `(n_groups,)`.

        NaN for a group that did not move in it, and before the first update. They are not saved:
        after loading, they are NaN until the next update if a rate follows a schedule, and the
        rates now if none does.
        """
        return np.asarray(self._last(), keras.config.floatx())

    def last_at(self, records: Sequence[tf.Tensor], steps: Sequence[int]) -> np.ndarray:
        """Return what `last` returned at the times when `record` was read, `(times, n_groups)`.

        Args:
            records: The values of `record`, one or more.
            steps: The number of steps made by then, for each.
        """
        if self.ends:
            # A step that was traced before does not notice that its schedule ends.
            self.warn_beyond_end(max(steps) - 1)
        values = np.array([record.numpy() for record in records])
        last = self._last_of(values, np.array(steps)[:, None], np)
        return np.asarray(last, keras.config.floatx())

    def _last(self) -> Any:
        xp: Any = np if tf.executing_eagerly() else tf
        return self._last_of(_value_now(self.record), self._iterations(), xp)

    def _last_of(self, record: Any, steps: Any, xp: Any) -> Any:
        """Return the rates of the most recent update.

        Args:
            record: The value of `record`, or several.
            steps: The number of steps made.
            xp: NumPy or TensorFlow.
        """
        factors, scale, last, recorded_at = (
            record[..., _ROWS.index(name), :]
            for name in ("factors", "scale", "last_rates", "last_steps")
        )
        if self._is_scheduled.any():
            return last
        # Constant rates are recorded only when they are changed, and when a group did not move.
        return xp.where(recorded_at == _float64(steps - 1), last, factors * scale)

    @contextlib.contextmanager
    def update_with(self, rates: tf.Tensor, moved: Sequence[int]) -> Iterator[None]:
        """In this block, groups are updated with these rates.

        Args:
            rates: What `current` returned.
            moved: The numbers of the groups that move.
        """
        count = len(self._names)
        if len(moved) < count:
            is_moved = np.isin(np.arange(count), moved)
            rates = tf.where(is_moved, rates, tf.constant(math.nan, rates.dtype))
        if len(moved) < count or self._is_scheduled.any():
            self._write(last_rates=rates, last_steps=self._iterations())
        # A count, since the replicas of a strategy run in threads that take turns.
        self._updates_in_progress += 1
        try:
            yield
        finally:
            self._updates_in_progress -= 1

    # --- Setting

    def set_head(self, rate: Any) -> None:
        """Scale every group by the same factor, so that the head has this rate now."""
        rate = check_assigned_rate(rate)
        bases, factors = self._all_bases(), self._factors_in_use()
        unscaled = bases[-1] * factors[-1]
        if _both_zero(rate, unscaled):
            return
        self._check_not_zero(unscaled, len(self._names) - 1)
        self._set(bases, factors, rate / unscaled, range(len(self._names)), by_head=True)

    def _factors_in_use(self) -> Any:
        """Return the factors that give the rates now, where limits hold other ones.

        They are relative to the scale that groups at a constant rate have now, so that the factor
        of such a group stays its own rate.
        """
        factors, scale = self._recorded("factors", "scale")
        if not self._is_scheduled.any():
            return factors
        xp: Any = np if tf.executing_eagerly() else tf
        bases = self._all_bases()
        now = self._limited(bases)
        constant = np.flatnonzero(~self._is_scheduled)
        if len(constant):
            first = constant[0]
            own = factors[first]
            divisor = xp.where(own > 0, own, xp.ones_like(own))
            scale = xp.where(own > 0, now[first] / divisor, scale)
        scale = xp.where(scale > 0, scale, xp.ones_like(scale))
        known = (bases > 0) & (now > 0)
        # Both branches are computed, so no divisor may be 0.
        return xp.where(known, now / (xp.where(known, bases, xp.ones_like(bases)) * scale), factors)

    def set_all(self, rates: Any) -> None:
        """Set the rate of every group.

        Raises:
            TypeError: If `rates` is not a sequence of numbers.
            ValueError: If it does not have one rate per group, or a rate cannot be reached because
                the group's schedule is 0 now.
        """
        if tf.is_tensor(rates):
            rates = rates.numpy() if tf.executing_eagerly() else tf.unstack(rates)
        if not isinstance(rates, (Sequence, np.ndarray)) or isinstance(rates, str):
            raise TypeError(
                "`learning_rates` should be set with a list of one number per group. "
                f"Received: {rates!r}"
            )
        rates = [check_assigned_rate(rate) for rate in rates]
        if len(rates) != len(self._names):
            raise ValueError(
                f"`learning_rates` should be set with one rate per group: {len(self._names)} "
                f"rates. Received {len(rates)}: {rates}"
            )
        factors_now, scale = self._recorded("factors", "scale")
        bases, now = self._all_bases(), factors_now * scale
        factors = []
        for number, rate in enumerate(rates):
            if _both_zero(rate, bases[number]):
                factors.append(now[number])
                continue
            self._check_not_zero(bases[number], number)
            factors.append(rate / bases[number])
        self._set(bases, _stack(factors), 1.0, range(len(rates)))

    def set_group(self, group: int, rate: Any) -> None:
        """Set the rate of one group."""
        rate = check_assigned_rate(rate)
        factors, scale = self._recorded("factors", "scale")
        bases = self._all_bases()
        unit = bases[group] * scale[group]
        if _both_zero(rate, unit):
            return
        if tf.executing_eagerly() and not scale[group]:
            raise ValueError(
                "`optimizer.learning_rate` was set to 0, which scales every group by 0, so no "
                "group can have a rate of its own. Set `optimizer.learning_rates` instead. "
                f"Received: learning_rate={rate}"
            )
        self._check_not_zero(unit, group)
        count = len(self._names)
        factors = _stack([rate / unit if n == group else factors[n] for n in range(count)])
        self._set(bases, factors, scale, [group])

    def _set(
        self,
        bases: Any,
        factors: Any,
        scale: Any,
        groups: Sequence[int],
        *,
        by_head: bool = False,
    ) -> None:
        """Write factors and scale, and limit their effect on later steps of these groups.

        Args:
            bases: The schedules' values at this step.
            factors: The new factors.
            scale: The new scale, one number or one per group.
            groups: The groups whose rates were set.
            by_head: Whether the rate of the head was set, and the others follow.
        """
        chosen = np.isin(np.arange(len(self._names)), groups)
        rows: dict[str, Any] = {"factors": factors, "scale": scale}
        if self._is_scheduled.any():
            xp: Any = np if tf.executing_eagerly() else tf
            peaks = self._peaks(factors, by_head=by_head)
            limits = xp.minimum(bases * factors * scale, peaks)
            # A constant rate that was set itself has no limit.
            limits = xp.where(self._is_scheduled, limits, peaks)
            old_limits, old_steps = self._recorded("limits", "set_steps")
            rows["limits"] = xp.where(chosen, limits, old_limits)
            rows["set_steps"] = xp.where(chosen, _float64(self._iterations()), old_steps)
            if tf.executing_eagerly():
                is_lifted = factors * scale > (1 + _ROUNDING) * np.where(
                    self._is_scheduled, 1.0, peaks
                )
                lifted = np.flatnonzero(chosen & is_lifted)
                if len(lifted):
                    self._warn_of_limit(lifted, limits)
        else:
            rows |= {"last_rates": self._last(), "last_steps": self._iterations() - 1}
        self._write(**rows)

    def _warn_of_limit(self, groups: np.ndarray, limits: np.ndarray) -> None:
        named = [f"{self._names[g]} at most {limits[g]:.3g}" for g in groups]
        warn_user(
            "A rate was set above what the group's schedule gives at this step. It is used now. "
            f"Later rates are limited: {some_of(named)}, or the value of the group's schedule if "
            "that is higher. For higher rates, build a new optimizer with another schedule."
        )

    # --- Configuration and saving

    def config(self) -> dict[str, Any]:
        """Return the arguments from which the same rates can be made, as JSON values."""
        factors, scale, limits, set_steps = self._recorded(*_SAVED)
        scheduled = self._is_scheduled
        now = np.asarray(self._limited(self._all_bases()))
        rates = [
            float(rate) if schedule is None else keras.saving.serialize_keras_object(schedule)
            for schedule, rate in zip(self._schedules, now)
        ]
        return {
            "learning_rate": rates,
            "rate_factors": [
                float(factor) if is_scheduled else 1.0
                for factor, is_scheduled in zip(factors * scale, scheduled)
            ],
            "rate_limits": [
                float(limit) if is_scheduled and math.isfinite(limit) else None
                for limit, is_scheduled in zip(limits, scheduled)
            ],
            "rate_set_steps": [int(step) for step in set_steps],
        }

    def restore_config(self, config: Mapping[str, Any]) -> None:
        """Load the factors and limits that `config` returned."""
        (factors,) = self._recorded("factors")
        self._write(
            factors=np.where(self._is_scheduled, config["rate_factors"], factors),
            limits=_limits(config["rate_limits"]),
            set_steps=config["rate_set_steps"],
        )

    def scale(self) -> float:
        """Return the common scale."""
        return float(self._recorded("scale")[0][0])

    def state(self) -> list[dict[str, Any]]:
        """Return what is saved of each group, as JSON values; exact, since JSON keeps float64."""
        return [
            {
                "rate_factor": float(factor),
                "rate_limit": float(limit) if math.isfinite(limit) else None,
                "rate_set_step": int(step),
            }
            for factor, limit, step in zip(*self._recorded("factors", "limits", "set_steps"))
        ]

    def restore_state(self, states: Sequence[Mapping[str, Any]], scale: float) -> None:
        """Load what `state` returned, one entry per group in the order of these groups."""
        self._write(
            factors=[state["rate_factor"] for state in states],
            scale=scale,
            limits=_limits([state["rate_limit"] for state in states]),
            set_steps=[state["rate_set_step"] for state in states],
            last_rates=math.nan,
            last_steps=-1.0,
        )

    # --- Arithmetic

    def _bases(self) -> Any:
        """The schedules' values at this step, 1 for a constant rate, as one float64 vector."""
        values = [self._value_of(schedule) for schedule, _ in self._stacked]
        if len(self._stacked) == 1:
            return values[0]
        order = np.argsort([group for _, groups in self._stacked for group in groups])
        counts = [len(groups) for _, groups in self._stacked]
        if tf.executing_eagerly():
            return np.concatenate([np.broadcast_to(v, n) for v, n in zip(values, counts)])[order]
        rows = [tf.broadcast_to(value, [count]) for value, count in zip(values, counts)]
        return tf.gather(tf.concat(rows, axis=0), order)

    def _all_bases(self) -> Any:
        xp: Any = np if tf.executing_eagerly() else tf
        return xp.broadcast_to(self._bases(), [len(self._names)])

    def _value_of(self, schedule: Any) -> Any:
        if schedule is None:
            return np.float64(1.0) if tf.executing_eagerly() else tf.constant(1.0, tf.float64)
        if isinstance(schedule, LearningRateSchedule):
            step = self._iterations()
            # Ours compute quicker with a number; others may expect a tensor.
            rate = schedule(step if is_own(schedule) else tf.convert_to_tensor(step))
        else:
            rate = schedule()
        if tf.executing_eagerly():
            return np.asarray(keras.ops.convert_to_numpy(rate), np.float64)
        return tf.cast(rate, tf.float64)

    def _limited(self, base: Any, group: int | None = None) -> Any:
        """The rates from the schedules' values: of one group, or of all."""
        rows = [*self._recorded(*_SAVED), self._is_scheduled.astype(np.float64)]
        if group is not None:
            rows = [row[group] for row in rows]
        factors, scale, limits, set_steps, is_scheduled = rows
        rates = base * (factors * scale)
        if not self._is_scheduled.any():
            return rates
        xp: Any = np if tf.executing_eagerly() else tf
        limited = xp.minimum(rates, xp.maximum(base * is_scheduled, limits))
        is_set_now = xp.equal(set_steps, _float64(self._iterations()))
        return xp.where(is_set_now, rates, limited)

    def _peaks(self, factors: Any, *, by_head: bool) -> Any:
        """What limits the rate of each group at later steps, infinity for no limit.

        It is the peak of the group's schedule. A constant rate is limited to itself where the head,
        which follows a schedule, was set.
        """
        known = np.array(self._known_peaks())
        if not (by_head and self._is_scheduled[-1]):
            return known if tf.executing_eagerly() else tf.constant(known, tf.float64)
        xp: Any = np if tf.executing_eagerly() else tf
        return xp.where(self._is_scheduled, known, factors)

    def _known_peaks(self) -> list[float]:
        """The peaks of the schedules; infinity where there is none or it is not known."""
        peaks = [None if s is None else known_peak(s) for s in self._schedules]
        return [math.inf if peak is None else peak for peak in peaks]

    def _check_not_zero(self, value: Any, group: int) -> None:
        if tf.executing_eagerly() and not float(value):
            hint = "Set `optimizer.learning_rates`, one rate per group."
            if self._is_scheduled[group]:
                hint = "Set it at a step where the schedule is above 0."
            raise ValueError(
                f"The rate of group {self._names[group]!r} is 0 at step {self._iterations()}, so "
                f"no factor gives the requested rate. {hint}"
            )


def check_assigned_rate(rate: Any) -> Any:
    """Return a rate that a user sets as a float, or as a tensor while a function is traced.

    Raises:
        TypeError: If it is a schedule or not a number.
        ValueError: If it is negative or not finite; for a symbolic tensor that is not known.
    """
    if isinstance(rate, ValueView) or tf.is_tensor(rate) or isinstance(rate, keras.Variable):
        rate = tf.cast(tf.convert_to_tensor(rate), tf.float64)
        return check_rate(rate.numpy()) if tf.executing_eagerly() else rate
    if isinstance(rate, LearningRateSchedule) or callable(rate):
        raise TypeError(
            "A schedule cannot be assigned to an optimizer that exists: steps already compiled "
            "would not follow it. Build a new `MultiGroupOptimizer` with "
            f"`learning_rate=<schedule>`. Received: {rate!r}"
        )
    if isinstance(rate, np.ndarray) and rate.ndim == 0:
        rate = rate[()]
    if isinstance(rate, (bool, np.bool_)) or not isinstance(rate, (numbers.Real, np.number)):
        raise TypeError(
            "A learning rate should be set with a number. "
            f"Received: {rate!r} of type {type(rate).__name__}"
        )
    return check_rate(float(rate))


def _value_now(variable: keras.Variable) -> Any:
    """A variable's value: an array where it is known, a tensor while a function is traced.

    A few numbers are quicker to compute with NumPy, and callbacks do so before every batch.
    """
    if tf.executing_eagerly():
        return _keras.eager_read_fn(variable)().numpy()
    return variable.value


def _float64(value: Any) -> Any:
    if tf.executing_eagerly():
        return np.asarray(value, np.float64)
    return tf.cast(value, tf.float64)


def _stack(values: Sequence[Any]) -> Any:
    if tf.executing_eagerly():
        return np.array([np.asarray(value) for value in values], np.float64)
    return tf.stack([tf.cast(value, tf.float64) for value in values])


def _both_zero(rate: Any, value: Any) -> bool:
    """Whether the requested rate is 0 and every factor gives 0, so nothing must change."""
    return tf.executing_eagerly() and not float(rate) and not float(value)


def _limits(values: Sequence[float | None]) -> list[float]:
    return [math.inf if value is None else value for value in values]
