"""Every private name of Keras and TensorFlow that dlr_tf uses.

Each stands behind a function that says why it is needed. `tests/core/test_keras.py` fails when
Keras or TensorFlow changes one of them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from dlr_tf._versions import unknown_version_error

try:
    from keras.src import backend
    from keras.src.backend.common import global_state
    from keras.src.models.functional import Functional
    from keras.src.random import seed_generator
    from keras.src.utils.naming import to_snake_case
    from tensorflow.python.eager import context as eager_context
    from tensorflow.python.ops import control_flow_util, stateful_random_ops
except ImportError as error:
    raise unknown_version_error(keras.__version__, error) from error

# The type by which `tf.is_tensor` knows Keras' variables; no public name has it.
TensorType: Any = tf.__internal__.types.Tensor

# --- Variables -----------------------------------------------------------------------------------


def variable_key(variable: Any) -> Hashable:
    """Return the identity of a variable, the same for its copies on the devices of a strategy.

    It is what Keras' optimizers use. An optimizer has a private method for it, and the groups need
    it before there is an optimizer.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if hasattr(value, "_distributed_container"):
        value = value._distributed_container()
    elif (
        isinstance(value, tf.__internal__.CompositeTensor)
        and hasattr(value, "handle")
        and hasattr(value.handle, "_distributed_container")
    ):
        value = value.handle._distributed_container()
    return value._unique_id


def is_initialized(variable: Any) -> bool:
    """Whether a variable has a value: one that a traced function creates gets it after the trace.

    `tf.compat.v1.is_variable_initialized` is the public way, and gives a tensor of the graph.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.values[0]
    with tf.init_scope():
        return bool(tf.raw_ops.VarIsInitializedOp(resource=value.handle))


def eager_read_fn(variable: keras.Variable) -> Callable[[], tf.Tensor]:
    """Return a function that reads a variable eagerly, several times faster than `.value`.

    `ReadVariableOp` needs the handle of the variable, for a mirrored one that of its first copy.
    """
    value = variable.value
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.values[0]
    return functools.partial(tf.raw_ops.ReadVariableOp, resource=value.handle, dtype=value.dtype)


# --- Optimizers: what Keras keeps ----------------------------------------------------------------
# Keras builds an optimizer once: `build` does nothing the second time. It keeps its slots in lists
# parallel to `_trainable_variables`, and there is no public way to ask which variable a slot
# belongs to.


def weight_decay_exclusions(
    optimizer: keras.optimizers.Optimizer,
) -> tuple[str | None, frozenset[Hashable]]:
    """Return what `exclude_from_weight_decay` was called with: a pattern and variable keys."""
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    excluded = getattr(optimizer, "_exclude_from_weight_decay", ())
    return None if pattern is None else pattern.pattern, frozenset(excluded)


def set_weight_decay_exclusions(
    optimizer: keras.optimizers.Optimizer, pattern: str | None, keys: Iterable[Hashable]
) -> None:
    """Set what `weight_decay_exclusions` returns; the public method takes variables alone."""
    optimizer._exclude_from_weight_decay = set(keys)
    optimizer._exclude_from_weight_decay_pattern = None if pattern is None else re.compile(pattern)
    optimizer._exclude_from_weight_decay_cache = {}


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the rate an optimizer was made with: a float, a schedule, or a callable.

    The public `learning_rate` gives the value of a schedule, never the schedule.
    """
    rate = optimizer._learning_rate
    return float(rate.numpy()) if isinstance(rate, keras.Variable) else rate


def set_learning_rate(optimizer: keras.optimizers.Optimizer, rate: Callable[[], Any]) -> None:
    """Give an optimizer a function as its rate; the public setter takes no function."""
    optimizer._learning_rate = rate


