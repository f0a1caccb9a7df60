"""Trains on two logical devices and on one, and writes which checks hold.

    python -m tests.scripts.mirrored REPORT.json

In a process of its own, since devices can be split only before TensorFlow first uses them; with
one strategy, since TensorFlow 2.21 mixes up the collective operations of two in one process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf import distributed_fit
from dlr_tf.app.data import image_files, load
from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import split_layers
from dlr_tf.core.schedules import SGDR, OneCycle
from dlr_tf.training.fine_tuning import fine_tune
from dlr_tf.training.freezing import freeze_to
from dlr_tf.training.snapshot_ensemble import SnapshotEnsemble
from tests.core.test_keras_expectations import ONES, SGD, SQUARE, Holder
from tests.scripts.training import (
    BATCH,
    RATES,
    STEPS,
    WIDTH,
    Loop,
    assert_alike,
    batches,
    by_pattern,
    data,
    optimizer_for,
    stack,
    with_norm,
    words,
)

CHECKS: dict[str, Callable[[tf.distribute.Strategy], None]] = {}

# Several at once, since each loop is traced anew. Checks with Keras' numbers take them one by one.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "together": {
        "global_clipnorm": 0.5,
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "ema_momentum": 0.8,
        "ema_overwrite_frequency": 2,
    },
}


def check(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(function: Callable[..., None]) -> Callable[..., None]:
        CHECKS[name] = function
        return function

    return register


def for_each(names: Any, label: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a check once for each of some arguments."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        for name in names:
            CHECKS[f"{label}: {name}"] = lambda strategy, name=name: function(strategy, name)
        return function

    return register


def compare(loop: Loop, twin: Loop) -> None:
    np.testing.assert_allclose(loop.losses, twin.losses, rtol=1e-5)
    assert_alike(loop.values(), twin.values())


@for_each(SETTINGS, "custom loop")
def custom_loop(strategy: tf.distribute.Strategy, name: str) -> None:
    settings = SETTINGS[name]
    compare(Loop(strategy, settings=settings).epoch(), Loop(settings=settings).epoch())


@check("custom loop: Keras' Adam with weight decay")
def custom_loop_with_keras_adam(strategy: tf.distribute.Strategy) -> None:
    loops = []
    for place in (strategy, None):
        with place.scope() if place else tf.distribute.get_strategy().scope():
            settings = {"optimizer": keras.optimizers.AdamW(weight_decay=0.1)}
        loops.append(Loop(place, settings=settings).epoch())
    compare(*loops)


@check("custom loop: groups by pattern, decays, schedules of rates, decay and momentum")
def custom_loop_with_schedules(strategy: tf.distribute.Strategy) -> None:
    rates = [SGDR(rate, 3, t_mul=1.0) for rate in RATES]
    settings = {
        "clipnorm": 0.2,
        "loss_scale_factor": 8.0,
        "split": by_pattern,
        "optimizer": FusedAdam(beta_1=OneCycle(1.0, 2 * STEPS).momentum()),
        "weight_decay": [0.0, SGDR(10.0, 3), 20.0],
        "decay_to_start": [10.0, 20.0, 0.0],
    }
    loops = [Loop(place, rates=rates, settings=settings).epoch() for place in (strategy, None)]
    compare(*loops)


@check("custom loop: an embedding")
def custom_loop_with_sparse_gradients(strategy: tf.distribute.Strategy) -> None:
    settings = SETTINGS["together"]
    compare(
        Loop(strategy, words, settings=settings).epoch(),
        Loop(None, words, settings=settings).epoch(),
    )


@check("custom loop: unfrozen in the middle of training")
def custom_loop_unfrozen(strategy: tf.distribute.Strategy) -> None:
    """By `freeze_to`, which builds in the scope, and by the step itself, in a replica."""
    loops = []
    for place, by_step in ((strategy, False), (strategy, True), (None, True)):
        loop = Loop(place, settings=SETTINGS["together"])
        groups = loop.optimizer.groups
        freeze_to(loop.model, groups, 2)
        loop.retrace()
        loop.epoch()
        if by_step:
            for layer in loop.model.layers:
                layer.trainable = True
        else:
            freeze_to(loop.model, groups, 0)
        loop.retrace()
        loops.append(loop.epoch())
    for loop in loops[:2]:
        compare(loop, loops[2])


@check("custom loop: the loss scale skips an infinite step on both devices")
def custom_loop_under_the_loss_scale(strategy: tf.distribute.Strategy) -> None:
    with strategy.scope():
        model = stack()
        inner = optimizer_for(model)
        outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0)
        outer.build(model.trainable_variables)
    before = model.get_weights()

    @tf.function
    def step(bad: Any) -> None:
        def replica_step(bad: Any) -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            value = tf.where(tf.equal(replica, 1), bad, 1.0)
            gradients = [tf.fill(v.shape, value) for v in model.trainable_variables]
            outer.apply(gradients, model.trainable_variables)

        strategy.run(replica_step, args=(bad,))

    step(tf.constant(np.inf))
    # Keras looks at one device's gradients; what is left after the reduction decides for ours.
    moved = [not np.array_equal(a, b) for a, b in zip(model.get_weights(), before)]
    assert len(set(moved)) == 1, moved
    step(tf.constant(1.0))
    assert all(not np.array_equal(a, b) for a, b in zip(model.get_weights(), before))


class Losses(keras.callbacks.Callback):
    """The loss of every batch, from the running mean that `fit` logs."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])


