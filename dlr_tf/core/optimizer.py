"""`MultiGroupOptimizer`: one Keras optimizer per layer group behind one optimizer.

What spans groups is done here: clipping, accumulation, EMA, loss scale, the step count, the rates.
The update itself is the inner optimizers' own `update_step`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import math
import numbers
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from dlr_tf.core._keras import grow
from dlr_tf.core.checkpointing import (
    LEDGER,
    WEIGHT,
    GroupingGuard,
    LedgerState,
    decode,
    encode,
    grouping_digests,
    match,
    match_slots,
    read_ledger,
    state_variables,
    write_ledger,
)
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup, Place, assign_variables, compiled_model, find_model
from dlr_tf.core.inner_optimizers import (
    GroupOptimizers,
    GroupRate,
    GroupValue,
    adopt,
    exclusions_config,
    inner_optimizers,
    overrides,
    own_rate,
    restore_exclusions,
    update_step_of,
)
from dlr_tf.core.learning_rates import check_rate, joint_schedules, resolve_learning_rates
from dlr_tf.core.summary import GroupRow, group_table


class _Routes:
    """Which model the variables belong to, and the place of each. Hidden from Keras' tracking."""

    def __init__(self) -> None:
        self.places: dict[Hashable, Place] = {}
        # What `from_config` was told before the model was known.
        self.exclusions: Sequence[dict[str, Any] | None] = ()
        # A checkpoint's record that came before the model was known.
        self.pending: dict[str, Any] | None = None


