"""Frozen epochs on cached features give what they give without the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import attribute_set, set_keras_generator
from dlr_tf.core.groups import split_layers
from dlr_tf.training import cached_features
from dlr_tf.training.fine_tuning import fine_tune
from dlr_tf.training.freezing import freeze_to
from dlr_tf.training.gradual_unfreezing import GradualUnfreezing

N_INPUTS, N_CLASSES, N_EXAMPLES, N_VALIDATION = 6, 3, 30, 11
EPOCHS, FROZEN = 4, 3


def body_layers() -> list[keras.layers.Layer]:
    return [
        keras.layers.Dense(8, activation="tanh", name="stem"),
        keras.layers.BatchNormalization(momentum=0.5, name="norm"),
        keras.layers.Dense(7, activation="relu", name="body"),
    ]


def one_layer_head() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((N_INPUTS,)),
            *body_layers(),
            keras.layers.Dropout(0.4, name="drop"),
            keras.layers.Dense(N_CLASSES, activation="softmax", name="top"),
        ]
    )


def two_layer_head() -> keras.Model:
    x = inputs = keras.Input((N_INPUTS,))
    for layer in body_layers():
        x = layer(x)
    x = keras.layers.Dense(
        6, activation="relu", kernel_regularizer="l2", activity_regularizer="l2", name="top"
    )(x)
    x = keras.layers.BatchNormalization(name="top_norm")(x)
    x = keras.layers.Dropout(0.4)(x)
    return keras.Model(inputs, keras.layers.Dense(N_CLASSES, activation="softmax")(x))


def nested() -> keras.Model:
    inputs = keras.Input((N_INPUTS,))
    base = keras.Sequential([keras.Input((N_INPUTS,)), *body_layers()], name="base")
    x = keras.layers.Dropout(0.4)(base(inputs, training=False))
    return keras.Model(inputs, keras.layers.Dense(N_CLASSES, activation="softmax", name="top")(x))


def with_branches() -> keras.Model:
    """Two inputs, two features, and a dropout in the body: all behind that is in the tail."""
    inputs = {name: keras.Input((N_INPUTS,), name=name) for name in ("a", "b")}
    left = keras.layers.Dense(5, name="stem")(inputs["a"])
    right = keras.layers.Dropout(0.3)(keras.layers.Dense(5)(inputs["b"]))
    x = keras.layers.Concatenate()([left, keras.layers.Dense(4)(right)])
    return keras.Model(inputs, keras.layers.Dense(N_CLASSES, activation="softmax", name="top")(x))


def examples(count: int = N_EXAMPLES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, N_INPUTS)).astype("float32"), np.arange(count) % N_CLASSES


def weights(count: int = N_EXAMPLES) -> np.ndarray:
    return np.linspace(0.1, 2.0, count).astype("float32")


def validation() -> tuple[np.ndarray, np.ndarray]:
    return examples(N_VALIDATION, seed=1)


class Calls(keras.callbacks.Callback):
    """Which methods were called, in order, with the weights and the class of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, ...]] = []
        self.models: list[Any] = []
        self.moments: list[np.ndarray] = []

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("on_"):
            return lambda *args, **kwargs: self._record(name, args)
        return value

    def _record(self, name: str, args: tuple[Any, ...]) -> None:
        index = args[0] if args and isinstance(args[0], int) else None
        self.found.append((name, index, int(self.model.optimizer.iterations)))
        self.models.append(self.model)
        if name in ("on_train_batch_end", "on_test_batch_end"):
            self.moments.append(np.concatenate([w.ravel() for w in self.model.get_weights()]))