class FreezeTo(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        freeze_to(self.model, unwrap(self.model.optimizer).groups, (2, 0, 1)[epoch])


def fitted(place: tf.distribute.Strategy | None, *callbacks: Any, **settings: Any) -> Any:
    epochs, compiled = settings.pop("epochs", 1), settings.pop("compiled", {})
    make_model = settings.pop("make_model", stack)
    with place.scope() if place else tf.distribute.get_strategy().scope():
        model = make_model()
        # XLA does not take Keras' own Adam under a strategy on CPUs either.
        model.compile(optimizer_for(model, **settings), "mse", jit_compile=False, **compiled)
    losses = Losses()
    x, y = data(model)
    options = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=[losses, *callbacks], **options)
    return losses.losses, {f"weight {n}": v for n, v in enumerate(model.get_weights())}, model


def compare_fits(strategy: tf.distribute.Strategy, *callbacks: Any, **settings: Any) -> Any:
    losses, weights, model = fitted(strategy, *callbacks, **settings)
    known_losses, known_weights, twin = fitted(None, *callbacks, **settings)
    np.testing.assert_allclose(losses, known_losses, rtol=1e-5)
    assert_alike(weights, known_weights)
    return model, twin


@for_each(SETTINGS, "fit")
def fit(strategy: tf.distribute.Strategy, name: str) -> None:
    model, twin = compare_fits(strategy, **SETTINGS[name])
    steps = [int(keras.ops.convert_to_numpy(m.optimizer.iterations)) for m in (model, twin)]
    assert steps[0] == steps[1] > 0, steps
    np.testing.assert_array_equal(
        model.optimizer.last_learning_rates, twin.optimizer.last_learning_rates
    )


@check("fit: averaged weights, with new statistics of batch normalization")
def fit_with_averaged_weights(strategy: tf.distribute.Strategy) -> None:
    averaged = []
    for place in (strategy, None):
        with tempfile.TemporaryDirectory() as folder:
            ensemble = SnapshotEnsemble(SGDR(1.0, 3, t_mul=1.0), folder)
            rates = [SGDR(rate, 3, t_mul=1.0) for rate in RATES]
            _, _, model = fitted(place, ensemble, make_model=with_norm, rates=rates)
            model.get_layer("norm").trainable = True
            means = ensemble.averaged_model(data(model)[0], batch_size=BATCH).get_weights()
        averaged.append({f"weight {n}": weight for n, weight in enumerate(means)})
    assert_alike(*averaged)


@check("fit: a batch that does not divide by the devices")
def fit_on_uneven_batches(strategy: tf.distribute.Strategy) -> None:
    """Plain Keras cannot begin with one, and gives all devices the same weight."""
    results = []
    for place in (strategy, None):
        with place.scope() if place else tf.distribute.get_strategy().scope():
            model = stack()
            model.compile(optimizer_for(model, optimizer="sgd"), "mse", jit_compile=False)
        x, y = data(model)
        fit = {"batch_size": BATCH - 1, "verbose": 0}
        with distributed_fit(model, (x, y)):
            losses = model.fit(x, y, shuffle=False, epochs=2, **fit).history["loss"]
            losses.append(model.evaluate(x, y, **fit))
        assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 16
        own = {"_maybe_symbolic_build", "make_train_function", "train_step"}
        assert not own & vars(model).keys()
        assert "scale_loss" not in vars(model.optimizer)
        weights = {f"weight {n}": value for n, value in enumerate(model.get_weights())}
        results.append({**weights, "losses": np.array(losses)})
    assert_alike(*results)


