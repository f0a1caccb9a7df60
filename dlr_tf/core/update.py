"""One optimizer step: reduce, accumulate, clip, update, average and constrain.

This module does what concerns several groups, on one or several devices. The update itself is the
inner optimizers' own `update_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core.assignment import GroupAssignment
from dlr_tf.core.fused_adam import FusedAdam, is_large_step
from dlr_tf.core.group_rates import GroupRates
from dlr_tf.core.inner_optimizers import GroupOptimizers
from dlr_tf.core.scheduled_values import ScheduledValues
from dlr_tf.core.variable_state import VariableState


def check_gradients(gradients: Sequence[Any], variables: Sequence[Any]) -> None:
    """Raise if there is not one gradient per variable, or all are `None`."""
    if len(gradients) != len(variables):
        raise ValueError(
            "Each gradient should have its variable. "
            f"Received {len(gradients)} gradients and {len(variables)} variables."
        )
    if all(gradient is None for gradient in gradients):
        names = [getattr(v, "path", v.name) for v in variables]
        raise ValueError(
            "No gradients provided for any variable: all are `None`. Check that the loss "
            f"depends on the variables and is computed inside the tape. Variables: {names}"
        )


class GroupUpdate:
    """The update of the variables of all groups.

    Args:
        optimizer: The wrapper: its arguments (`clipnorm`, `use_ema`, ...) are read at each step.
        assignment: The group of each variable.
        rates: The rates of the groups.
        inner_optimizers: One optimizer per group.
        group_steps: The number of steps that each group made, of shape `(n_groups,)`.
        scheduled: The settings of inner optimizers that follow a schedule.
        variable_state: What the wrapper keeps for each variable.
        start_decays: The decay toward the start of each group; empty if there is none.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        *,
        assignment: GroupAssignment,
        rates: GroupRates,
        inner_optimizers: GroupOptimizers,
        group_steps: keras.Variable,
        scheduled: ScheduledValues,
        variable_state: VariableState,
        start_decays: Sequence[float],
    ) -> None:
        self._optimizer = optimizer
        self._assignment = assignment
        self._rates = rates
        self._inner_optimizers = inner_optimizers
        self._group_steps = group_steps
        self._scheduled = scheduled
        self._variable_state = variable_state
        self._start_decays = start_decays

    def step(self, gradients: list[Any], variables: list[Any]) -> None:
        """Make one step, or accumulate the gradients for it.

        Args:
            gradients: One per variable, none of them `None`.
            variables: The variables.
        """
        scale = self._optimizer.loss_scale_factor
        if scale is not None:
            gradients = [_divide(g, scale) for g in gradients]
        # Before clipping and accumulation, so that several devices give the result of one.
        if tf.distribute.has_strategy():
            gradients = _keras.all_reduce(self._optimizer, gradients, variables)
        if self._optimizer.gradient_accumulation_steps:
            self._accumulate(gradients, variables)
        else:
            self._update(gradients, variables)

    def _accumulate(self, gradients: list[Any], variables: list[Any]) -> None:
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        count = self._optimizer.gradient_accumulation_steps
        every = _keras.accumulators(self._optimizer)
        own = [every[_keras.variable_index(self._optimizer, v)] for v in variables]

        def update(gradients: list[Any]) -> None:
            means = [(g + total.value) / count for g, total in zip(gradients, own)]
            self._update(means, variables)
            # Also those of variables without a gradient now, as in Keras: nothing is carried over.
            self._update_on_replicas([(a, _set_zero, ()) for a in every])

        def accumulate(gradients: list[Any]) -> None:
            self._update_on_replicas([(a, _add, (g,)) for a, g in zip(own, gradients)])

        counter = _keras.step_counter_of(self._optimizer)
        self._cond_on_replicas((counter.value + 1) % count == 0, update, accumulate, gradients)

    def _update(self, gradients: list[Any], variables: list[Any]) -> None:
        """Make one step on complete gradients."""
        optimizer = self._optimizer
        if optimizer.clipnorm or optimizer.clipvalue or optimizer.global_clipnorm:
            dense = [tf.convert_to_tensor(g) for g in gradients]
            gradients = _keras.clip_gradients(optimizer, dense)
        group_of = [self._assignment.group_of(v) for v in variables]
        moved = sorted(set(group_of))
        rates = self._rates.current()
        self._rates.check(rates)
        with self._rates.update_with(rates, moved), self._scheduled.one_update():
            by_group = tf.unstack(rates, num=len(self._inner_optimizers))
            for group in moved:
                inner = self._inner_optimizers[group]
                of_group = [v for v, of in zip(variables, group_of) if of == group]
                _keras.apply_weight_decay(inner, of_group)
                _keras.update_shared_state(inner, by_group[group])
            if self._start_decays:
                self._decay_to_start(variables, group_of, by_group)
            arguments = self._rate_arguments(moved, by_group, variables)
            self._update_on_replicas(
                [
                    (v, _update_step_of(self._inner_optimizers[of]), (g, arguments[of]))
                    for g, v, of in zip(gradients, variables, group_of)
                ]
            )
        self._group_steps.assign_add(
            [int(group in moved) for group in range(len(self._inner_optimizers))]
        )
        if optimizer.use_ema:
            self._update_averages()
        constrained = [v for v in variables if getattr(v, "constraint", None) is not None]
        self._update_on_replicas([(v, _constrain(v.constraint), ()) for v in constrained])

    def _decay_to_start(
        self, variables: Sequence[Any], group_of: Sequence[int], rates: Sequence[tf.Tensor]
    ) -> None:
        """Move variables toward their values at the start: `p <- p - lr * decay * (p - start)`."""
        shrink = {
            group: tf.cast(rates[group], tf.float32) * self._start_decays[group]
            for group in sorted(set(group_of))
            if self._start_decays[group]
        }
        updates = []
        for variable, group in zip(variables, group_of):
            index = _keras.variable_index(self._optimizer, variable)
            start = self._variable_state.of(index).get("start")
            inner = self._inner_optimizers[group]
            if start is not None and _keras.uses_weight_decay(inner, variable):
                updates.append((variable, _move_toward, (start.value, shrink[group])))
        self._update_on_replicas(updates)

    def _rate_arguments(
        self, moved: Sequence[int], rates: Sequence[tf.Tensor], variables: Sequence[Any]
    ) -> dict[int, Any]:
        """Return the rate argument of each group's `update_step`.

        The constants of `FusedAdam` are computed once for all groups.
        """
        arguments: dict[int, Any] = {group: rates[group] for group in moved}
        fused = [g for g in moved if isinstance(self._inner_optimizers[g], FusedAdam)]
        if fused and rates[0].dtype == tf.float32:
            steps = self._group_steps.value + 1
            if len(fused) < len(self._inner_optimizers):
                steps = tf.gather(steps, fused)
            constants = FusedAdam.stacked_step_constants(
                [self._inner_optimizers[g] for g in fused],
                [rates[g] for g in fused],
                steps,
                is_large_step(variables),
            )
            arguments.update(zip(fused, constants))
        return arguments

    def averages(self) -> list[tuple[Any, keras.Variable]]:
        """Return the variables that have an EMA average, each with its average."""
        pairs = zip(
            _keras.known_variables(self._optimizer), _keras.moving_averages(self._optimizer)
        )
        return [(variable, average) for variable, average in pairs if average is not None]

    def _update_averages(self) -> None:
        iterations = tf.convert_to_tensor(self._optimizer.iterations)
        momentum = self._optimizer.ema_momentum
        move: Callable[..., None] = _mix
        if momentum is None:
            move, factor = _move_toward, tf.cast(1 / (iterations + 1), tf.float32)
        else:  # the first step sets the averages to the weights, as in Keras
            factor = tf.where(tf.equal(iterations, 0), 0.0, momentum)
        self._update_on_replicas(
            [(average, move, (v.value, factor)) for v, average in self.averages()]
        )
        frequency = self._optimizer.ema_overwrite_frequency
        if frequency:
            self._cond_on_replicas(
                (iterations + 1) % frequency == 0,
                lambda _: self._overwrite_with_averages(),
                lambda _: None,
                [factor],
            )

    def _overwrite_with_averages(self) -> None:
        self._update_on_replicas(
            [(v, lambda v, average: v.assign(average), (a.value,)) for v, a in self.averages()]
        )

    def _update_on_replicas(self, updates: Sequence[tuple[Any, Callable[..., Any], tuple]]) -> None:
        """Call `function(variable, *arguments)` for each update, on every device that holds it.

        Args:
            updates: Triples of a variable, a function and its further arguments.
        """
        variables = [v.value if isinstance(v, keras.Variable) else v for v, _, _ in updates]
        functions = [function for _, function, _ in updates]
        arguments = [args for _, _, args in updates]
        if not tf.distribute.has_strategy():
            for variable, function, args in zip(variables, functions, arguments):
                function(variable, *args)
            return

        def update(strategy: tf.distribute.Strategy, arguments: Any) -> None:
            for variable, function, args in zip(variables, functions, arguments):
                strategy.extended.update(variable, function, args=tuple(args), group=False)

        _keras.maybe_merge_call(update, _keras.strategy_of(self._optimizer), arguments)

    def _cond_on_replicas(
        self,
        condition: tf.Tensor,
        if_true: Callable[[list[Any]], Any],
        if_false: Callable[[list[Any]], Any],
        arguments: list[Any],
    ) -> None:
        """`tf.cond` whose branches may update variables under a strategy.

        Strategies that merge replicas cannot do so inside a replica's `cond`. The condition is the
        same on all replicas, so it is evaluated outside of them.
        """

        def branch(function: Callable[[list[Any]], Any], arguments: list[Any]) -> tf.Tensor:
            function(arguments)
            return tf.constant(0)

        if not _keras.needs_merge_call():
            tf.cond(
                condition,
                lambda: branch(if_true, arguments),
                lambda: branch(if_false, arguments),
            )
            return

        def across(strategy: tf.distribute.Strategy, condition: Any, arguments: list[Any]) -> None:
            def run(function: Callable[[list[Any]], Any]) -> tf.Tensor:
                strategy.extended.call_for_each_replica(function, args=(arguments,))
                return tf.constant(0)

            first = strategy.experimental_local_results(condition)[0]
            tf.cond(first, lambda: run(if_true), lambda: run(if_false))

        tf.distribute.get_replica_context().merge_call(across, args=(condition, arguments))


def _update_step_of(inner: keras.optimizers.Optimizer) -> Callable[[Any, Any, Any], Any]:
    return lambda variable, gradient, rate: inner.update_step(gradient, variable, rate)


def _constrain(constraint: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda variable: variable.assign(constraint(variable))


def _move_toward(variable: Any, other: tf.Tensor, share: tf.Tensor) -> None:
    variable.assign_sub((variable - other) * tf.cast(share, variable.dtype))


def _mix(average: Any, other: tf.Tensor, momentum: tf.Tensor) -> None:
    momentum = tf.cast(momentum, average.dtype)
    average.assign(momentum * average + (1 - momentum) * other)


def _set_zero(variable: Any) -> None:
    variable.assign(tf.zeros_like(variable))


def _add(variable: Any, value: Any) -> None:
    variable.assign(variable + value)


def _divide(gradient: Any, scale: float) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / scale, gradient.indices, gradient.dense_shape)
    return gradient / scale