class Rows:
    """Counts the examples that the first layer of a model is called on."""

    def __init__(self) -> None:
        self.count = 0

    def call_of(self, layer: keras.layers.Layer) -> Callable[..., Any]:
        own = layer.call

        def add(n: Any) -> Any:
            self.count += int(n)
            return n

        def call(x: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = own(x, *args, **kwargs)
            rows = tf.py_function(add, [tf.shape(x)[0]], tf.int32)
            with tf.control_dependencies([rows]):
                return tf.identity(outputs)

        return call


def trained(
    build: Callable[[], keras.Model] = one_layer_head,
    data: Any = None,
    *,
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list,
    compile_with: dict[str, Any] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Train a new model, and return all that can be seen of it."""
    keras.utils.set_random_seed(3)
    set_keras_generator(None)  # the seed does not reset it in old versions of Keras
    model = build()
    settings = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"}
    model.compile(
        **{**settings, "metrics": ["accuracy"], "run_eagerly": True, **(compile_with or {})}
    )
    rows, calls, given = Rows(), Calls(), callbacks()
    fit: dict[str, Any] = {"epochs": EPOCHS, "frozen_epochs": FROZEN, "batch_size": 8, "verbose": 0}
    with _counted(model, rows):
        history = fine_tune(
            model,
            split_layers(model, ["top"]),
            examples() if data is None else data(),
            learning_rate=3e-2,
            callbacks=[*given, calls],
            **{**fit, **arguments},
        )
    assert all(seen is model for seen in calls.models)
    assert model.history is history
    assert not {"train_step", "test_step", "call"} & vars(model).keys()
    return {
        "model": model,
        "rows": rows.count,
        "history": history.history,
        "epoch": history.epoch,
        "calls": calls.found,
        "moments": np.stack(calls.moments),
        "weights": model.get_weights(),
        "optimizer": [np.asarray(v) for v in model.optimizer.variables],
        "state": np.asarray(keras.random.uniform((3,))).tolist()
        + np.random.random(2).tolist()
        + np.asarray(tf.random.uniform((3,))).tolist(),
        "callbacks": given,
    }


def _counted(model: keras.Model, rows: Rows) -> Any:
    layers = {layer.name: layer for layer in model.layers}
    base = layers.get("base")
    stem = layers["stem"] if base is None else base.get_layer("stem")
    return attribute_set(stem, "call", rows.call_of(stem))


def both(monkeypatch: Any, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with the cache and without it, and compare all that can be seen."""
    cached = trained(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(cached_features, "MAX_BYTES", -1)
        plain = trained(*args, **kwargs)
    assert cached["calls"] == plain["calls"]
    assert cached["epoch"] == plain["epoch"]
    assert cached["state"] == plain["state"]
    assert cached["history"].keys() == plain["history"].keys()
    for name, values in plain["history"].items():
        np.testing.assert_allclose(cached["history"][name], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cached["moments"], plain["moments"], rtol=1e-4, atol=1e-5)
    for key in ("weights", "optimizer"):
        assert len(cached[key]) == len(plain[key])
        for one, other in zip(cached[key], plain[key]):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    return cached, plain


def early_stopping() -> list[keras.callbacks.Callback]:
    return [keras.callbacks.EarlyStopping("loss", min_delta=9.0, restore_best_weights=True)]


slow = pytest.mark.slow
TRACED = {"run_eagerly": False, "jit_compile": False}  # XLA cannot count rows
ALL = (FROZEN - 1) * N_EXAMPLES


@pytest.mark.parametrize(
    ("arguments", "saved"),
    [
        ({"compile_with": TRACED, "validation_split": 0.2}, ALL),
        ({"build": two_layer_head, "batch_norm": "train", "validation_split": 0.2}, ALL),
        pytest.param({"build": nested}, ALL, marks=slow),
        pytest.param({"sample_weight": weights(), "shuffle": "batch"}, ALL, marks=slow),
        ({"class_weight": {0: 0.2, 1: 3.0}}, ALL),
        ({"validation_data": validation()}, ALL + (FROZEN - 1) * N_VALIDATION),
        pytest.param(
            {"validation_data": (*validation(), weights(N_VALIDATION)), "validation_freq": 3},
            ALL,
            marks=slow,
        ),
        pytest.param(
            {
                "validation_data": tf.data.Dataset.from_tensor_slices(validation()).batch(4),
                "compile_with": {**TRACED, "steps_per_execution": 2},
            },
            ALL,
            marks=slow,
        ),
        pytest.param({"initial_epoch": 1, "batch_size": None}, N_EXAMPLES, marks=slow),
        ({"callbacks": early_stopping}, N_EXAMPLES),
        pytest.param({"use_ema": True, "ema_overwrite_frequency": 5}, ALL, marks=slow),
        # 12 batches in the frozen epochs
        ({"gradient_accumulation_steps": 5, "clipnorm": 0.1, "compile_with": TRACED}, ALL),
        pytest.param(
            {"epochs": FROZEN, "data": lambda: tuple(map(tf.constant, examples()))}, ALL, marks=slow
        ),
        pytest.param(
            {
                "build": with_branches,
                "data": lambda: (
                    {"a": examples()[0], "b": examples(seed=2)[0]},
                    examples()[1],
                    weights(),
                ),
            },
            ALL,
            marks=slow,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Only the head, group 'head', learns:UserWarning")
def test_a_training_with_the_cache_equals_one_without(
    arguments: dict[str, Any], saved: int, monkeypatch: Any
) -> None:
    cached, plain = both(monkeypatch, **arguments)
    assert plain["rows"] - cached["rows"] == saved


class ChangesTheBody(keras.callbacks.Callback):
    """Changes weights of the body within the second epoch."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1 and self.place == "epoch":
            freeze_to(self.model, split_layers(self.model, ["top"]), 0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 0 and self.place == "weights":
            self._move()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        is_last = batch == 3 and int(self.model.optimizer.iterations) == 8
        if is_last and self.place == "before validation":
            self._move()

    def _move(self) -> None:
        kernel = self.model.get_layer("stem").kernel
        kernel.assign(kernel * 1.5)


@pytest.mark.parametrize(
    ("place", "compile_with"),
    [
        ("weights", None),
        pytest.param("before validation", TRACED, marks=slow),
        pytest.param("epoch", TRACED, marks=slow),
    ],
)
def test_the_cache_ends_when_the_body_changes(
    place: str, compile_with: Any, monkeypatch: Any
) -> None:
    cached, plain = both(
        monkeypatch,
        callbacks=lambda: [ChangesTheBody(place)],
        compile_with=compile_with,
        validation_data=validation(),
    )
    assert cached["rows"] <= plain["rows"]


def test_another_callback_unfreezes_the_body(monkeypatch: Any) -> None:
    model = one_layer_head()
    groups = split_layers(model, ["top"])
    both(monkeypatch, callbacks=lambda: [GradualUnfreezing(groups)], build=lambda: copy_of(model))


def copy_of(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


@slow
def test_a_checkpoint_in_a_frozen_epoch_is_the_whole_model(tmp_path: Any, monkeypatch: Any) -> None:
    files: list[Any] = []

    def checkpoints() -> list[keras.callbacks.Callback]:
        files.append(tmp_path / f"{len(files)}")
        return [keras.callbacks.ModelCheckpoint(str(files[-1]) + "-{epoch}.keras")]

    both(monkeypatch, callbacks=checkpoints)
    for epoch in range(1, EPOCHS + 1):
        cached, plain = (keras.models.load_model(f"{file}-{epoch}.keras") for file in files)
        x, _ = validation()
        assert [layer.name for layer in cached.layers] == [layer.name for layer in plain.layers]
        np.testing.assert_allclose(cached(x), plain(x), rtol=1e-5, atol=1e-6)
        for one, other in zip(cached.optimizer.variables, plain.optimizer.variables, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_backup_is_restored_before_the_features_are_computed(
    tmp_path: Any, monkeypatch: Any
) -> None:
    class Stops(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    count = 0

    def restored() -> list[keras.callbacks.Callback]:
        nonlocal count
        count += 1
        folder = tmp_path / f"{(count - 1) // 2}"  # the first of two trainings is interrupted
        backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
        return [backup, Stops()] if count % 2 else [backup]

    def twice(**arguments: Any) -> dict[str, Any]:
        with pytest.raises(KeyboardInterrupt):
            trained(callbacks=restored, build=other_weights)
        return trained(callbacks=restored, build=one_layer_head)

    def other_weights() -> keras.Model:
        keras.utils.set_random_seed(8)
        return one_layer_head()

    cached = twice()
    monkeypatch.setattr(cached_features, "MAX_BYTES", -1)
    plain = twice()
    assert cached["epoch"] == plain["epoch"] == [1, 2, 3]
    assert plain["rows"] - cached["rows"] == N_EXAMPLES
    for one, other in zip(cached["weights"], plain["weights"]):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# --- When nothing is cached ----------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
class Own(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x + keras.random.normal(keras.ops.shape(x))


@keras.saving.register_keras_serializable("tests")
class OwnStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def prepared(*body: keras.layers.Layer, kind: Any = keras.Sequential) -> keras.Model:
    """A model in which only the layer `top` is trainable."""
    inputs = keras.Input((N_INPUTS,))
    x = inputs
    for layer in (*body, keras.layers.Dense(N_CLASSES, name="top")):
        x = layer(x)
    model = kind(inputs, x) if kind is not keras.Sequential else keras.Model(inputs, x)
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile("sgd", "mse")
    return model


def features_before(model: keras.Model, frozen_epochs: int = 3, **arguments: Any) -> list[str]:
    """Return the names of the layers that are computed once, as `fit` gets their features."""
    given = {"x": examples()[0], "y": examples()[1], "validation_data": None, **arguments}
    with cached_features.cached_features(model, given, 0, frozen_epochs) as (changed, callbacks):
        if not callbacks:
            assert changed == given
            assert not {"train_step", "test_step"} & vars(model).keys()
            return []
        assert changed["x"].inputs is given["x"]
        return [layer.name for layer in callbacks[0].cut.body.layers[1:]]


def dense(name: str = "stem", **arguments: Any) -> keras.layers.Layer:
    return keras.layers.Dense(4, name=name, **arguments)


@pytest.mark.parametrize(
    ("layer", "is_constant"),
    [
        (lambda: keras.layers.Dropout(0.1), False),
        (lambda: keras.layers.GaussianNoise(0.1), False),
        (lambda: keras.layers.BatchNormalization(), True),  # it is frozen
        (lambda: keras.layers.LayerNormalization(), True),
        (lambda: keras.layers.Rescaling(2.0), True),
        (lambda: keras.layers.ReLU(), True),
        (lambda: keras.layers.ActivityRegularization(l2=0.1), False),
        (lambda: keras.layers.Masking(), False),
        (lambda: keras.layers.Lambda(lambda x: x), False),
        (lambda: dense("one", kernel_regularizer="l2"), False),
        (lambda: dense("one", activity_regularizer="l2"), False),
        (lambda: dense("one", activation=lambda x: x), False),
        (lambda: dense("one", activation="gelu"), True),
        (Own, False),
        (lambda: keras.Sequential([dense("one"), keras.layers.Dropout(0.1)]), False),
        (lambda: keras.Sequential([dense("one"), keras.layers.ReLU()]), True),
    ],
)
def test_layers_that_are_computed_once(layer: Any, is_constant: bool) -> None:
    one = layer()
    model = prepared(dense(), one, dense("last"))
    expected = ["stem", one.name, "last"] if is_constant else ["stem"]
    assert features_before(model) == expected


def test_operations_and_embeddings() -> None:
    inputs = keras.Input((N_INPUTS,))
    for mask_zero in (False, True):
        x = keras.layers.Embedding(9, 4, mask_zero=mask_zero, name="words")(inputs)
        x = keras.ops.mean(keras.ops.relu(x) + 1.0, axis=1)
        x = keras.layers.ReLU(name="after")(x)
        model = keras.Model(inputs, keras.layers.Dense(N_CLASSES)(x))
        model.get_layer("words").trainable = False
        model.compile("sgd", "mse")
        assert features_before(model) == ([] if mask_zero else ["words", "after"])


def test_nothing_is_cached_where_it_may_not_be_exact(monkeypatch: Any) -> None:
    x, y = examples()
    assert features_before(prepared(dense())) == ["stem"]
    # Nothing is saved in one epoch, or without weights in the body.
    assert features_before(prepared(dense()), frozen_epochs=1) == []
    assert features_before(prepared(keras.layers.ReLU())) == []
    assert features_before(prepared(keras.layers.Dropout(0.1), dense())) == []
    assert features_before(prepared()) == []
    assert features_before(prepared(dense(), kind=OwnStep)) == []
    patched = prepared(dense())
    with attribute_set(patched, "compute_loss", patched.compute_loss):
        assert features_before(patched) == []
    for arguments in (
        {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(8), "y": None},
        {"x": tf.sparse.from_dense(x)},
        {"x": np.array([["a"], ["b"]])},
        {"x": np.array([["a"], ["b"]], dtype=object)},
        {"x": x.tolist()},
        {"steps_per_epoch": 2},
        {"validation_steps": 2},
    ):
        assert features_before(prepared(dense()), **arguments) == []
    with tf.distribute.OneDeviceStrategy("cpu:0").scope():
        assert features_before(prepared(dense())) == []
    unknown = keras.Sequential(
        [keras.Input((None, 2)), keras.layers.Conv1D(2, 1), keras.layers.Dense(3)]
    )
    unknown.layers[0].trainable = False
    unknown.compile("sgd", "mse")
    assert features_before(unknown) == []
    monkeypatch.setattr(cached_features, "MAX_BYTES", N_EXAMPLES * 4 * 4 - 1)
    assert features_before(prepared(dense())) == []
    monkeypatch.setattr(cached_features, "MAX_BYTES", N_EXAMPLES * 4 * 4)
    assert features_before(prepared(dense())) == ["stem"]