@check("fit: fine_tune, then the user's own compile and fit")
def own_fit_after_fine_tuning(strategy: tf.distribute.Strategy) -> None:
    """With metrics, which Keras builds inside a replica, and fails, where nothing built them."""
    losses = []
    for place in (strategy, None):
        with place.scope() if place else tf.distribute.get_strategy().scope():
            model = stack()
        groups = split_layers(model, ["layer_1", "layer_2"])
        train = {"loss": "mse", "metrics": ["mae"], "verbose": 0}
        fine_tune(model, groups, batches(model), learning_rate=RATES, epochs=2, **train)
        assert not {"_maybe_symbolic_build", "make_train_function"} & vars(model).keys()
        x, y = data(model)
        with place.scope() if place else tf.distribute.get_strategy().scope():
            model.compile(keras.optimizers.SGD(1e-3), "mse", metrics=["mae"], jit_compile=False)
        history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history
        losses.append((history["loss"][-1], history["mae"][-1]))
    np.testing.assert_allclose(*losses, rtol=1e-5)


@check("fit: two steps a call, as Keras' Adam does")
def fit_with_several_steps_a_call(strategy: tf.distribute.Strategy) -> None:
    """TensorFlow 2.21 fails to run them on two CPUs, whatever the optimizer."""
    works = []
    for make_optimizer in (lambda model: keras.optimizers.Adam(), optimizer_for):
        with strategy.scope():
            model = stack()
            optimizer = make_optimizer(model)
            model.compile(optimizer, "mse", jit_compile=False, steps_per_execution=2)
        try:
            model.fit(*data(model), batch_size=BATCH, shuffle=False, verbose=0)
            works.append(True)
        except tf.errors.InvalidArgumentError as error:
            assert "You must feed a value for placeholder" in str(error), error
            works.append(False)
    assert works[0] == works[1], works


@check("fit: frozen and unfrozen by epochs, with averages swapped in")
def fit_frozen_and_unfrozen(strategy: tf.distribute.Strategy) -> None:
    model, _ = compare_fits(
        strategy, FreezeTo(), keras.callbacks.SwapEMAWeights(), epochs=3, use_ema=True
    )
    steps = [int(member.iterations) for member in model.optimizer.group_optimizers]
    assert steps == [STEPS, 2 * STEPS, 3 * STEPS], steps


@check("images from files, decoded while the training goes on")
def images_from_files(strategy: tf.distribute.Strategy) -> None:
    """The devices together see the batches that one device sees."""
    with tempfile.TemporaryDirectory() as folder:
        for value, name in enumerate("ab"):
            Path(folder, name).mkdir()
            for number in range(7):
                image = np.full((5, 6, 3), 100 * value + number, np.uint8)
                content = tf.io.encode_png(image).numpy()
                Path(folder, name, f"{number}.png").write_bytes(content)
        image_files.KEPT_BYTES = 0
        images = load(folder, image_size=4, batch_size=4, augmentations=["colour", "crop"])
        known = list(images.train_from(1).take(4))
        spread = strategy.experimental_distribute_dataset(images.train_from(1).take(4))
        for batch, known_batch in zip(spread, known, strict=True):
            for values, known_values in zip(batch, known_batch, strict=True):
                parts = strategy.experimental_local_results(values)
                np.testing.assert_array_equal(np.concatenate(parts), known_values)


@check("fit: mixed_float16")
def fit_in_half_precision(strategy: tf.distribute.Strategy) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        losses, weights, model = fitted(strategy)
        known_losses, known_weights, _ = fitted(None)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    # The devices round their halves of a batch in half precision.
    np.testing.assert_allclose(losses, known_losses, rtol=1e-2)
    assert_alike(weights, known_weights, rtol=1e-1)


