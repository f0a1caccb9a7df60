"""Models that are nothing but values, and how to train them beside plain Keras optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import known_variables, slots_of
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer

RATES = (0.003, 0.01, 0.03)
MODES = ("eager", "graph")

# Tracing Keras' own Adam takes long.
each_optimizer_one_way = pytest.mark.parametrize(
    ("template", "mode"),
    [("keras_adam", "eager"), ("fused_adam", "graph")],
    indirect=["template"],
)
each_optimizer_both_ways = pytest.mark.parametrize(
    ("template", "mode"),
    [(kind, mode) for kind in ("keras_adam", "fused_adam") for mode in MODES],
    indirect=["template"],
)

Update = Callable[[list[Any], list[Any]], Any]


@contextlib.contextmanager
def with_floatx(floatx: str) -> Iterator[None]:
    """Set Keras' floatx in this block."""
    usual = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        yield
    finally:
        keras.config.set_floatx(usual)


class Values(keras.layers.Layer):
    """A layer that is nothing but its weights."""

    def __init__(self, values: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for number, value in enumerate(values):
            value = np.asarray(value, "float32")
            constant = keras.initializers.Constant(value)
            self.add_weight(value.shape, constant, name=f"value_{number}")
        self.built = True


@keras.saving.register_keras_serializable(package="dlr_tf_tests")
class BareModel(keras.Model):
    """A model that owns some values: one layer, and one group, for each list of values."""

    def __init__(self, *parts: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = [Values(values, name=f"part_{n}") for n, values in enumerate(parts)]
        self.built = True

    def get_config(self) -> dict[str, Any]:
        parts = [[weight.numpy().tolist() for weight in part.weights] for part in self.parts]
        return {"name": self.name, "parts": parts}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> BareModel:
        return cls(*config["parts"], name=config["name"])

    def groups(self) -> list[LayerGroup]:
        return [LayerGroup(f"group_{n}", (f"parts/{n}",)) for n in range(len(self.parts))]

    def optimizer(
        self, learning_rate: Any = 1.0, template: Any = keras.optimizers.SGD, **arguments: Any
    ) -> MultiGroupOptimizer:
        template = template() if isinstance(template, type) else template
        optimizer = MultiGroupOptimizer(self.groups(), learning_rate, template, **arguments)
        optimizer.bind(self)
        return optimizer

    def step(self, optimizer: Any, *gradients: Any) -> None:
        """Make one step with one gradient per value, the same in every layer."""
        gradients = [g if g is None or tf.is_tensor(g) else tf.constant(g) for g in gradients]
        optimizer.apply_gradients(zip(gradients * len(self.parts), self.weights))

    def assert_values(self, *values: Any, rtol: float = 1e-6) -> None:
        for part in self.parts:
            for weight, value in zip(part.weights, values):
                np.testing.assert_allclose(weight.numpy(), value, rtol=rtol, atol=rtol)


class Holder(BareModel):
    """`n_groups` layers with the same values each."""

    def __init__(self, n_groups: int, *values: Any) -> None:
        super().__init__(*[values] * n_groups)


def three_parts() -> BareModel:
    """Three groups of two variables each, of every rank; always the same values."""
    rng = np.random.default_rng(7)
    shapes = (((4, 3), (3,)), ((2, 3, 2), ()), ((3, 5), (5,)))
    return BareModel(*[[rng.normal(size=shape) for shape in part] for part in shapes])


def two_weights() -> BareModel:
    """Two weights of 1, each in a group."""
    return Holder(2, [[1.0]])


def embeddings() -> BareModel:
    """A table of six rows in one group, a matrix in the other."""
    rng = np.random.default_rng(2)
    return BareModel([rng.normal(size=(6, 4))], [rng.normal(size=(4, 3))])


def lookups(scale: float = 1.0, rows: Sequence[int] = (0, 1, 1, 4, 1, 0)) -> list[Any]:
    """Gradients for `embeddings`, of whose table these rows were looked up."""
    rng = np.random.default_rng(3)
    parts = tf.constant(scale * rng.normal(size=(len(rows), 4)), tf.float32)
    table = tf.IndexedSlices(parts, tf.constant(rows), tf.constant([6, 4]))
    return [table, tf.constant(scale * rng.normal(size=(4, 3)), tf.float32)]


def values(variables: Any) -> list[np.ndarray]:
    return [np.array(v.numpy()) for v in variables]


def assert_same(left: Any, right: Any) -> None:
    """Bit for bit."""
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_weights(left: keras.Model, right: keras.Model) -> None:
    assert_same(values(left.weights), values(right.weights))


def gradients_of(model: keras.Model, x: Any, y: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
    return tape.gradient(loss, model.trainable_variables)


def train(
    model: keras.Model, update: Update, data: Any, mode: str = "eager", steps: int = 3
) -> None:
    """A custom loop: `update` gets the gradients and the trainable variables."""

    def step(x: Any, y: Any) -> None:
        update(gradients_of(model, x, y), model.trainable_variables)

    if mode == "graph":
        step = tf.function(step, autograph=False)
    x, y = (tf.constant(part) for part in data)
    for _ in range(steps):
        step(x, y)


def traced(update: Update, variables: Sequence[Any], **settings: Any) -> Callable[[Any], Any]:
    """`update` of these variables as one function of their gradients."""
    settings = {"autograph": False, **settings}
    return tf.function(lambda gradients: update(gradients, list(variables)), **settings)


def push(
    update: Update, variables: Sequence[Any], mode: str = "eager", steps: int = 5, seed: int = 0
) -> None:
    """Train on random gradients, the same for the same shapes."""
    generator = np.random.default_rng(seed)
    variables = list(variables)
    step = traced(update, variables) if mode == "graph" else lambda g: update(g, variables)
    for _ in range(steps):
        step([tf.constant(generator.normal(size=v.shape), tf.float32) for v in variables])


def apply_of(optimizer: Any) -> Update:
    return lambda gradients, variables: optimizer.apply_gradients(zip(gradients, variables))


def ones_for(variables: Any) -> list[Any]:
    return [tf.ones(v.shape) for v in variables]


def numbers_of(model: keras.Model, groups: Sequence[LayerGroup]) -> list[int]:
    """The group of each trainable variable."""
    group_of = {id(entry.variable): entry.group for entry in assign_variables(model, groups)}
    return [group_of[id(v)] for v in model.trainable_variables]


def apply_separately(optimizers: Sequence[Any], numbers: Sequence[int]) -> Update:
    """What N groups stand for: each optimizer on its own variables."""

    def update(gradients: list[Any], variables: list[Any]) -> None:
        for group, optimizer in enumerate(optimizers):
            pairs = [(g, v) for g, v, of in zip(gradients, variables, numbers) if of == group]
            if pairs:
                optimizer.apply_gradients(pairs)

    return update


def build_separately(
    optimizers: Sequence[Any], model: keras.Model, groups: Sequence[LayerGroup]
) -> Update:
    """Build those that have something to train and are not built yet, for the variables of now."""
    numbers = numbers_of(model, groups)
    for group, optimizer in enumerate(optimizers):
        variables = [v for v, of in zip(model.trainable_variables, numbers) if of == group]
        if variables and not optimizer.built:
            optimizer.build(variables)
    return apply_separately(optimizers, numbers)


def slot_values(optimizer: MultiGroupOptimizer) -> dict[tuple[str, int], np.ndarray]:
    """Every slot by its name and variable."""
    return {
        (name, id(variable)): np.array(slot.numpy())
        for inner in optimizer.group_optimizers
        if inner.built
        for name, slots in slots_of(inner).items()
        for variable, slot in zip(known_variables(inner), slots)
        if slot is not None
    }


def everything(model: keras.Model, optimizer: MultiGroupOptimizer) -> list[np.ndarray]:
    """All that a failed call must leave alone."""
    return values([*model.weights, *optimizer.variables])


def steps_of(optimizer: MultiGroupOptimizer) -> list[int]:
    return [int(inner.iterations) for inner in optimizer.group_optimizers]
