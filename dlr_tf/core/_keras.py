"""Every private name of Keras and TensorFlow that dlr_tf uses.

Each stands behind a function that says why it is needed. `tests/core/test_keras.py` fails when
Keras or TensorFlow changes one of them.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.utils.naming import to_snake_case
from tensorflow.python.eager import context as eager_context
from tensorflow.python.ops import stateful_random_ops


def copy_optimizer(template: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns an optimizer with the same settings, no state, and a rate of 0."""
    config = template.get_config()
    config["learning_rate"] = 0.0
    copied = type(template).from_config(config)
    # Keras leaves what `exclude_from_weight_decay` was told out of the configuration.
    for attribute in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(template, attribute):
            setattr(copied, attribute, getattr(template, attribute))
    return copied


def grow(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """Gives an optimizer fresh state for more variables, and leaves the state it has alone.

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
        else:
            vars(optimizer)[attribute] = old
            if isinstance(value, keras.Variable):
                optimizer._untrack_variable(value)
    for number, variable in enumerate(variables, start=n_known):
        optimizer._trainable_variables_indices[optimizer._var_key(variable)] = number


def slots_of(optimizer: keras.optimizers.Optimizer) -> dict[str, list[keras.Variable | None]]:
    """Lists an optimizer's slots by name, each a list in the order of the variables it trains."""
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
    """Lists an optimizer's variables that belong to no single one, such as Nadam's product."""
    return {
        attribute.lstrip("_"): value
        for attribute, value in vars(optimizer).items()
        if isinstance(value, keras.Variable)
    }


# --- Models and layers ---------------------------------------------------------------------------


def saves_layer_names(model: keras.Model) -> bool:
    """Whether the names of a model's layers are the same after `load_model`.

    Sequential and Functional models save them. In any other model, the user's code creates the
    layers again, and automatic names change. Keras has no public name for the Functional class.
    """
    return type(model) in (keras.Sequential, Functional)


def is_graph_model(model: keras.Model) -> bool:
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


def layer_attributes(model: keras.Model) -> dict[str, Any]:
    """The attributes in which a user keeps layers, without the records of Keras and TensorFlow."""
    records = "_" if is_graph_model(model) else ("_layers", "_self_")
    return {name: value for name, value in vars(model).items() if not name.startswith(records)}


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

    Keras has no list of them. They are all weights of the layer itself but LoRA's own and the bias.
    """
    if not getattr(layer, "lora_enabled", False):
        return []
    learned = [
        getattr(layer, name, None)
        for name in ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b")
    ]
    learned.append(getattr(layer, "bias", None))
    return [v for v in flagged_variables(layer) if not any(v is kept for kept in learned)]


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
    """Set an attribute of an object for the time of a block, past Keras' tracking."""
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


def keras_generator() -> Any:
    """Keras' global seed generator, `None` before its first use."""
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def set_keras_generator(generator: Any) -> None:
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


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


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables that an optimizer was built for; the public list mixes them with its state."""
    return list(optimizer._trainable_variables)


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What `compile` was called with, as the objects themselves; empty before.

    The public `get_compile_config` serialises them, which a loss function of the user's own does
    not survive, and `model.metrics` holds no more than what Keras made of the argument.
    """
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if model.compiled and config is not None else {}


def compile_token(model: keras.Model) -> Any:
    """An object that each `compile` of a model makes anew; `None` before the first."""
    return getattr(model, "_compile_config", None)


def flags_at_compile(model: keras.Model) -> list[bool]:
    """The flags `trainable` of a model's layers when it was compiled."""
    return list(getattr(model, "_compiled_trainable_state", {}).values())