def store_file(loop: Loop, folder: Path) -> Callable[[Loop], None]:
    loop.model.save_weights(folder / "model.weights.h5")

    def restore(other: Loop) -> None:
        with other.scope():
            other.optimizer.build(other.model.trainable_variables)
            other.model.load_weights(folder / "model.weights.h5")

    return restore


def store_checkpoint(loop: Loop, folder: Path) -> Callable[[Loop], None]:
    checkpoint = tf.train.Checkpoint(model=loop.model, optimizer=loop.optimizer)
    path = checkpoint.save(str(folder / "checkpoint"))

    def restore(other: Loop) -> None:
        checkpoint = tf.train.Checkpoint(model=other.model, optimizer=other.optimizer)
        checkpoint.restore(path).assert_consumed()

    return restore


STORES = {"weights.h5": store_file, "tf.train.Checkpoint": store_checkpoint}


@for_each(STORES, "from one device to two and back")
def interchange(strategy: tf.distribute.Strategy, name: str) -> None:
    settings = {**SETTINGS["together"], "gradient_accumulation_steps": 4}  # within an accumulation
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        one = Loop(settings=settings).epoch()
        two = Loop(strategy, settings=settings, seed=1)
        STORES[name](one, folder)(two)
        assert_alike(two.values(), one.values(), rtol=0.0)
        one.epoch()
        two.epoch()
        np.testing.assert_allclose(two.losses, one.losses[STEPS:], rtol=1e-5)
        back = Loop(settings=settings, seed=2)
        STORES[name](two, folder)(back)
        assert_alike(back.values(), two.values(), rtol=0.0)
        two.epoch()
        back.epoch()
        compare_last = np.testing.assert_allclose
        compare_last(back.losses, two.losses[STEPS:], rtol=1e-5)


@check("from one device to two: .keras")
def interchange_archive(strategy: tf.distribute.Strategy) -> None:
    with tempfile.TemporaryDirectory() as text:
        path = Path(text) / "model.keras"
        one = Loop().epoch()
        one.model.save(path)
        with strategy.scope():
            model = keras.models.load_model(path)
        found = {f"weight {n}": v for n, v in enumerate(model.get_weights())}
        assert_alike(found, {f"weight {n}": v for n, v in enumerate(one.model.get_weights())}, 0.0)
        assert model.optimizer.iterations.numpy() == STEPS
        model.compile(model.optimizer, "mse", jit_compile=False)
        model.fit(*data(model), batch_size=BATCH, shuffle=False, verbose=0)
        one.epoch()
        found = {f"weight {n}": v for n, v in enumerate(model.get_weights())}
        assert_alike(found, {f"weight {n}": v for n, v in enumerate(one.model.get_weights())})


def on_both(strategy: tf.distribute.Strategy, n: int, *values: Any, **arguments: Any) -> Any:
    """A holder of values, its optimizer, and a function that steps with the same gradients."""
    rate, template = arguments.pop("rate", 1.0), arguments.pop("template", SGD)
    with strategy.scope():
        model = Holder(n, *values)
        optimizer = model.optimizer(rate, template(), **arguments)

    def step(*gradients: Any) -> None:
        strategy.run(lambda: model.step(optimizer, *(tf.constant(g) for g in gradients)))

    return model, optimizer, step


@for_each((1, 3), "Keras: one step sums over devices, groups")
def one_step(strategy: tf.distribute.Strategy, n: int) -> None:
    model, _, step = on_both(
        strategy, n, [1.0, 2.0, 3.0, 4.0], rate=0.5, template=lambda: SGD(momentum=0.06)
    )
    step([1.0, 6.0, 7.0, 2.0])
    model.assert_values([0.0, -4.0, -4.0, 2.0])


@for_each((1, 3), "Keras: weight decay and its exclusions, groups")
def weight_decay(strategy: tf.distribute.Strategy, n: int) -> None:
    def decaying(**excluded: Any) -> Callable[[], Any]:
        def make() -> Any:
            optimizer = SGD(weight_decay=0.004)
            if excluded:
                optimizer.exclude_from_weight_decay(**excluded)
            return optimizer

        return make

    for template, second in ((decaying(), 2.988), (decaying(var_names=["value_1"]), 3.0)):
        model, _, step = on_both(strategy, n, 2.0, 3.0, template=template)
        step(0.0, 0.0)
        # Keras' own number, 1.9760959, is this after three steps.
        model.assert_values(2.0 * (1 - 0.004), second)
        step(0.0, 0.0)
        step(0.0, 0.0)
        np.testing.assert_allclose(model.parts[0].weights[0].numpy(), 1.9760959, rtol=1e-6)


