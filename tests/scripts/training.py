"""What the scripts that train on several devices share: models, data, and a custom loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core.groups import LayerGroup, split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.pattern_groups import split_by_pattern

WIDTH, BATCH, STEPS = 4, 4, 6
RATES = (1e-3, 3e-3, 1e-2)


def stack(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(WIDTH, "tanh", name=f"layer_{n}") for n in range(3)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def with_norm(seed: int = 0) -> keras.Model:
    """Batch normalization that is frozen: half a batch has other statistics."""
    first, *others = stack(seed).layers
    norm = keras.layers.BatchNormalization(name="norm", trainable=False)
    return keras.Sequential([keras.Input((WIDTH,)), first, norm, *others])


def words(seed: int = 0) -> keras.Model:
    """An embedding in front: its gradient is sparse."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(7, WIDTH, name="layer_0"),
            keras.layers.GlobalAveragePooling1D(name="pool"),
            keras.layers.Dense(WIDTH, "tanh", name="layer_1"),
            keras.layers.Dense(WIDTH, name="layer_2"),
        ]
    )


def by_layer(model: keras.Model) -> Sequence[LayerGroup]:
    return split_layers(model, ["layer_1", "layer_2"])


def by_pattern(model: keras.Model) -> Sequence[LayerGroup]:
    """Groups of single variables."""
    return split_by_pattern(model, {"bias": "bias$", "body": "layer_[01]", "head": "layer_2"})


def optimizer_for(
    model: keras.Model,
    rates: Any = RATES,
    split: Callable[[keras.Model], Sequence[LayerGroup]] = by_layer,
    **arguments: Any,
) -> MultiGroupOptimizer:
    return MultiGroupOptimizer(split(model), rates, **arguments)


def data(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    n = STEPS * BATCH
    x = rng.normal(size=(n, WIDTH)).astype("float32")
    if model.inputs[0].dtype == "int32":
        x = rng.integers(0, 7, size=(n, 3)).astype("int32")
    # Large targets, so that a clipped norm is clipped, and rows that differ between the devices.
    return x, (3 * rng.normal(size=(n, WIDTH))).astype("float32")


def batches(model: keras.Model, size: int = BATCH) -> tf.data.Dataset:
    dataset = tf.data.Dataset.from_tensor_slices(data(model)).batch(size)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


class Loop:
    """A custom training loop, the same for one device and for several.

    Args:
        strategy: Where it runs; `None` for one device.
        make_model: Builds the model.
        rates: One rate or schedule per group.
        settings: Arguments of `optimizer_for`.
        seed: Seed of the model's first weights.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy | None = None,
        make_model: Callable[..., keras.Model] = stack,
        rates: Any = RATES,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.strategy = strategy or tf.distribute.get_strategy()
        with self.scope():
            self.model = make_model(seed)
            self.optimizer = optimizer_for(self.model, rates, **(settings or {}))
            # So that checkpoints and `freeze_to` find the one through the other.
            self.model.compile(self.optimizer)
        self.losses: list[float] = []
        self.retrace()

    def scope(self) -> Any:
        # The default strategy's scope is no scope; entering it would change nothing but errors.
        is_default = self.strategy is tf.distribute.get_strategy()
        return contextlib.nullcontext() if is_default else self.strategy.scope()

    def retrace(self) -> None:
        """Makes the step anew, as after freezing."""
        variables = self.model.trainable_variables

        def replica_step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                error = tf.square(self.model(x, training=True) - y)
                loss = tf.reduce_sum(error) / (BATCH * WIDTH)
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return loss

        @tf.function
        def step(x: Any, y: Any) -> Any:
            losses = self.strategy.run(replica_step, args=(x, y))
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

        self.step = step

    def distributed(self) -> Iterator[Any]:
        return iter(self.strategy.experimental_distribute_dataset(batches(self.model)))

    def epoch(self, before: Callable[[int], None] | None = None) -> Loop:
        """One pass over the data.

        Args:
            before: Called with the number of each step before it.
        """
        for number, batch in enumerate(self.distributed()):
            if before is not None:
                before(number)
            self.losses.append(float(self.step(*batch)))
        return self

    def values(self) -> dict[str, np.ndarray]:
        """Weights and optimizer state, by name."""
        values = {f"weight {n}": v.numpy() for n, v in enumerate(self.model.weights)}
        for name, variable in self.optimizer._state.variables().items():
            values[name] = keras.ops.convert_to_numpy(variable)
        values["iterations"] = self.optimizer.step_counter.numpy()
        values["steps"] = np.array([int(m.iterations) for m in self.optimizer.group_optimizers])
        values["rates"] = np.array(self.optimizer.learning_rates)
        return values


def assert_alike(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], rtol: float = 1e-5
) -> None:
    """Compares two sets of values by name; `rtol` is relative to each one's largest element."""
    if found.keys() != expected.keys():
        raise AssertionError(f"{sorted(found)} are not {sorted(expected)}")
    for name, value in expected.items():
        largest = float(np.max(np.abs(value), initial=0.0))
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=rtol * largest, err_msg=name)
