"""`MultiGroupOptimizer`: one Keras optimizer per layer group behind one optimizer."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core import _keras
from dlr_tf.core._validation import warn_user
from dlr_tf.core.assignment import GroupAssignment
from dlr_tf.core.batch_norm import BatchNormCheck
from dlr_tf.core.checkpointing import CheckpointManifest, OptimizerState, SavedState
from dlr_tf.core.decay import Decays, set_weight_decays, start_decays, weight_decays
from dlr_tf.core.exclusions import Exclusions
from dlr_tf.core.group_rates import GroupRates
from dlr_tf.core.groups import LayerGroup, check_groups
from dlr_tf.core.inner_optimizers import (
    GroupOptimizers,
    bind_inner_optimizer,
    is_bound,
    make_inner_optimizers,
)
from dlr_tf.core.learning_rates import SavedRates, resolve_learning_rates, warn_if_rates_fall
from dlr_tf.core.manifest import MANIFEST
from dlr_tf.core.model_tree import check_built
from dlr_tf.core.optimizer_config import arguments_and_state, inner_configs
from dlr_tf.core.optimizer_copies import schedules_of
from dlr_tf.core.scheduled_values import ScheduledValues
from dlr_tf.core.summary import group_rows, group_table
from dlr_tf.core.update import GroupUpdate, check_gradients
from dlr_tf.core.value_views import RateView
from dlr_tf.core.variable_state import VariableState, state_kinds


@keras.saving.register_keras_serializable(package="dlr_tf")
class MultiGroupOptimizer(_keras.AveragingOptimizer):
    r"""Train every group of layers at a learning rate of its own.

    It holds one Keras optimizer per group and sends each gradient to the group of its variable.
    With the schedule values `s_g(k)` at step `k` and the scale `c` that assignments to
    `learning_rate` set, group `g` is updated at

        lr_g(k) = c * s_g(k)        (s_g(k) = lr_g where the rate is a number)

    A rate set by hand over a schedule is used at that step. It never raises a later rate above the
    schedule's own peak; a warning says so if this limits a rate.

    The optimizer knows its model from the groups that `split_*` return, from `bind(model)`, or,
    in `load_model` and `fit`, as the model that is compiled with it and calls it. A variable
    belongs to one group.

    `N` groups at one rate with the template `keras.optimizers.Adam()` equal one Keras Adam bit for
    bit; `N` groups at `N` rates equal `N` separate optimizers.

    Use a plain Keras optimizer when all layers learn at one rate, and
    `keras.optimizers.MultiOptimizer` when variables are to be distinguished by their paths
    rather than by layer.

    Args:
        groups: What `split_layers`, `split_evenly` or `split_layerwise` return. The last one is
            the head.
        learning_rate: Float or `LearningRateSchedule` (all groups), `slice(lo, hi)` (geometric
            from the first group to the head), `slice(hi)` (head `hi`, every other group
            `hi / 10`), a sequence with one float or schedule per group, or a dict from the name of
            each group to its float or schedule. Per step, not negative; the values of a schedule
            are checked only in eager execution. `None` with a sequence of optimizers: each keeps
            its own.
        optimizer: `None`: `FusedAdam()`. A Keras optimizer: a template, copied for every group
            and not changed; its own learning rate is not used. A name such as `"adamw"` or a
            configuration, as `keras.optimizers.get` takes: the template is made from it. A sequence
            of Keras optimizers, one per group: used as they are.
        name: Name of the optimizer.
        clipnorm: Float above 0: largest norm of each variable's gradient.
        clipvalue: Float above 0: largest absolute value of a gradient's elements.
        global_clipnorm: Float above 0: largest norm of all gradients of all groups together.
        use_ema: Whether to keep an average of the weights over the steps.
        ema_momentum: Float in [0, 1]: decay of an exponential moving average per step; or `None`:
            all steps count the same, as the mean of the weights after every step (Polyak-Ruppert
            averaging). Defaults to `0.99`.
        ema_overwrite_frequency: Integer of at least 1: the number of steps after which the weights
            are overwritten with their average. Defaults to `None`: only at the end of `fit`.
        loss_scale_factor: Float: gradients are divided by it, the loss multiplied by `scale_loss`.
        gradient_accumulation_steps: Integer of at least 2: the number of calls per step, which uses
            the mean of their gradients. Schedules and `iterations` count steps.
        weight_decay: Float or `LearningRateSchedule` (all groups), or one of them per group, as a
            sequence or a dict by group name: decoupled weight decay, at the group's own rate. It
            replaces the decay that an optimizer given by name has. Defaults to `None`: the inner
            optimizers' own. `exclude_from_weight_decay` excludes variables.
        decay_to_start: Float (all groups but the head), or one float per group, as a sequence or a
            dict by group name: decoupled decay toward the weights at the start instead of toward 0,
            `p <- p - lr_g * decay * (p - start)` (L2-SP). The start of a variable is its value when
            the optimizer is built, so load pretrained weights before. It needs memory for one more
            copy of these variables. What is excluded from weight decay is excluded from it too.

    Raises:
        TypeError: If an argument is of the wrong kind, or an inner optimizer is itself a wrapper.
        ValueError: If a rate is negative or not finite, the numbers of groups, rates and
            optimizers differ, or an inner optimizer has an argument that belongs to the wrapper.
        UserWarning: If rates fall from the first group to the head.

    Under `mixed_float16`, `model.compile` puts the optimizer into a `LossScaleOptimizer` of Keras,
    which has `learning_rate` and no other name of this class: `learning_rates` and the rest are
    names of `model.optimizer.inner_optimizer`.

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
    fine-tuning); Li, Grandvalet and Davoine, 2018, https://arxiv.org/abs/1802.01483 (L2-SP);
    Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046 (the mean of the weights).
    """

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        learning_rate: Any,
        optimizer: keras.optimizers.Optimizer
        | str
        | dict[str, Any]
        | Sequence[keras.optimizers.Optimizer]
        | None = None,
        *,
        name: str = "multi_group_optimizer",
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float | None = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        weight_decay: Any = None,
        decay_to_start: Any = None,
    ) -> None:
        groups = check_groups(groups)
        names = [group.name for group in groups]
        decays = Decays(weight_decays(weight_decay, names), start_decays(decay_to_start, names))
        inner, given = make_inner_optimizers(optimizer, len(groups), wrapper=MultiGroupOptimizer)
        if learning_rate is None:
            if not given:
                raise ValueError(
                    "Argument `learning_rate` can be `None` only with one optimizer per group, "
                    "each of which keeps its own. Give a rate. Received: learning_rate=None"
                )
            sources = [_keras.learning_rate_of(one) for one in inner]
        else:
            sources = resolve_learning_rates(learning_rate, len(groups), names)
            if not isinstance(learning_rate, SavedRates):
                warn_if_rates_fall(names, sources)
        assignment = GroupAssignment(groups)
        super().__init__(
            # Keras asks for a rate; with a function it creates no variable for one.
            learning_rate=self._head_rate,
            name=name,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=0.0 if ema_momentum is None else ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
        )
        self.ema_momentum = ema_momentum  # Keras takes numbers only
        self._assignment = assignment
        self._frozen_when_saved: frozenset[str] = frozenset()
        self._group_optimizers = GroupOptimizers(inner)
        self._exclusions = Exclusions(self._group_optimizers)
        self._batch_norm = BatchNormCheck()
        self._has_strategy = tf.distribute.has_strategy()
        self._scheduled = ScheduledValues(self._iterations_now)
        self._decays = decays
        if decays.weight_decay is not None:
            by_name = isinstance(optimizer, str)
            set_weight_decays(inner, decays.weight_decay, self._scheduled, replace=by_name)
        for one in inner:
            for attribute, schedule in schedules_of(one).items():
                setattr(one, attribute, self._scheduled.view(schedule))
        self._rates: GroupRates = GroupRates(
            sources,
            names,
            iterations=self._iterations_now,
            add_variable=self._add_wrapper_variable,
        )
        self._group_steps = self._add_wrapper_variable((len(groups),), "int64", "group_steps")
        for number, one in enumerate(inner):
            bind_inner_optimizer(
                one,
                read_rate=functools.partial(self._rates.of_group, number),
                write_rate=functools.partial(self._rates.set_group, number),
                read_steps=functools.partial(self._steps_of_group, number),
                schedule=sources[number] if callable(sources[number]) else None,
            )
        self._variable_state = VariableState(
            state_kinds(self, self._decays_to_start if decays.decay_to_start else None)
        )
        parts = {
            "assignment": self._assignment,
            "rates": self._rates,
            "inner_optimizers": self._group_optimizers,
            "group_steps": self._group_steps,
        }
        self._update = GroupUpdate(
            self,
            scheduled=self._scheduled,
            variable_state=self._variable_state,
            start_decays=decays.decay_to_start or [],
            **parts,
        )
        self._state = OptimizerState(
            self,
            variable_state=self._variable_state,
            build=self.build,
            creation_scope=self._creation_scope,
            **parts,
        )
        self._manifest = CheckpointManifest(self._state.manifest, self._load_checkpoint)

    def _head_rate(self) -> tf.Tensor:
        return self._rates.head()

    def _iterations_now(self) -> Any:
        if not tf.executing_eagerly():
            return tf.cast(tf.convert_to_tensor(self.iterations), tf.int64)
        count = _keras.eager_read_fn(self.step_counter)().numpy()
        return np.int64(count // (self.gradient_accumulation_steps or 1))

    def _add_wrapper_variable(self, shape: tuple[int, ...], dtype: str, name: str) -> Any:
        return self.add_variable(shape, dtype=dtype, name=name, aggregation="only_first_replica")

    @property
    def _small_variables(self) -> list[keras.Variable]:
        # `LossScaleOptimizer` stores them by position.
        return [self.step_counter, self._rates.record, self._group_steps]

    def _steps_of_group(self, group: int) -> tf.Tensor:
        return self._group_steps.value[group]

    def _decays_to_start(self, variable: Any) -> bool:
        decays = self._decays.decay_to_start or []
        return bool(decays[self._assignment.group_of(variable)])

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The groups, first to head."""
        return self._assignment.groups

    @property
    def group_optimizers(self) -> GroupOptimizers:
        """The inner optimizers, one per group; their `learning_rate` is the rate in use now."""
        return self._group_optimizers

    @property
    def group_steps(self) -> keras.Variable:
        """The number of steps that each group made, of shape `(n_groups,)`."""
        return self._group_steps

    @property
    def step_counter(self) -> keras.Variable:
        """The variable that counts calls of `apply`: micro-steps under gradient accumulation."""
        return _keras.step_counter_of(self)

    def __repr__(self) -> str:
        # While a function is traced, the rates have no values.
        rates = self.learning_rates if tf.executing_eagerly() else [None] * len(self.groups)
        groups = [
            f"{group.name}: {type(inner).__name__}" + ("" if rate is None else f" at {rate:.3g}")
            for group, inner, rate in zip(self.groups, self._group_optimizers, rates)
        ]
        return f"{type(self).__name__}({', '.join(groups)})"

    def decays(self) -> dict[str, list[Any] | None]:
        """Return the arguments `weight_decay` and `decay_to_start`, one value per group."""
        return self._decays.lists()

    def bind(self, model: keras.Model) -> None:
        """Tell the optimizer its model.

        Needed only where it cannot know the model: the groups were made by hand, were pickled, or
        come from another model, and it is not `fit` or another method of the model, compiled with
        this optimizer, that trains.

        Args:
            model: A built model.

        Raises:
            TypeError: If it is not a model.
            ValueError: If the model is not built, the groups are not the model's, or the optimizer
                has state for variables of another model.
        """
        check_built(model)
        trial = GroupAssignment(tuple(self.groups))
        trial.bind(model)
        foreign = [v for v in _keras.known_variables(self) if trial.entry_of(v) is None]
        # The known model may have lost variables, by quantization.
        if foreign and model is not self._assignment.model:
            raise ValueError(
                f"The optimizer has state for variables of the model "
                f"{self._assignment.model_name!r}, which {model.name!r} does not have: "
                f"{foreign[0].path!r}. Make a new optimizer for the other model."
            )
        previous = self._assignment.model
        self._assignment.bind(model)
        try:
            self._after_binding()
        except ValueError:  # the state of another optimizer, which this is a copy of
            self._assignment.forget()
            if previous is not None:
                self._assignment.bind(previous)
            raise

    @property
    def learning_rate(self) -> RateView:
        """The head's rate now: reads as a number, with `assign`, `value` and `numpy()`.

        Setting it scales every group by the same factor, so that the head has that rate. Inside a
        `tf.function` a negative or NaN rate is not noticed, nor that a schedule is 0 at this step.
        """
        return RateView(self._head_rate, self._rates.set_head)

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        self._rates.set_head(rate)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("learning_rate", "learning_rates"):
            # Keras and TensorFlow would read it before it is set.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def learning_rates(self) -> list[float]:
        """The rates now, one float per group; settable with one number per group."""
        return [float(rate) for rate in np.asarray(self._rates.current())]

    @learning_rates.setter
    def learning_rates(self, rates: Any) -> None:
        self._rates.set_all(rates)

    @property
    def last_learning_rates(self) -> np.ndarray:
        """The rates of the most recent update, float32 of shape `(n_groups,)`.

        NaN for a group that did not move in it, and before the first update. They are not saved:
        after loading, they are NaN until the next update if a rate follows a schedule, and the
        rates now if none does.
        """
        return self._rates.last()

    @property
    def rate_record(self) -> keras.Variable:
        """The variable that holds the rates; `recorded_rates` reads its values."""
        return self._rates.record

    def recorded_rates(self, records: Sequence[tf.Tensor], steps: Sequence[int]) -> np.ndarray:
        """Return `last_learning_rates` at the times when `rate_record` was read.

        Args:
            records: The values of `rate_record`, one or more.
            steps: The number of steps made by then, for each.
        """
        return self._rates.last_at(records, steps)

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Exclude variables of any group from weight decay.

        It acts on every inner optimizer. Call it before the optimizer is built.

        Args:
            var_list: Variables. Defaults to none.
            var_names: Parts of variable names, such as `"bias"`. Defaults to none.

        Raises:
            TypeError: If `var_names` is a string.
            ValueError: If the optimizer is built.
        """
        if isinstance(var_names, str):
            raise TypeError(
                "Argument `var_names` should be a list of strings. "
                f"Received: var_names={var_names!r}"
            )
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` should be called before the optimizer is built, which "
                "happens when training begins."
            )
        for inner in self._group_optimizers:
            inner.exclude_from_weight_decay(var_list=var_list, var_names=var_names)

    def summary(self, print_fn: Callable[[str], Any] | None = None) -> None:
        """Print a table: group, layers, variables, parameters, optimizer, rate, trainable or not.

        Args:
            print_fn: Called with the table as one string. Defaults to printing it.
        """
        self._assignment.refresh()
        variables = [self._assignment.variables(n) for n in range(len(self.groups))]
        rows = group_rows(self.groups, variables, self._group_optimizers, self.learning_rates)
        (print_fn or print)(group_table(self.name, rows))

    # --- Building

    def build(self, variables: Sequence[Any]) -> None:
        """Create the state of variables that have none yet; may be called again with more.

        Args:
            variables: Variables of one model. Those already known are not changed.

        Raises:
            ValueError: If the model is not known or does not own them, or the groups do not fit
                it; nothing is created then.
        """
        fresh = list({_keras.variable_key(v): v for v in variables if not self._knows(v)}.values())
        if self.built and not fresh:
            return
        if not tf.inside_function():
            self._build_fresh(fresh)
            return
        if not all(map(_keras.is_initialized, fresh)):
            # These are made in this very trace and get their values when it first runs. State that
            # copies them must be made in it too, as Keras' optimizers do.
            self._build_fresh(fresh, in_trace=True)
            return
        # State made while a step is traced must outlive the trace, and a `tf.function` allows
        # new variables only in its first trace, `tf.init_scope` or not. The restriction is per
        # thread.
        self._resolve(fresh)  # in this thread, whose callers show the model
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as outside:
            outside.submit(self._build_fresh, fresh).result()

    def _build_fresh(self, fresh: Sequence[Any], *, in_trace: bool = False) -> None:
        with contextlib.nullcontext() if in_trace else self._creation_scope():
            if fresh:
                self._resolve(fresh)
                self._after_binding()
                fresh = [v for v in fresh if not self._knows(v)]
            if not self.built:
                super().build([])
            if fresh and not in_trace:
                # Not only when it is saved: on several machines all must create the same variables,
                # and one saves.
                self._state.fingerprint()
            by_group: dict[int, list[Any]] = {}
            for variable in fresh:
                by_group.setdefault(self._assignment.group_of(variable), []).append(variable)
            with keras.name_scope(self.name, caller=self):
                for group, of_group in by_group.items():
                    with keras.name_scope(f"group_{group}"):
                        _keras.add_variables(self._group_optimizers[group], of_group)
                for variable in fresh:
                    _keras.register_variable(self, variable)
                    self._variable_state.add(variable)
            model = self._assignment.model
            if model is not None and not in_trace and not self._state.is_loading:
                self._batch_norm.add(model, fresh)
            if not self._state.is_loading:
                self._state.load_waiting(checkpoint=True)
                self._restore_parts()

    def _resolve(self, variables: Sequence[Any]) -> None:
        has_state = bool(_keras.known_variables(self))
        self._assignment.resolve(variables, self, has_state=has_state)
        # Now, while a method of the compiled model runs: `get_config` may be called outside of one.
        self._assignment.path_in_compiled_model(self)

    def _knows(self, variable: Any) -> bool:
        return _keras.knows(self, variable)

    @contextlib.contextmanager
    def _creation_scope(self) -> Any:
        """A scope in which variables outlive a trace and are placed as the optimizer's others."""
        with tf.init_scope(), contextlib.ExitStack() as stack:
            if self._has_strategy and not tf.distribute.has_strategy():
                stack.enter_context(_keras.strategy_of(self).scope())
            yield

    def _after_binding(self) -> None:
        """Restore what needed the model."""
        self._exclusions.restore(self._assignment.entries())
        self._state.load_waiting()

    def _locate(self) -> bool:
        """Make sure the model is known before any variable is; `False` if it cannot be."""
        has_state = bool(_keras.known_variables(self))
        is_known = self._assignment.locate(self, has_state=has_state)
        if is_known:
            self._after_binding()
        return is_known

    # --- Updating

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Update variables with their gradients.

        Args:
            grads: Gradients, `None` where there is none: that variable does not move, and a group
                without any gradient does not count a step.
            trainable_variables: Their variables: any subset of the model's, in any order. Defaults
                to all the optimizer was built with.

        Raises:
            ValueError: If all gradients are `None`, the numbers of gradients and variables differ,
                a variable belongs to no group, or, in eager execution, a schedule gives a rate
                that is negative or not finite; nothing is written then.
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
            trainable_variables = _keras.known_variables(self)
        variables = list(trainable_variables)
        check_gradients(grads, variables)
        for inner, group in zip(self._group_optimizers, self.groups):
            if not is_bound(inner):
                raise TypeError(
                    f"The learning rate of group {group.name!r} was replaced by a "
                    "schedule, which no step would follow. Build a new `MultiGroupOptimizer`. "
                    f"Received: {_keras.learning_rate_of(inner)!r}"
                )
        self._ensure_built(variables)
        if self._batch_norm.waiting:
            self._batch_norm.warn([v for g, v in zip(grads, variables) if g is not None])
        if self._rates.ends and _keras.is_initialized(self.step_counter):
            with tf.init_scope():  # a step that is traced now is the next one
                self._rates.warn_beyond_end(self._iterations_now())
        with keras.name_scope(self.name, caller=self):
            grads, variables = _keras.filter_gradients(self, grads, variables)
            if variables:
                self._update.step(grads, variables)
        self.step_counter.assign_add(1)

    def _ensure_built(self, variables: Sequence[Any]) -> None:
        if self.built and all(self._knows(v) for v in variables):
            return
        replica = tf.distribute.get_replica_context()
        if tf.distribute.has_strategy() and replica is not None:
            replica.merge_call(lambda strategy: self.build(variables))
        else:
            self.build(variables)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Overwrite variables with their averages.

        Each average is found by its variable; Keras finds it by position. `fit` calls this at its
        end, with and without averages.
        """
        if self._rates.ends:
            # A step that was traced before does not notice that its schedule ends.
            self._rates.warn_beyond_end(self._iterations_now() - 1)
        if not self.use_ema:
            return
        wanted = {_keras.variable_key(v) for v in var_list}
        for variable, average in self._update.averages():
            if _keras.variable_key(variable) in wanted:
                variable.assign(average)

    # --- Saving and loading

    @property
    def variables(self) -> list[Any]:
        """All variables of the optimizer and its inner optimizers.

        The order does not depend on the order of the groups, since `LossScaleOptimizer` stores
        them by position.
        """
        first = [self._state.fingerprint()] if self._assignment.is_known else []
        return [*first, *self._small_variables, *self._state.variables().values()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set `variables` to arrays of the same shapes, in the same order.

        The groups of the optimizer they come from may be in another order.

        Raises:
            ValueError: If the optimizer is not built or does not know its model, the shapes differ,
                or the groups do.
        """
        if not self.built or not self._locate():
            raise ValueError(
                "`set_weights` was called on an optimizer that is not built or does not know its "
                "model, so it has no state to set. Call "
                "`optimizer.build(model.trainable_variables)` first."
            )
        weights = [keras.ops.convert_to_numpy(weight) for weight in weights]
        was_empty = not _keras.known_variables(self)
        if was_empty and self._assignment.model is not None:
            # The legacy `.h5` format builds every optimizer on an empty list.
            self.build(self._assignment.model.trainable_variables)
        variables = self.variables
        shapes = [w.shape for w in weights]
        if shapes and shapes[0] == tuple(variables[0].shape):
            variables[0].assign(weights[0])  # refuses other groups
        if [tuple(v.shape) for v in variables] != shapes:
            variables = variables[: 1 + len(self._small_variables)]
            if not was_empty or [tuple(v.shape) for v in variables] != shapes[: len(variables)]:
                raise ValueError(
                    "Weights should be one array per variable of the built optimizer, of its "
                    f"shape. Received {len(weights)} arrays for {len(self.variables)} variables."
                )
            warn_user(
                "The saved optimizer trained other variables than are trainable now. Only its "
                "steps and rates were restored. All other state is new."
            )
            # Moments that are new need their bias correction from the start. The steps of the
            # groups are the last of the small variables.
            variables = [v for v in variables if v is not self._group_steps]
        order = variables[0].order_of(weights[0])
        for variable, weight in zip(variables[1:], weights[1:]):
            by_group = variable is self._rates.record or variable is self._group_steps
            variable.assign(weight[..., order] if by_group else weight)

    def save_own_variables(self, store: Any) -> None:
        """Write the state under names that do not depend on the order of the groups."""
        self._locate()
        self._state.save(store)

    def load_own_variables(self, store: Any) -> None:
        """Restore what `save_own_variables` wrote; all of it, or nothing with an error.

        A file without the state of a `MultiGroupOptimizer` gives a warning, as in Keras. The state
        is found whether it was saved inside a `LossScaleOptimizer` or not. Without a model, the
        state of variables is loaded when the model is known.

        Raises:
            ValueError: If the state is damaged, or its groups or variables differ.
        """
        self._state.load_file(store, self._locate)

    def _load_checkpoint(self, manifest: dict[str, Any]) -> None:
        self._locate()
        self._state.load_checkpoint(manifest)
        self._restore_parts()

    def _restore_parts(self) -> None:
        """Restore what a `tf.train.Checkpoint` holds, now that the parts and their names exist."""
        for name, part in self._state.parts_to_restore().items():
            self.restore_deferred(name, part)

    def variables_to_swap(self) -> list[Any]:
        model = self._assignment.model
        return _keras.known_variables(self) if model is None else list(model.trainable_variables)

    def checkpoint_children(self, save_type: str) -> dict[str, Any]:
        # TensorFlow calls this while the base class is initialized.
        if "_manifest" not in vars(self):
            return {}
        if save_type != "checkpoint":
            # Every resource that a traced step uses must be reachable from the object saved.
            small = {v.name: v for v in self._small_variables}
            return {**small, **self._state.variables()}
        if self._state.waits:
            self._locate()
        return {MANIFEST: self._manifest, **self._state.checkpoint_parts()}

    def checkpoint_child(self, name: str) -> Any:
        if "_manifest" not in vars(self):
            return None
        if name == "inner_optimizer":  # the checkpoint was written inside `LossScaleOptimizer`
            return self
        # TensorFlow looks up all names before it reads the manifest, which says what they mean. So
        # the others wait until it is read.
        return self._manifest if name == MANIFEST else None

    # --- Configuration and copies

    def get_config(self) -> dict[str, Any]:
        if self._exclusions.are_of_variables:
            self._locate()
        decays = self.decays()
        has_decays = decays["weight_decay"] is not None
        return {
            "groups": [group.get_config() for group in self.groups],
            **self._rates.config(),
            "optimizer": inner_configs(self._group_optimizers, has_decays=has_decays),
            "name": self.name,
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
            "global_clipnorm": self.global_clipnorm,
            "use_ema": self.use_ema,
            "ema_momentum": self.ema_momentum,
            "ema_overwrite_frequency": self.ema_overwrite_frequency,
            "loss_scale_factor": self.loss_scale_factor,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "weight_decay": keras.saving.serialize_keras_object(decays["weight_decay"]),
            "decay_to_start": decays["decay_to_start"],
            "exclude_from_weight_decay": self._exclusions.config(self._assignment.entries()),
            "model_path": self._assignment.path_in_compiled_model(self),
            "frozen_layers": sorted(self._frozen_when_saved | self._assignment.frozen_layers()),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> MultiGroupOptimizer:
        arguments, state = arguments_and_state(config, custom_objects)
        optimizer = cls(**arguments)
        optimizer._frozen_when_saved = frozenset(state["frozen_layers"])
        optimizer._assignment.model_path = state["model_path"]
        optimizer._rates.restore_config(state)
        optimizer._exclusions.restore_later(state["exclude_from_weight_decay"])
        if optimizer._assignment.is_known:
            optimizer._after_binding()
        return optimizer

    def take_frozen_when_saved(self) -> frozenset[str]:
        """Return the layers that `freeze_to` had frozen when the optimizer was saved, once."""
        taken, self._frozen_when_saved = self._frozen_when_saved, frozenset()
        return taken

    def __deepcopy__(self, memo: dict[int, Any]) -> MultiGroupOptimizer:
        """Copy the optimizer with its state, which the copy loads when its model is known."""
        config = {**self.get_config(), "groups": self.groups}
        memo[id(self)] = copied = self._copy_from(config, self._state.copy())
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return self._copy_from, (self.get_config(), self._state.copy())

    @classmethod
    def _copy_from(cls, config: dict[str, Any], saved: SavedState | None) -> MultiGroupOptimizer:
        optimizer = cls.from_config(config)
        optimizer._state.load_copy(saved)
        return optimizer