@keras.saving.register_keras_serializable(package="dlr_tf")
class MultiGroupOptimizer(keras.optimizers.Optimizer):
    r"""Trains every group of layers at a learning rate of its own.

    Holds one Keras optimizer per group and sends each gradient to the group of its variable. With
    group rates `lr_g`, schedule values `s_g(k)` at step `k` and the scale `c` that assignments to
    `learning_rate` set, group `g` is updated at

        lr_g(k) = c * s_g(k)        (s_g(k) = lr_g where the rate is a number)

    `N` groups at one rate with the template `keras.optimizers.Adam()` equal one Keras Adam bit for
    bit; `N` groups at `N` rates equal `N` separate optimizers.

    Use a plain Keras optimizer when all layers learn at one rate, and
    `keras.optimizers.MultiOptimizer` when variables are to be told apart by their paths rather
    than by layer.

    Args:
        groups: What `split_layers`, `split_evenly` or `split_layerwise` return. The last one is
            the head.
        learning_rate: Float or `LearningRateSchedule` (all groups), `slice(lo, hi)` (geometric
            from the first group to the head), `slice(hi)` (head `hi`, every other group
            `hi / 10`), or a sequence with one float or schedule per group. Per step, not negative.
            `None` with a sequence of optimizers: each keeps its own.
        optimizer: `None`: `FusedAdam()`. A Keras optimizer: a template, copied for every group
            and left alone; its own learning rate is not used. A sequence of Keras optimizers, one
            per group: used as they are.
        name: Name of the optimizer.
        clipnorm: Float above 0: largest norm of each variable's gradient.
        clipvalue: Float above 0: largest absolute value of a gradient's elements.
        global_clipnorm: Float above 0: largest norm of all gradients of all groups together.
        use_ema: Whether to keep an exponential moving average of the weights.
        ema_momentum: Float in [0, 1]: decay of that average per step. Defaults to `0.99`.
        ema_overwrite_frequency: Integer of at least 1: every so many steps the weights are
            overwritten with their average. Defaults to `None`: only at the end of `fit`.
        loss_scale_factor: Float: gradients are divided by it, the loss multiplied by `scale_loss`.
        gradient_accumulation_steps: Integer of at least 2: one step per so many calls, on the mean
            of their gradients. Schedules and `iterations` count steps.

    Raises:
        TypeError: If an argument is of the wrong kind, or an inner optimizer itself spans groups.
        ValueError: If a rate is negative or not finite, the numbers of groups, rates and
            optimizers differ, or an inner optimizer asks for what only the wrapper can do.

    Example:

    >>> import keras
    >>> from dlr_tf import MultiGroupOptimizer, split_layers
    >>> layers = [keras.layers.Dense(8, name="body"), keras.layers.Dense(2, name="top")]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> optimizer = MultiGroupOptimizer(split_layers(model, ["top"]), [1e-5, 1e-3])
    >>> model.compile(optimizer, loss="mse")
    >>> [f"{rate:.0e}" for rate in optimizer.learning_rates]
    ['1e-05', '1e-03']

    Source: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146, section 3.2 (discriminative
    fine-tuning).
    """

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        learning_rate: Any,
        optimizer: keras.optimizers.Optimizer | Sequence[keras.optimizers.Optimizer] | None = None,
        *,
        name: str = "multi_group_optimizer",
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
    ) -> None:
        groups = _check_groups(groups)
        inner, given = inner_optimizers(optimizer, len(groups), wrapper=MultiGroupOptimizer)
        if learning_rate is None:
            if not given:
                raise ValueError(
                    "Argument `learning_rate` can be `None` only with one optimizer per group, "
                    "each of which keeps its own. Give a rate. Received: learning_rate=None"
                )
            sources = [own_rate(member) for member in inner]
        else:
            sources = resolve_learning_rates(learning_rate, len(groups))
        super().__init__(
            # Keras asks for a rate; a callable makes it create no variable for one.
            learning_rate=self._head_rate,
            name=name,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
        )
        self._layer_groups = groups
        self._group_optimizers = GroupOptimizers(inner)
        self._routes = _Routes()
        self._updates_in_progress = 0
        self._has_strategy = tf.distribute.has_strategy()
        # One schedule or `None` per group. A function hides it from Keras' tracking of lists.
        schedules = [source if callable(source) else None for source in sources]
        self._schedule_of = schedules.__getitem__
        self._joint_schedules = functools.partial(tuple, joint_schedules(schedules))
        count = len(groups)
        # One vector for all groups costs as much as one scalar. In float64, a rate set by a person
        # reads back as the same float32 whatever the ratios are.
        vector = functools.partial(self.add_variable, aggregation="only_first_replica")
        self._rate_factors = vector((count,), dtype="float64", name="rate_factors")
        self._rate_factors.assign([1.0 if callable(source) else source for source in sources])
        self._rate_scale = vector((), "ones", dtype="float64", name="rate_scale")
        self._group_steps = vector((count,), dtype="int64", name="group_steps")
        self._last_rates = vector((count,), dtype=keras.config.floatx(), name="last_rates")
        self._untrack_variable(self._last_rates)
        for number, member in enumerate(inner):
            adopt(member, self, number, scheduled=callable(sources[number]))
        self._ledger_state = LedgerState(self)

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The groups, first to head."""
        return self._layer_groups

    @property
    def group_optimizers(self) -> GroupOptimizers:
        """The inner optimizers, one per group; their `learning_rate` is the rate in use now."""
        return self._group_optimizers

    @property
    def learning_rate(self) -> tf.Tensor:
        """The head's rate now.

        Setting it scales every group by the same factor, so that the head has that rate.
        """
        return self._head_rate()

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        rate = self._check_assigned_rate(rate)
        head = len(self._layer_groups) - 1
        base = self._schedule_value(head) * _value_now(self._rate_factors)[head]
        if _both_zero(rate, base):
            return
        self._refuse_zero(base, head)
        self._rate_scale.assign(rate / base)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "learning_rate":
            # Keras' own would read it twice before it is set.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def learning_rates(self) -> list[float]:
        """The rates now, one float per group; settable with one number per group."""
        return [float(rate) for rate in np.asarray(self._current_rates())]

    @learning_rates.setter
    def learning_rates(self, rates: Any) -> None:
        if tf.is_tensor(rates) and tf.executing_eagerly():
            rates = rates.numpy()
        if not isinstance(rates, (Sequence, np.ndarray)) or isinstance(rates, str):
            raise TypeError(
                "`learning_rates` should be set with a list of one number per group. "
                f"Received: {rates!r}"
            )
        rates = [self._check_assigned_rate(rate) for rate in rates]
        if len(rates) != len(self._layer_groups):
            raise ValueError(
                f"`learning_rates` should be set with one rate per group: "
                f"{len(self._layer_groups)} rates. Received {len(rates)}: {rates}"
            )
        values = [self._schedule_value(number) for number in range(len(rates))]
        now = _value_now(self._rate_factors) * _value_now(self._rate_scale)
        factors = []
        for number, (rate, value) in enumerate(zip(rates, values)):
            if _both_zero(rate, value):
                factors.append(now[number])
                continue
            self._refuse_zero(value, number)
            factors.append(rate / value)
        self._rate_factors.assign(factors)
        self._rate_scale.assign(1.0)

    @property
    def last_learning_rates(self) -> np.ndarray:
        """The rates of the most recent update, float32 of shape `(n_groups,)`; zeros before it."""
        return self._last_rates.numpy()

    def summary(self, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints a table: group, layers, variables, parameters, optimizer, rate now, frozen or not.

        Args:
            print_fn: Called with the table as one string. Defaults to printing it.
        """
        rows = []
        rates = self.learning_rates
        for number, (group, member) in enumerate(zip(self._layer_groups, self._group_optimizers)):
            held = [p.variable for p in self._routes.places.values() if p.group == number]
            learns = [v for v in held if v.trainable]
            rows.append(
                GroupRow(
                    name=group.name,
                    layers=group.layers,
                    n_variables=len(held),
                    n_parameters=sum(math.prod(v.shape) for v in held),
                    optimizer=type(member).__name__,
                    learning_rate=rates[number],
                    # Before the optimizer is built it does not know its model.
                    state="not built" if not held else "learns" if learns else "frozen",
                )
            )
        (print_fn or print)(group_table(self.name, rows))

    def _head_rate(self) -> tf.Tensor:
        return self._rate_of_group(len(self._layer_groups) - 1)

    def _rate_of_group(self, group: int) -> tf.Tensor:
        if self._updates_in_progress:
            return self._last_rates.value[group]
        factor = _value_now(self._rate_factors)[group] * _value_now(self._rate_scale)
        rate = self._schedule_value(group) * factor
        if tf.executing_eagerly():
            return tf.constant(float(rate), keras.config.floatx())
        return tf.cast(rate, keras.config.floatx())

    def _set_rate_of_group(self, group: int, rate: Any) -> None:
        rate = self._check_assigned_rate(rate)
        scale = _value_now(self._rate_scale)
        unit = self._schedule_value(group) * scale
        if _both_zero(rate, unit):
            return
        if tf.executing_eagerly() and not float(scale):
            raise ValueError(
                "`optimizer.learning_rate` was set to 0, which scales every group by 0, so no "
                "group can have a rate of its own. Set `optimizer.learning_rates` instead. "
                f"Received: learning_rate={rate}"
            )
        self._refuse_zero(unit, group)
        factors = tf.tensor_scatter_nd_update(
            self._rate_factors.value, [[group]], [tf.cast(rate, tf.float64) / unit]
        )
        self._rate_factors.assign(factors)

    def _schedule_value(self, group: int) -> Any:
        """The schedule's value at this step, or 1 for a group at a constant rate; float64."""
        return self._value_of(self._schedule_of(group))

    def _value_of(self, schedule: Any) -> Any:
        if schedule is None:
            return np.float64(1.0) if tf.executing_eagerly() else tf.constant(1.0, tf.float64)
        if isinstance(schedule, LearningRateSchedule):
            return tf.cast(schedule(tf.convert_to_tensor(self.iterations)), tf.float64)
        return tf.cast(schedule(), tf.float64)

    def _current_rates(self) -> tf.Tensor:
        """The rates of all groups now, of shape `(n_groups,)`."""
        factors = _value_now(self._rate_factors) * _value_now(self._rate_scale)
        joint = self._joint_schedules()
        values = [self._value_of(schedule) for schedule, _ in joint]
        if len(joint) == 1:
            by_group = values[0]
        else:
            rows = [tf.broadcast_to(v, [len(groups)]) for v, (_, groups) in zip(values, joint)]
            order = np.argsort([group for _, groups in joint for group in groups])
            by_group = tf.gather(tf.concat(rows, axis=0), order)
        return tf.cast(by_group * factors, keras.config.floatx())

    def _check_assigned_rate(self, rate: Any) -> Any:
        if isinstance(rate, LearningRateSchedule) or callable(rate):
            raise TypeError(
                "A schedule cannot be assigned to an optimizer that exists: steps already compiled "
                "would not follow it. Build a new `MultiGroupOptimizer` with "
                f"`learning_rate=<schedule>`. Received: {rate!r}"
            )
        if isinstance(rate, (numbers.Real, np.generic)):
            return check_rate(rate)
        if isinstance(rate, np.ndarray) and rate.ndim == 0:
            return check_rate(rate[()])
        if tf.is_tensor(rate) or isinstance(rate, (keras.Variable, GroupValue)):
            rate = tf.cast(rate, tf.float64)
            return check_rate(rate.numpy()) if tf.executing_eagerly() else rate
        return check_rate(rate)

    def _refuse_zero(self, value: Any, group: int) -> None:
        if tf.executing_eagerly() and not float(value):
            step = int(keras.ops.convert_to_numpy(self.iterations))
            raise ValueError(
                f"The rate of group {self._layer_groups[group].name!r} is 0 at step "
                f"{step} before any factor, so no factor gives the rate asked for. "
                "Set it at another step, or build the optimizer with a rate above 0."
            )

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the state of variables that have none yet; may be called again with more.

        Args:
            variables: Variables of one model. Those already known are left alone.

        Raises:
            ValueError: If no model owns them, or the groups do not fit the model; nothing is
                created then.
        """
        fresh = list({self._var_key(v): v for v in variables if not self._knows(v)}.values())
        if self.built and not fresh:
            return
        if not tf.inside_function():
            self._build_fresh(fresh)
            return
        # State made while a step is traced must outlive the trace, and a `tf.function` lets no
        # variable be made in any trace but its first, not even in `tf.init_scope`. What it forbids
        # is forbidden to its own thread.
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as outside:
            outside.submit(self._build_fresh, fresh).result()

    def _build_fresh(self, fresh: Sequence[Any]) -> None:
        with tf.init_scope(), self._creation_scope():
            if fresh:
                self._route(fresh)
            if not self.built:
                super().build([])
            by_group: dict[int, list[Any]] = {}
            for variable in fresh:
                by_group.setdefault(self._place(variable).group, []).append(variable)
            with keras.name_scope(self.name, caller=self):
                for group, members in by_group.items():
                    grow(self._group_optimizers[group], members)
                for variable in fresh:
                    self._add_spanning_state(variable)
            self._restore_deferred()

    def _knows(self, variable: Any) -> bool:
        return self._var_key(variable) in self._trainable_variables_indices

    def _place(self, variable: Any) -> Place:
        return self._routes.places[self._var_key(variable)]

    def _creation_scope(self) -> Any:
        if not self._has_strategy or tf.distribute.has_strategy():
            return contextlib.nullcontext()
        return self._distribution_strategy.scope()

    def _route(self, variables: Sequence[Any]) -> None:
        """Looks up the places of variables; asks for the model only when it does not know it."""
        if all(self._var_key(v) in self._routes.places for v in variables):
            return
        places = find_model(
            [*self._trainable_variables, *variables],
            self._layer_groups,
            key=self._var_key,
            optimizer=self,
        )
        self._follow(places)

    def _follow(self, places: Sequence[Place]) -> None:
        self._routes.places = {self._var_key(place.variable): place for place in places}
        for member, excluded in zip(self._group_optimizers, self._routes.exclusions):
            if excluded is not None:
                named = [p.variable for p in places if p.key in excluded["places"]]
                restore_exclusions(member, excluded, map(self._var_key, named))
        self._routes.exclusions = ()
        self._guard = GroupingGuard(
            grouping_digests(self), dtype="int64", trainable=False, name="grouping"
        )

    def _locate(self) -> bool:
        """Makes sure the places are known before any variable is; `False` if no model is found."""
        if not self._routes.places:
            model = compiled_model(self)
            if model is not None:
                with tf.init_scope(), self._creation_scope():
                    self._follow(assign_variables(model, self._layer_groups))
        return bool(self._routes.places)

    def _add_spanning_state(self, variable: Any) -> None:
        """Takes one variable into the lists that Keras keeps parallel to the trained variables."""
        self._trainable_variables_indices[self._var_key(variable)] = len(self._trainable_variables)
        self._trainable_variables.append(variable)
        overwritten = self._overwrite_variable_with_gradient(variable)
        if self.use_ema:
            average = None
            if not overwritten:
                average = self.add_variable_from_reference(variable, name="average")
                average.assign(variable)
            self._model_variables_moving_average.append(average)
        if self.gradient_accumulation_steps:
            self._accumulated_gradients.append(
                self.add_variable_from_reference(variable, name="gradient_accumulator")
            )

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Updates variables with their gradients.

        Args:
            grads: Gradients, `None` where there is none: that variable does not move, and a group
                without any gradient does not count a step.
            trainable_variables: Their variables: any subset of the model's, in any order. Defaults
                to all the optimizer was built with.

        Raises:
            ValueError: If all gradients are `None`, the numbers of gradients and variables differ,
                or a variable belongs to no group; nothing is written then.
        """
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            if not self.built:
                raise ValueError(
                    "The optimizer does not know the variables of these gradients: it is not "
                    "built. Pass `trainable_variables`, or call `build(variables)` first."
                )
            trainable_variables = self._trainable_variables
        variables = list(trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(
                "Each gradient should have its variable. "
                f"Received {len(grads)} gradients and {len(variables)} variables."
            )
        if all(gradient is None for gradient in grads):
            names = [getattr(v, "path", v.name) for v in variables]
            raise ValueError(
                "No gradients provided for any variable: all are `None`. Check that the loss "
                f"depends on the variables and is computed inside the tape. Variables: {names}"
            )
        for member, group in zip(self._group_optimizers, self._layer_groups):
            if not isinstance(member._learning_rate, GroupRate):
                raise TypeError(
                    f"The learning rate of group {group.name!r} was replaced by a "
                    "schedule, which no step would follow. Build a new `MultiGroupOptimizer`. "
                    f"Received: {member._learning_rate!r}"
                )
        self._ensure_built(variables)
        with keras.name_scope(self.name, caller=self):
            grads, variables = self._filter_empty_gradients(grads, variables)
            grads, variables = self._overwrite_variables_directly_with_gradients(grads, variables)
            if variables:
                self._apply_dense(list(grads), list(variables))
        self._iterations.assign_add(1)

    def _ensure_built(self, variables: Sequence[Any]) -> None:
        if self.built and all(self._knows(v) for v in variables):
            return
        replica = tf.distribute.get_replica_context()
        if tf.distribute.has_strategy() and replica is not None:
            replica.merge_call(lambda strategy: self.build(variables))
        else:
            self.build(variables)

    def _apply_dense(self, grads: list[Any], variables: list[Any]) -> None:
        if self.loss_scale_factor is not None:
            grads = [_divide(g, self.loss_scale_factor) for g in grads]
        # Before clipping and accumulation, so that several devices train as one would.
        if tf.distribute.has_strategy():
            grads = [g for g, _ in self._all_reduce_sum_gradients(list(zip(grads, variables)))]
        if not self.gradient_accumulation_steps:
            self._update(grads, variables)
            return
        grads = [tf.convert_to_tensor(g) for g in grads]
        count = self.gradient_accumulation_steps
        accumulators = [self._accumulated_gradients[self._get_variable_index(v)] for v in variables]

        def update(grads: list[Any]) -> None:
            means = [(g + total.value) / count for g, total in zip(grads, accumulators)]
            self._update(means, variables)
            # Also those of variables without a gradient now, as in Keras: nothing is carried over.
            self._on_devices(
                [(a, lambda v: v.assign(tf.zeros_like(v)), ()) for a in self._accumulated_gradients]
            )

        def accumulate(grads: list[Any]) -> None:
            self._on_devices(
                [(a, lambda v, g: v.assign(v + g), (g,)) for a, g in zip(accumulators, grads)]
            )

        self._choose((self._iterations.value + 1) % count == 0, update, accumulate, grads)

    def _update(self, grads: list[Any], variables: list[Any]) -> None:
        """One step on complete gradients."""
        if self.clipnorm or self.clipvalue or self.global_clipnorm:
            grads = self._clip_gradients([tf.convert_to_tensor(g) for g in grads])
        rates = self._current_rates()
        self._last_rates.assign(rates)
        group_of = [self._place(v).group for v in variables]
        moved = sorted(set(group_of))
        with self._update_in_progress():
            for group in moved:
                member = self._group_optimizers[group]
                if member.weight_decay is not None or overrides(member, "_apply_weight_decay"):
                    member._apply_weight_decay(
                        [v for v, of in zip(variables, group_of) if of == group]
                    )
                if overrides(member, "_backend_update_step"):
                    # What an optimizer does once per step beside its variables (Nadam's product).
                    member._backend_update_step([], [], rates[group])
            arguments = self._step_arguments(moved, rates)
            self._on_devices(
                [
                    (v, update_step_of(self._group_optimizers[of]), (g, arguments[of]))
                    for g, v, of in zip(grads, variables, group_of)
                ]
            )
        self._group_steps.assign_add([int(n in moved) for n in range(len(self._layer_groups))])
        if self.use_ema:
            self._update_averages()
        constrained = [v for v in variables if getattr(v, "constraint", None) is not None]
        self._on_devices([(v, _constrain(v.constraint), ()) for v in constrained])

    def _step_arguments(self, moved: Sequence[int], rates: tf.Tensor) -> dict[int, Any]:
        """What each group's `update_step` gets for a rate; computed once for all groups."""
        by_group = tf.unstack(rates, num=len(self._layer_groups))
        arguments: dict[int, Any] = {group: by_group[group] for group in moved}
        fused = [g for g in moved if isinstance(self._group_optimizers[g], FusedAdam)]
        if fused and rates.dtype == tf.float32:
            members = [self._group_optimizers[g] for g in fused]
            steps = self._group_steps.value + 1
            if len(fused) < len(self._layer_groups):
                steps = tf.gather(steps, fused)
            shared = FusedAdam.stacked_step_constants(
                members, [by_group[group] for group in fused], steps
            )
            arguments.update(zip(fused, shared))
        return arguments

    @contextlib.contextmanager
    def _update_in_progress(self) -> Iterator[None]:
        # A count, since the replicas of a strategy run in threads that take turns.
        self._updates_in_progress += 1
        try:
            yield
        finally:
            self._updates_in_progress -= 1

    def _on_devices(self, updates: Sequence[tuple[Any, Callable[..., Any], tuple]]) -> None:
        """Calls `function(variable, *arguments)` for each update, on every device that holds it.

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

        tf.__internal__.distribute.interim.maybe_merge_call(
            update, self._distribution_strategy, arguments
        )

    def _choose(
        self,
        condition: tf.Tensor,
        if_true: Callable[[list[Any]], Any],
        if_false: Callable[[list[Any]], Any],
        arguments: list[Any],
    ) -> None:
        """`tf.cond` whose branches may update variables under a strategy.

        Strategies that merge replicas cannot do so inside a replica's `cond`: the condition, the
        same on all replicas, is taken outside of them.
        """

        def branch(function: Callable[[list[Any]], Any], arguments: list[Any]) -> tf.Tensor:
            function(arguments)
            return tf.constant(0)

        if tf.__internal__.distribute.strategy_supports_no_merge_call():
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

    def _averaged(self) -> list[tuple[Any, keras.Variable]]:
        pairs = zip(self._trainable_variables, self._model_variables_moving_average)
        return [(variable, average) for variable, average in pairs if average is not None]

    def _update_averages(self) -> None:
        # The first step takes the weights as they are, as in Keras.
        is_first = tf.equal(tf.convert_to_tensor(self.iterations), 0)
        momentum = tf.where(is_first, 0.0, self.ema_momentum)

        def update(average: Any, variable: Any, momentum: Any) -> None:
            momentum = tf.cast(momentum, average.dtype)
            average.assign(momentum * average + (1 - momentum) * variable)

        pairs = self._averaged()
        self._on_devices([(average, update, (v.value, momentum)) for v, average in pairs])
        if self.ema_overwrite_frequency:
            due = (tf.convert_to_tensor(self.iterations) + 1) % self.ema_overwrite_frequency == 0
            self._choose(
                due,
                lambda _: self._overwrite_with_averages(self._averaged()),
                lambda _: None,
                [momentum],
            )

    def _overwrite_with_averages(self, pairs: Sequence[tuple[Any, keras.Variable]]) -> None:
        self._on_devices(
            [(variable, lambda v, average: v.assign(average), (a.value,)) for variable, a in pairs]
        )

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Overwrites variables with their averages; by variable, where Keras goes by position."""
        if not self.use_ema:
            return
        wanted = {self._var_key(v) for v in var_list}
        pairs = [pair for pair in self._averaged() if self._var_key(pair[0]) in wanted]
        for variable, average in pairs:
            variable.assign(average)

    @property
    def variables(self) -> list[Any]:
        """All variables of the optimizer and its inner optimizers.

        In one order whatever the order of the groups, since `LossScaleOptimizer` stores them by
        position.
        """
        guard = [self._guard] if self._routes.places else []
        small = [self._iterations, self._rate_scale, self._rate_factors, self._group_steps]
        return [*guard, *small, *state_variables(self).values()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets `variables` to arrays of the same shapes, in the same order.

        The groups of the optimizer they come from may stand in another order.

        Raises:
            ValueError: If the optimizer is not built, the shapes differ, or the groups do.
        """
        variables = self.variables
        weights = [keras.ops.convert_to_numpy(weight) for weight in weights]
        if not self.built or [tuple(v.shape) for v in variables] != [w.shape for w in weights]:
            raise ValueError(
                "Weights should be one array per variable of the built optimizer, of its shape. "
                f"Received {len(weights)} arrays for {len(variables)} variables."
            )
        self._guard.assign(weights[0])
        order = self._guard.order_of(weights[0])
        for variable, weight in zip(variables[1:], weights[1:]):
            by_group = variable is self._rate_factors or variable is self._group_steps
            variable.assign(weight[order] if by_group else weight)

    def save_own_variables(self, store: Any) -> None:
        """Writes the state under names that do not depend on the order of the groups."""
        self._locate()
        store[LEDGER] = encode(read_ledger(self))
        for name, variable in state_variables(self).items():
            store[name] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` wrote; all of it, or nothing with an error.

        Raises:
            ValueError: If the state is damaged, was saved by another optimizer, or its groups or
                variables differ.
        """
        if not list(store.keys()):
            super().load_own_variables(store)  # warns that there is nothing to load
            return
        if LEDGER not in store.keys():  # noqa: SIM118 - Keras' stores are no mappings
            raise ValueError(
                "The file holds the state of another optimizer, not of a `MultiGroupOptimizer`. "
                "Compile the model with the optimizer it was saved with, or load the weights into "
                "the model before compiling it. The optimizer was left as it is."
            )
        ledger = decode(store[LEDGER])
        if not any(group["units"] for group in ledger["groups"]):
            return  # saved before it knew a model: its configuration was all there was
        if not self._locate():
            raise ValueError(
                "The optimizer does not know its model yet, so no state can be loaded. Compile the "
                "model with it, or call `build(model.trainable_variables)`, first."
            )
        arrays = {}
        for name, shape in ledger["state"].items():
            try:
                arrays[name] = np.asarray(store[name])
            except (KeyError, OSError) as error:
                raise ValueError(
                    f"The state in the file is incomplete: {name!r} cannot be read ({error}). The "
                    "optimizer was left as it is."
                ) from error
            if list(arrays[name].shape) != shape:
                raise ValueError(
                    f"The state in the file is damaged: {name!r} should have shape {shape}. "
                    f"Received shape {list(arrays[name].shape)}. The optimizer was left as it is."
                )
        self._restore_ledger(ledger)
        for name, variable in state_variables(self).items():
            if name in arrays:
                variable.assign(arrays[name])

    def _restore_ledger(self, ledger: dict[str, Any]) -> None:
        if not self._locate():
            self._routes.pending = ledger
            return
        mapping = match(self, ledger)
        self._build_places(ledger["variables"])
        match_slots(self, ledger)
        write_ledger(self, ledger, mapping)

    def _build_places(self, keys: Any) -> None:
        self.build([p.variable for p in self._routes.places.values() if p.key in keys])

    def _restore_deferred(self) -> None:
        """Takes over what a `tf.train.Checkpoint` restored before the state existed."""
        pending, self._routes.pending = self._routes.pending, None
        if pending is not None:
            self._restore_ledger(pending)
        for name, child in self._trackable_children().items():
            self._handle_deferred_dependencies(name, child)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        # TensorFlow asks for these names while the base class is being initialised, and would
        # otherwise store every list Keras keeps, by position, the model's weights among them.
        if "_ledger_state" not in vars(self) or save_type != "checkpoint":
            return {}
        # The weights too, by place: TensorFlow passes by the layers a Keras model holds in lists.
        weights = {f"{p.key}.{WEIGHT}": p.variable for p in self._routes.places.values()}
        return {LEDGER: self._ledger_state, **state_variables(self), **weights}

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        if "_ledger_state" not in vars(self):
            return None
        if name == LEDGER:  # first of the children, so that the others find their places
            self._locate()
        key, _, kept = name.rpartition(".")
        waiting = [
            place.variable
            for identity, place in self._routes.places.items()
            if place.key == key
            and kept != WEIGHT
            and identity not in self._trainable_variables_indices
        ]
        if waiting:
            self.build(waiting)
        # What TensorFlow looked up before may lack the state just built.
        known = (cached_dependencies or {}).get(name)
        return known if known is not None else self._trackable_children().get(name)

    def get_config(self) -> dict[str, Any]:
        inner = []
        for member in self._group_optimizers:
            config = keras.saving.serialize_keras_object(member)
            config["config"]["learning_rate"] = 0.0  # the wrapper's rates are used
            inner.append(config)
        factors = self._rate_factors.numpy().tolist()
        rates: list[Any] = []
        for group, factor in enumerate(factors):
            schedule = self._schedule_of(group)
            rates.append(
                factor if schedule is None else keras.saving.serialize_keras_object(schedule)
            )
        return {
            "groups": [group.get_config() for group in self._layer_groups],
            "learning_rate": rates,
            "optimizer": inner,
            "name": self.name,
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
            "global_clipnorm": self.global_clipnorm,
            "use_ema": self.use_ema,
            "ema_momentum": self.ema_momentum,
            "ema_overwrite_frequency": self.ema_overwrite_frequency,
            "loss_scale_factor": self.loss_scale_factor,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "exclude_from_weight_decay": self._exclusions_config(),
            "rate_factors": factors,
            "rate_scale": float(self._rate_scale.numpy()),
        }

    def _exclusions_config(self) -> list[dict[str, Any] | None]:
        if self._routes.exclusions:
            return list(self._routes.exclusions)
        key_of = {identity: place.key for identity, place in self._routes.places.items()}
        return [exclusions_config(member, key_of) for member in self._group_optimizers]

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> MultiGroupOptimizer:
        config = dict(config)
        load = functools.partial(
            keras.saving.deserialize_keras_object, custom_objects=custom_objects
        )
        config["groups"] = [LayerGroup.from_config(group) for group in config["groups"]]
        config["optimizer"] = [load(member) for member in config["optimizer"]]
        rates = [load(rate) if isinstance(rate, dict) else rate for rate in config["learning_rate"]]
        # A function can only be the rate that an inner optimizer was made with.
        by_member = any(callable(r) and not isinstance(r, LearningRateSchedule) for r in rates)
        if by_member:
            for member, rate in zip(config["optimizer"], rates):
                member._learning_rate = rate
        config["learning_rate"] = None if by_member else rates
        factors, scale = config.pop("rate_factors"), config.pop("rate_scale")
        exclusions = config.pop("exclude_from_weight_decay")
        optimizer = cls(**config)
        optimizer._rate_factors.assign(factors)
        optimizer._rate_scale.assign(scale)
        if any(exclusions):
            optimizer._routes.exclusions = exclusions
        return optimizer


def unwrap(optimizer: Any) -> MultiGroupOptimizer:
    """Returns the `MultiGroupOptimizer`, also from inside Keras' `LossScaleOptimizer`.

    Args:
        optimizer: What `model.optimizer` holds.

    Raises:
        TypeError: If there is none.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(inner, MultiGroupOptimizer):
        raise TypeError(
            "A `MultiGroupOptimizer` was expected: compile the model with one. "
            f"Received: {optimizer!r}"
        )
    return inner


def _check_groups(groups: Any) -> tuple[LayerGroup, ...]:
    if not isinstance(groups, Sequence) or not all(isinstance(g, LayerGroup) for g in groups):
        raise TypeError(
            "Argument `groups` should be a sequence of `LayerGroup`, as `split_layers`, "
            f"`split_evenly` and `split_layerwise` return. Received: groups={groups!r}"
        )
    if not groups:
        raise ValueError("Argument `groups` should hold at least one group. Received: groups=()")
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ValueError(f"Group names should be unique. Received: names={names}")
    claimed: dict[str, str] = {}
    for group in groups:
        for path in group.layers:
            if path in claimed:
                raise ValueError(
                    f"Layer {path!r} is claimed twice, by the groups "
                    f"{[claimed[path], group.name]}. Each layer should stand in one group."
                )
            claimed[path] = group.name
    return tuple(groups)


def reader(variable: keras.Variable) -> Callable[[], tf.Tensor]:
    """A quick way to read a variable eagerly, without waiting for its value."""
    value = variable.value
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.values[0]
    return functools.partial(tf.raw_ops.ReadVariableOp, resource=value.handle, dtype=value.dtype)


def _value_now(variable: keras.Variable) -> Any:
    """A variable's value: an array where it is known, a tensor while a function is traced.

    A few numbers are quicker to compute with NumPy, and callbacks do so before every batch.
    """
    return reader(variable)().numpy() if tf.executing_eagerly() else variable.value


def _both_zero(rate: Any, value: Any) -> bool:
    """Whether a rate of 0 is asked for where every factor gives 0: the rate is as it should be."""
    return tf.executing_eagerly() and not float(rate) and not float(value)


def _constrain(constraint: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda variable: variable.assign(constraint(variable))


def _divide(gradient: Any, scale: float) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / scale, gradient.indices, gradient.dense_shape)
    return gradient / scale