def current_rate_object(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the object from which an optimizer reads its rate, a view after `set_views`."""
    return optimizer._learning_rate


def set_views(optimizer: keras.optimizers.Optimizer, *, rate: Any, steps: Any) -> None:
    """Make an optimizer take its rate and its step count from other objects.

    `iterations` has no public setter, and that of `learning_rate` writes to the variable that is
    there.
    """
    for attribute, view in (("_iterations", steps), ("_learning_rate", rate)):
        variable = getattr(optimizer, attribute)
        if isinstance(variable, keras.Variable):
            optimizer._untrack_variable(variable)
        setattr(optimizer, attribute, view)


def known_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Return the variables that an optimizer has state for, in the order of its slots."""
    return list(optimizer._trainable_variables)


def variable_index(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Return the position of a variable's slots."""
    return optimizer._trainable_variables_indices[variable_key(variable)]


def knows(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether an optimizer has state for a variable."""
    return variable_key(variable) in optimizer._trainable_variables_indices


def register_variable(optimizer: keras.optimizers.Optimizer, variable: Any) -> None:
    """Add a variable to those that an optimizer knows, without slots."""
    optimizer._trainable_variables_indices[variable_key(variable)] = len(
        optimizer._trainable_variables
    )
    optimizer._trainable_variables.append(variable)


def add_variables(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """Create state for more variables. Existing state does not change.

    Args:
        optimizer: Any Keras optimizer.
        variables: Variables it does not train yet.
    """
    if not optimizer.built:
        optimizer.build(list(variables))
        return
    n_known = len(optimizer._trainable_variables)
    before = dict(vars(optimizer))
    optimizer.built = False
    optimizer.build(list(variables))
    for attribute, value in list(vars(optimizer).items()):
        old = before.get(attribute)
        if value is old or attribute == "built":
            continue
        if isinstance(old, list):
            # Past `__setattr__`, which would take the model's variables for the optimizer's own.
            vars(optimizer)[attribute] = [*old, *value]
        elif isinstance(old, dict):  # after Keras 3.15: which variables decay, by key
            vars(optimizer)[attribute] = {**old, **value}
        else:
            vars(optimizer)[attribute] = old
            if isinstance(value, keras.Variable):
                optimizer._untrack_variable(value)
    for number, variable in enumerate(variables, start=n_known):
        optimizer._trainable_variables_indices[variable_key(variable)] = number


def slots_of(optimizer: keras.optimizers.Optimizer) -> dict[str, list[keras.Variable | None]]:
    """List an optimizer's slots by name, each a list in the order of `known_variables`."""
    n_trained = len(optimizer._trainable_variables)
    return {
        attribute.lstrip("_"): value
        for attribute, value in vars(optimizer).items()
        if isinstance(value, list)
        and attribute not in ("_trainable_variables", "_variables")
        and len(value) == n_trained
        and any(isinstance(item, keras.Variable) for item in value)
        and all(item is None or isinstance(item, keras.Variable) for item in value)
    }


def shared_state_of(optimizer: keras.optimizers.Optimizer) -> dict[str, keras.Variable]:
    """List an optimizer's variables that belong to no single one, such as Nadam's product."""
    return {
        attribute.lstrip("_"): value
        for attribute, value in vars(optimizer).items()
        if isinstance(value, keras.Variable)
    }


def moving_averages(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | None]:
    """Return the list of EMA averages, parallel to `known_variables`."""
    return vars(optimizer).setdefault("_model_variables_moving_average", [])


def accumulators(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the list of accumulated gradients, parallel to `known_variables`."""
    vars(optimizer).setdefault("_accumulated_gradients", [])
    return optimizer._accumulated_gradients


def is_overwritten_by_gradient(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether a variable takes its gradient as its new value, as float8 scales do."""
    return optimizer._overwrite_variable_with_gradient(variable)


def step_counter_of(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts calls of `apply`; `iterations` is divided by accumulation."""
    return optimizer._iterations


def untrack_variable(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> None:
    """Take a variable out of `optimizer.variables`."""
    optimizer._untrack_variable(variable)


# --- Optimizers: parts of Keras' update ----------------------------------------------------------


def filter_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any], variables: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Drop pairs without a gradient, and set the variables that take their gradient as value.

    Keras' `apply` does both, but its other parts do not fit groups.
    """
    pairs = optimizer._filter_empty_gradients(gradients, variables)
    gradients, variables = optimizer._overwrite_variables_directly_with_gradients(*pairs)
    return list(gradients), list(variables)


def clip_gradients(optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any]) -> list[Any]:
    """Clip gradients as the optimizer's arguments say; `apply` alone calls it."""
    return list(optimizer._clip_gradients(list(gradients)))


def all_reduce(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any], variables: Sequence[Any]
) -> list[Any]:
    """Add up gradients over the replicas of a strategy; only Keras' update calls it."""
    pairs = optimizer._all_reduce_sum_gradients(list(zip(gradients, variables)))
    return [gradient for gradient, _ in pairs]


def muon_works() -> bool:
    """Whether `keras.optimizers.Muon` can take a step.

    Up to Keras 3.12 it looks for its state under `variable.path`, which a variable of TensorFlow
    does not have. The argument came with the correction.
    """
    return "adam_weight_decay" in inspect.signature(keras.optimizers.Muon).parameters


def strategy_of(optimizer: keras.optimizers.Optimizer) -> tf.distribute.Strategy:
    """Return the strategy in whose scope an optimizer was made."""
    return optimizer._distribution_strategy


def overrides(optimizer: keras.optimizers.Optimizer, method: str) -> bool:
    """Whether an optimizer's class has its own version of one of Keras' methods."""
    return getattr(type(optimizer), method) is not getattr(keras.optimizers.Optimizer, method)


def apply_weight_decay(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """Decay variables at the optimizer's rate, if it has weight decay; only `apply` calls this."""
    if optimizer.weight_decay is not None or overrides(optimizer, "_apply_weight_decay"):
        optimizer._apply_weight_decay(list(variables))


def uses_weight_decay(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether weight decay acts on a variable, and the variable is not excluded.

    After Keras 3.15, `_use_weight_decay` answers only once the optimizer is built, and the rule
    itself has another name.
    """
    if hasattr(optimizer, "_is_excluded_from_weight_decay"):
        return not optimizer._is_excluded_from_weight_decay(variable)
    return optimizer._use_weight_decay(variable)


def update_shared_state(optimizer: keras.optimizers.Optimizer, rate: Any) -> None:
    """Update the state that an optimizer keeps once, not per variable, such as Nadam's product.

    Keras has no method for it: such optimizers override the one that updates all variables.
    """
    if overrides(optimizer, "_backend_update_step") and not isinstance(optimizer, FusedAdamBase):
        optimizer._backend_update_step([], [], rate)


def maybe_merge_call(function: Callable[..., Any], strategy: Any, *args: Any) -> Any:
    """Call a function in cross-replica context where the strategy needs it; TensorFlow-internal."""
    return tf.__internal__.distribute.interim.maybe_merge_call(function, strategy, *args)


def needs_merge_call() -> bool:
    """Whether the strategy in use updates variables only in cross-replica context."""
    return not tf.__internal__.distribute.strategy_supports_no_merge_call()


def under_xla() -> bool:
    """Whether XLA will compile the function that is traced now; TensorFlow has no public name."""
    return not tf.executing_eagerly() and bool(
        control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    )


class CheckpointableOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer that defines the names under which TensorFlow stores its parts.

    By default TensorFlow stores every list that Keras keeps, by position, the model's weights
    among them. The names come from two private methods of TensorFlow's `Trackable`; both are
    called while the base class is initialised.
    """

    def checkpoint_children(self, save_type: str) -> dict[str, Any]:
        """Return the parts to store, by name.

        Args:
            save_type: `"checkpoint"` or `"savedmodel"`.
        """
        raise NotImplementedError

    def checkpoint_child(self, name: str) -> Any:
        """Return the part that a stored name belongs to, `None` if there is none."""
        raise NotImplementedError

    def restore_deferred(self, name: str, child: Any) -> None:
        """Restore a new part from a checkpoint that was read before the part existed."""
        self._handle_deferred_dependencies(name, child)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        return self.checkpoint_children(save_type)

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        # `cached_dependencies` is not used: it may lack a part that is created now.
        return self.checkpoint_child(name)


# Up to Keras 3.14, `SwapEMAWeights` pairs the averages with `model.trainable_variables`, which has
# another order or length than they have once a layer is frozen or unfrozen. From 3.15 on it pairs
# them with the variables that the optimizer knows.
_SWAPS_BY_MODEL = not hasattr(keras.callbacks.SwapEMAWeights, "_apply_to_ema_optimizers")


class AveragingOptimizer(CheckpointableOptimizer):
    """A Keras optimizer whose averages `SwapEMAWeights` swaps with the right weights.

    The callback reads the averages under a private name.
    """

    def variables_to_swap(self) -> Sequence[Any]:
        """Return the trainable variables of the model, in the model's order."""
        raise NotImplementedError

    @property
    def _model_variables_moving_average(self) -> list[Any]:
        if "_model_variables_moving_average" not in vars(self):
            raise AttributeError("there are no averages: `use_ema` is off")
        averages = moving_averages(self)
        if not _SWAPS_BY_MODEL:
            return averages
        known = {variable_key(v): a for v, a in zip(known_variables(self), averages)}
        swapped = []
        for variable in self.variables_to_swap():
            average = known.get(variable_key(variable))
            # A variable without an average is swapped with a copy of itself.
            swapped.append(
                keras.Variable(variable, trainable=False) if average is None else average
            )
        return swapped

    @_model_variables_moving_average.setter
    def _model_variables_moving_average(self, averages: list[Any]) -> None:
        self.__dict__["_model_variables_moving_average"] = averages


class FusedAdamBase(keras.optimizers.Adam):
    """Keras' Adam with two private steps of its update, and its slots, under public names.

    `tests/core/test_keras.py` checks that Keras still calls the steps, and passes the rate
    unchanged.
    """

    def slots_for(self, variable: Any) -> tuple[Any, Any, Any]:
        """Return the moments of a variable, and the largest second moment with AMSGrad."""
        index = variable_index(self, variable)
        largest = self._velocity_hats[index] if self.amsgrad else None
        return self._momentums[index], self._velocities[index], largest

    def update_all(self, gradients: Sequence[Any], variables: Sequence[Any], rate: Any) -> None:
        """Update all variables of a step."""
        super()._backend_update_step(gradients, variables, rate)

    def decay_weights(self, variables: Sequence[Any]) -> None:
        """Apply weight decay to the variables of a step."""
        super()._apply_weight_decay(variables)

    @tf.autograph.experimental.do_not_convert
    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        self.update_all(grads, trainable_variables, learning_rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        self.decay_weights(variables)


# --- Files ---------------------------------------------------------------------------------------


def related_stores(store: Any, child: str) -> list[Any]:
    """Return what a file holds under the parent and under a child of an object's own path.

    `load_own_variables` is given the object's own part of the file alone. Whether an optimizer was
    saved inside another one decides where its state is.

    Args:
        store: What `load_own_variables` is given: Keras' HDF5 store; for others nothing is found.
        child: Name of the attribute that holds an inner object.

    Returns:
        The contents found, as mappings from names to data sets.
    """
    file, path = getattr(store, "h5_file", None), getattr(store, "_h5_entry_path", None)
    if file is None or path is None:
        return []
    paths = [f"{path}/{child}"]
    if path.endswith(f"/{child}"):
        paths.append(path[: -len(f"/{child}")])
    return [file[near]["vars"] for near in paths if near in file and "vars" in file[near]]


# --- Models and layers ---------------------------------------------------------------------------


def saves_layer_names(model: keras.layers.Layer) -> bool:
    """Whether the names of a model's layers are the same after `load_model`.

    Sequential and Functional models save them. In any other model or layer, the user's code creates
    the layers again, and automatic names change. Keras has no public name for the Functional class.
    """
    return type(model) in (keras.Sequential, Functional)


def is_graph_model(model: keras.layers.Layer) -> bool:
    """Whether a model is Sequential or Functional, or a subclass of one of them."""
    return isinstance(model, (keras.Sequential, Functional))


def direct_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds directly, those kept as attributes beside a graph too.

    `model.layers` lacks the latter in Functional models.
    """
    return list(model._flatten_layers(include_self=False, recursive=False))


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """All layers inside a layer, those inside composite layers too, parents before children.

    No public attribute lists the layers inside a composite layer, such as `Bidirectional`.
    """
    return list(model._flatten_layers(include_self=False, recursive=True))


# Attributes in which Keras and TensorFlow list what they track, layers among them.
_RECORDS = ("_layers", "_self_unconditional_", "_self_name_based_", "_self_tracked_")


def layer_attributes(model: keras.layers.Layer) -> dict[str, Any]:
    """The attributes in which a user keeps layers, without the records of Keras and TensorFlow.

    In a model with a graph, Keras' records are private attributes that cannot be told from a
    user's. So a private one counts only if a property of the class shows it, as `backbone` of a
    task of KerasHub shows `_backbone`; its name is the property's.
    """
    if not is_graph_model(model):
        return {k: v for k, v in vars(model).items() if not k.startswith(_RECORDS)}
    found = {}
    for name, value in vars(model).items():
        shown = name.lstrip("_")
        if shown == name:
            found[name] = value
        elif (
            isinstance(value, keras.layers.Layer)
            and isinstance(getattr(type(model), shown, None), property)
            and getattr(model, shown) is value
        ):
            found[shown] = value
    return found


def is_named_by_keras(layer: keras.layers.Layer) -> bool:
    """Whether a layer has an automatic name, such as `dense_3`."""
    stem = to_snake_case(type(layer).__name__)
    return re.fullmatch(rf"{re.escape(stem)}(_\d+)?", layer.name) is not None


def flagged_variables(layer: keras.layers.Layer) -> list[Any]:
    """The variables whose flag `trainable` changes when `layer.trainable` is set.

    These are the layer's own, not those of layers inside it. `trainable_variables` lists only the
    ones whose flag is on now.
    """
    return list(layer._trainable_variables)


def lora_base_variables(layer: keras.layers.Layer) -> list[Any]:
    """The variables that `layer.enable_lora` froze; empty where LoRA is off.

    Keras has no list of them. They are the weights of the layer itself, except LoRA's own and the
    bias.
    """
    if not getattr(layer, "lora_enabled", False):
        return []
    others = [*lora_variables(layer), getattr(layer, "bias", None)]
    return [v for v in flagged_variables(layer) if not any(v is other for other in others)]


def lora_variables(layer: keras.layers.Layer) -> list[Any]:
    """The variables that `layer.enable_lora` made; empty where LoRA is off."""
    names = ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b")
    found = [getattr(layer, name, None) for name in names]
    return [variable for variable in found if variable is not None]


def tensor_source(tensor: Any) -> tuple[Any, list[Any]]:
    """Return the operation that gives a symbolic tensor, and the tensors it was called on.

    `layer.input` is public, but fails for a layer that is called several times.
    """
    operation, node, _ = tensor._keras_history
    return operation, list(operation._inbound_nodes[node].input_tensors)


def output_index(tensor: Any) -> int:
    """Return which of the outputs of its operation a symbolic tensor is.

    No public attribute tells the outputs of a nested model apart.
    """
    return tensor._keras_history.tensor_index


def first_inputs(layer: keras.layers.Layer) -> list[Any]:
    """Return the symbolic tensors that a layer was first called on; empty without a graph."""
    nodes = layer._inbound_nodes
    return list(nodes[0].input_tensors) if nodes else []


# --- `fit` ---------------------------------------------------------------------------------------

# What `fit` writes on a model beside its variables.
TRAINER_ATTRIBUTES = (
    "optimizer",
    "train_function",
    "steps_per_execution",
    "stop_training",
    "history",
    "_eval_epoch_iterator",
)


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Build the metrics and the loss of a compiled model without running a step.

    Args:
        model: A compiled model.
        batch: Nested `keras.KerasTensor`s: what a batch looks like.
    """
    model._symbolic_build(data_batch=batch)


def build_metrics_of_output(model: keras.Model, labels: Any) -> None:
    """Build the metrics of a compiled model from its output, which is known without a step.

    Keras builds them while it traces the first step. That makes variables, so TensorFlow traces the
    step a second time. Nothing is done for a model with a training step, a loss or metrics of its
    own making, and for one with several outputs.

    Args:
        model: A compiled model.
        labels: Something with the shape and the dtype of a batch of labels.
    """
    metrics: Any = model._compile_metrics
    outputs: Any = getattr(model, "outputs", None) or ()
    own = ("train_step", "compute_loss", "compute_metrics")
    is_plain = all(getattr(type(model), name) is getattr(keras.Model, name) for name in own)
    if metrics is None or metrics.built or len(outputs) != 1 or not is_plain:
        return
    dtype = tf.as_dtype(labels.dtype).name
    with model.distribute_strategy.scope():
        metrics.build(keras.KerasTensor(labels.shape, dtype), outputs[0])


@contextlib.contextmanager
def skip_symbolic_build(model: keras.Model) -> Iterator[None]:
    """In this block, `fit` does not build the model and its metrics from the first batch.

    Keras reduces that batch over the devices first, which fails under
    `MultiWorkerMirroredStrategy`, and under `MirroredStrategy` where the batch does not divide
    evenly.
    """
    with attribute_set(model, "_maybe_symbolic_build", lambda *args, **kwargs: None):
        yield


@contextlib.contextmanager
def attribute_set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an object during a block, without Keras' tracking."""
    missing = object()
    before = vars(owner).get(name, missing)
    vars(owner)[name] = value
    try:
        yield
    finally:
        if before is missing:
            vars(owner).pop(name, None)
        else:
            vars(owner)[name] = before


# --- Random generators ---------------------------------------------------------------------------


# Before Keras 3.13 the name had no constant.
_GLOBAL_SEED_GENERATOR = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")


def keras_generator() -> Any:
    """Keras' global seed generator, `None` before its first use."""
    return global_state.get_global_attribute(_GLOBAL_SEED_GENERATOR)


def set_keras_generator(generator: Any) -> None:
    global_state.set_global_attribute(_GLOBAL_SEED_GENERATOR, generator)


def tensorflow_generator() -> Any:
    """TensorFlow's global generator, `None` before its first use; the public getter creates one."""
    return stateful_random_ops.global_generator


def set_tensorflow_generator(generator: Any) -> None:
    stateful_random_ops.global_generator = generator


def operation_seeds() -> random.Random | None:
    """The generator of the seeds of eager random operations; `None` without a global seed."""
    return getattr(eager_context.context(), "_rng", None)


def set_operation_seeds(generator: random.Random) -> None:
    eager_context.context()._rng = generator


# --- Training ------------------------------------------------------------------------------------


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What `compile` was called with, as the objects themselves; empty before.

    The public `get_compile_config` serialises them, which a loss function of the user's own does
    not survive, and `model.metrics` holds no more than what Keras made of the argument.
    """
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if model.compiled and config is not None else {}


def adds_losses(model: keras.Model, inputs: Any) -> bool:
    """Whether a call of a model calls `add_loss`, beside regularizers.

    Only a call tells: the public `losses` lists those of the last call, and of all regularizers.

    Args:
        model: A built model.
        inputs: Something with the shapes and dtypes of its inputs.
    """

    found: list[Any] = []

    def symbol(array: Any) -> keras.KerasTensor:
        return keras.KerasTensor(array.shape, tf.as_dtype(array.dtype).name)

    def call(symbols: Any) -> Any:
        with keras.StatelessScope(collect_losses=True):
            outputs = model(symbols, **({"training": True} if model._call_has_training_arg else {}))
            for layer in (model, *all_layers(model)):
                if layer.activity_regularizer is None:
                    found.extend(layer._get_own_losses())
        return outputs

    # Inputs that only the model's own `fit` can prepare, such as strings, are no inputs of a call.
    with contextlib.suppress(Exception):
        backend.compute_output_spec(call, keras.tree.map_structure(symbol, inputs))
    return bool(found)


def compile_token(model: keras.Model) -> Any:
    """An object that each `compile` of a model makes anew; `None` before the first."""
    return getattr(model, "_compile_config", None)


def flags_at_compile(model: keras.Model) -> list[bool] | None:
    """The flags `trainable` of a model's layers when it was compiled.

    `None` before the first `compile`, and in Keras 3.14 and below, which does not record them.
    """
    flags = getattr(model, "_compiled_trainable_state", None)
    return None if flags is None else list(flags.values())


# --- Graphs --------------------------------------------------------------------------------------


def is_from_first_call(tensor: Any) -> bool:
    """Whether a symbolic tensor comes from the first call of its operation.

    A layer that is called several times has one node per call; no public attribute tells which of
    them gave a tensor.
    """
    return tensor._keras_history.node_index == 0


def calls_only_its_graph(model: keras.Model) -> bool:
    """Whether a model with a graph calls the layers of its graph and no others.

    A subclass may call further layers in a `call` of its own. Keras has no public name for the
    Functional class.
    """
    return type(model).call in (Functional.call, keras.Sequential.call)