@for_each((1, 3), "Keras: ten numbers by Nesterov's rule, groups")
def nesterov(strategy: tf.distribute.Strategy, n: int) -> None:
    model, _, step = on_both(
        strategy, n, np.ones(10), rate=0.01, template=lambda: SGD(nesterov=True)
    )
    step(np.arange(0.1, 1.1, 0.1, "float32"))
    expected = 1.0 - 0.01 * 2 * np.arange(0.1, 1.1, 0.1)  # no momentum: plain descent
    for _ in range(5):
        model.assert_values(expected, rtol=1e-5)
        step(np.full(10, 0.01, "float32"))
        expected = expected - 0.01 * 2 * 0.01


@for_each((1, 3), "Keras: clipping, groups")
def clipping(strategy: tf.distribute.Strategy, n: int) -> None:
    """After the reduction, where Keras clips before: two devices move no further than one."""
    for argument, moved in (("clipnorm", 0.5**0.5), ("clipvalue", 1.0)):
        model, _, step = on_both(strategy, n, [0.0, 0.0], **{argument: 1.0})
        step([100.0, 100.0])
        model.assert_values([-moved, -moved])


@for_each((1, 3), "Keras: averages, groups")
def averages(strategy: tf.distribute.Strategy, n: int) -> None:
    settings = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3}
    model, optimizer, step = on_both(strategy, n, SQUARE + 2, rate=0.5, **settings)
    overwritten = 0.9 * (SQUARE + 0.9) + 0.1 * (SQUARE - 1)
    for value, average in (
        (SQUARE + 1, SQUARE + 1),
        (SQUARE, 0.9 * (SQUARE + 1) + 0.1 * SQUARE),
        (overwritten, overwritten),
    ):
        step(ONES)
        model.assert_values(value)
        for variable in optimizer._model_variables_moving_average:
            np.testing.assert_allclose(variable.numpy(), average, rtol=1e-6)


@for_each((1, 3), "Keras: accumulation, groups")
def accumulation(strategy: tf.distribute.Strategy, n: int) -> None:
    """Accumulated is what the devices' gradients sum to, where Keras keeps each device's own."""
    gradient = np.array([[1.0, 1.0], [2.0, 2.0]], "float32")
    model, optimizer, step = on_both(strategy, n, SQUARE, gradient_accumulation_steps=3)
    moved = SQUARE - 2 * gradient
    for call, (value, total, steps) in enumerate(
        ((SQUARE, 2, 0), (SQUARE, 4, 0), (moved, 0, 1)), 1
    ):
        step(gradient)
        model.assert_values(value)
        for variable in optimizer._accumulated_gradients:
            np.testing.assert_allclose(variable.numpy(), total * gradient)
        assert optimizer.step_counter.numpy() == call
        assert int(optimizer.iterations) == steps


@check("Keras: the configuration, and no stateless steps")
def configuration(strategy: tf.distribute.Strategy) -> None:
    template = SGD(momentum=0.06, nesterov=True, weight_decay=0.004)
    with strategy.scope():
        model = Holder(3, SQUARE)
        optimizer = model.optimizer(0.5, template)
        optimizer.build(model.weights)
        copied = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copied.get_config() == optimizer.get_config()
    try:
        optimizer.stateless_apply(optimizer.variables, [ONES] * 3, model.weights)
    except ValueError as error:
        assert "not supported" in str(error), error
    else:
        raise AssertionError("stateless_apply went through")


def main(path: str) -> None:
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    tf.config.set_visible_devices([], "GPU")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    assert BATCH % 2 == 0 and WIDTH > 1
    report = {}
    for name, function in CHECKS.items():
        start = time.perf_counter()
        try:
            function(strategy)
            report[name] = ""
            print(f"{time.perf_counter() - start:5.1f} s  {name}", flush=True)
        except Exception:
            report[name] = traceback.format_exc()
        Path(path).write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
