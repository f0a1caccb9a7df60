"""A head that is trained to convergence on features before the body moves."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf import MultiGroupOptimizer, fine_tune, split_by_pattern, split_layers
from dlr_tf.training import head_start
from dlr_tf.training.head_start import PENALTIES, why_not_by_default
from dlr_tf.training.losses import LossChoice

linear_model = pytest.importorskip("sklearn.linear_model")
scipy_sparse = pytest.importorskip("scipy.sparse")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 6)).astype("float32")
Y = (X[:, :3] + RNG.normal(size=(90, 3))).argmax(axis=1)


def make_model(units: int = 3, activation: str | None = "softmax") -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", name="body"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(units, activation=activation, name="top"),
        ]
    )


def train(model: keras.Model, data: Any = (X, Y), **options: Any) -> Any:
    """Fine-tune at rates of 0, so that the head stays as it was solved."""
    groups = split_layers(model, ["top"])
    start: dict[str, Any] = {"epochs": 2, "frozen_epochs": 1, "head_start": True, "verbose": 0}
    return fine_tune(model, groups, data, **{"learning_rate": 0.0, **start, **options})


def features_of(model: keras.Model) -> np.ndarray:
    return np.tanh(X @ model.layers[0].kernel.numpy() + model.layers[0].bias.numpy())


def test_it_is_the_logistic_regression_on_the_features() -> None:
    model = make_model()
    body = model.layers[0].kernel.numpy()
    found = train(model).head_start
    np.testing.assert_array_equal(model.layers[0].kernel, body)
    features = features_of(model)
    factor = found.penalty * np.mean(features**2)
    # scikit-learn: sum of the losses + squares / (2 C)
    expected = linear_model.LogisticRegression(C=1 / (factor * len(Y)), tol=1e-8, max_iter=10000)
    expected.fit(features, Y)
    np.testing.assert_allclose(
        model.predict(X, verbose=0), expected.predict_proba(features), atol=2e-3
    )
    assert found.n_examples == 90
    assert found.penalty in PENALTIES
    assert 0.4 < found.scores["accuracy"] < 0.95  # not that of the training examples


@pytest.mark.slow
def test_numbers_and_class_weights_and_several_layers() -> None:
    model = make_model(2, None)
    target = 1000 * (X[:, :2] + 3)
    train(model, (X, target), loss="mse", frozen_epochs=0)
    errors = np.mean((model.predict(X, verbose=0) - target) ** 2, axis=0)
    assert np.all(errors < 0.5 * np.var(target, axis=0))

    weights = {0: 1.0, 1: 50.0}
    shares = []
    for class_weight in (None, weights):
        model = make_model()
        train(model, class_weight=class_weight)
        shares.append(np.mean(model.predict(X, verbose=0).argmax(axis=1) == 1))
    assert shares[1] > shares[0] + 0.2

    keras.utils.set_random_seed(1)
    deep = keras.Sequential(
        [make_model(8, "tanh"), keras.layers.Dense(4, "relu"), keras.layers.Dense(3, "softmax")]
    )
    deep.build((None, 6))
    groups = split_layers(deep, [deep.layers[1].name])
    fine_tune(deep, groups, (X, Y), learning_rate=0.0, epochs=1, head_start=True, verbose=0)
    assert np.mean(deep.predict(X, verbose=0).argmax(axis=1) == Y) > 0.6


@pytest.mark.parametrize(
    "kind", ["data set", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sequence", "split"))]
)
def test_all_kinds_of_data_give_the_same_head(kind: str) -> None:
    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            part = slice(30 * number, 30 * number + 30)
            return X[part], Y[part]

    data: Any = {
        "data set": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(25),
        "sequence": Batches,
        "split": lambda: (np.tile(X, (2, 1)), np.tile(Y, 2)),
    }[kind]()
    options = {"validation_split": 0.5} if kind == "split" else {}
    model, twin = make_model(), make_model()
    train(model, data, **options)
    train(twin)
    np.testing.assert_allclose(model.layers[-1].kernel, twin.layers[-1].kernel, rtol=0, atol=1e-4)


def test_auto_takes_one_usual_rate(capsys: pytest.CaptureFixture[str]) -> None:
    history = train(make_model(), learning_rate="auto", verbose=2)
    np.testing.assert_allclose(history.learning_rates, [10**-3.75] * 2, rtol=1e-6)
    assert history.seconds["head_start"] > 0
    printed = capsys.readouterr().out
    assert "the head alone, on held-out parts of the 90 training examples: accuracy 0." in printed
    with pytest.raises(ValueError, match=r"a usual rate of Adam.*Received: SGD"):
        train(make_model(), learning_rate="auto", optimizer="sgd")


def test_it_is_the_default_until_the_model_was_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_model()
    groups = split_layers(model, ["top"])
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(30)
    history = fine_tune(model, groups, data, epochs=1, verbose=2)
    assert history.head_start.n_examples == 90
    np.testing.assert_allclose(history.learning_rates, [10**-3.75] * 2, rtol=1e-6)
    capsys.readouterr()
    history = fine_tune(model, groups, data, epochs=1, verbose=2)
    assert not hasattr(history, "head_start")
    np.testing.assert_allclose(history.learning_rates[1] / history.learning_rates[0], 10)
    assert "without a head start: the model was trained before\n" in capsys.readouterr().out


def test_who_gives_rates_or_frozen_epochs_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    history = train(make_model(), head_start=None, verbose=2)
    assert not hasattr(history, "head_start")
    assert "head start" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"n_examples": 5000}, ""),
        ({"n_examples": 5001}, "there are more than 5000 training examples"),
        ({"inputs": [tf.sparse.eye(3)]}, "the inputs are sparse or ragged"),
        ({"inputs": scipy_sparse.csr_matrix(X)}, "the inputs are sparse or ragged"),
        ({"inputs": {"a": tf.RaggedTensorSpec([3, None])}}, "the inputs are sparse or ragged"),
        ({"inputs": X}, ""),
        ({"n_examples": 1}, "there are fewer than 2 training examples"),
        ({"n_examples": None}, "the number of training examples is not known"),
        ({"optimizer": "sgd"}, "the rates that suit it are known for Adam alone"),
        ({"optimizer": "adamw"}, ""),
        ({"loss": "mse"}, "it was measured only where each example has one class"),
        ({"loss": "binary_crossentropy"}, "it was measured only where each example has one class"),
        ({"loss": "categorical_crossentropy"}, ""),
        ({"boundaries": ["middle"]}, "the head is more than one dense or convolutional layer"),
        ({"max_bytes": 4 * 90 * 5 - 1}, "the features of all training examples take too much"),
        ({"boundaries": []}, "nothing stands between an input and the layer that holds the head"),
    ],
)
def test_why_it_is_not_the_default(
    change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_start, "MAX_BYTES", change.get("max_bytes", 4 * 5001 * 8))
    middle = keras.layers.Dense(5, name="middle")
    top = keras.layers.Dense(3, activation="softmax", name="top")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="body"), middle, top])
    groups = split_layers(model, change.get("boundaries", ["top"]))
    found = why_not_by_default(
        model,
        groups,
        LossChoice(change.get("loss", "sparse_categorical_crossentropy"), None),
        MultiGroupOptimizer(groups, 0.1, change.get("optimizer")),
        change.get("n_examples", 90),
        change.get("inputs"),
    )
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_group_of_variables_leaves_the_rest_of_its_layer() -> None:
    model = make_model()
    before = [variable.numpy() for variable in model.trainable_variables]
    patterns = {"others": "^body|kernel$", "bias": "bias$"}
    groups = split_by_pattern(model, patterns)
    fine_tune(model, groups, (X, Y), learning_rate=0.0, epochs=1, head_start=True, verbose=0)
    for variable, value in zip(model.trainable_variables, before):
        assert np.array_equal(variable, value) == (not variable.path.endswith("top/bias"))


def test_the_logits_are_divided_by_3_if_the_body_trains() -> None:
    models = [make_model(activation=None) for _ in range(3)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train(models[0], loss=loss)
    train(models[1], loss=loss, frozen_epochs=0)
    models[2].layers[0].trainable = False  # so nothing but the head trains
    train(models[2], loss=loss, frozen_epochs=0)
    certain, soft, frozen = (model.predict(X, verbose=0) for model in models)
    np.testing.assert_allclose(soft, certain / 3, atol=1e-6)
    np.testing.assert_array_equal(frozen, certain)


def test_it_starts_once() -> None:
    model = make_model()
    before = model.get_weights()
    history = train(model, epochs=2, initial_epoch=1)
    assert not hasattr(history, "head_start")
    for value, expected in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, expected)


class Own(keras.Model):
    def train_step(self, data: Any) -> Any:
        raise AssertionError


def test_what_it_cannot_do_is_said_before_anything_changes(monkeypatch: Any) -> None:
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", name="top")(x))

    def refused(match: str, model: keras.Model, boundary: str, data: Any = (X, Y)) -> None:
        groups = split_layers(model, [boundary] if boundary else [])
        before = model.get_weights()
        with pytest.raises((ValueError, TypeError, ImportError), match=match):
            fine_tune(model, groups, data, learning_rate=0.1, epochs=1, head_start=True, verbose=0)
        for value, expected in zip(model.get_weights(), before):
            np.testing.assert_array_equal(value, expected)

    refused("nothing stands between an input and the layer that holds the head", model, "")
    own = Own(inputs, model.output)
    own.compile("sgd", "sparse_categorical_crossentropy")
    refused("with a train_step of its own", own, "top")
    model.get_layer("top").trainable = False
    refused("the head, the last group, and it is frozen.*Received: group 'head'", model, "top")
    model.get_layer("top").trainable = True
    refused("at least 2 examples. Received: 1", model, "top", (X[:1], Y[:1]))
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    refused("needs SciPy.*pip install scipy", model, "top")


def test_a_model_without_a_graph() -> None:
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.top = keras.layers.Dense(4), keras.layers.Dense(3)

        def call(self, inputs: Any) -> Any:
            return self.top(self.body(inputs))

    model = Subclassed()
    model(X)
    groups = split_layers(model, ["top"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match="it has no graph of layers"):
        fine_tune(model, groups, (X, Y), loss=loss, learning_rate=0.1, epochs=1, head_start=True)


@pytest.mark.slow
def test_several_inputs_and_outputs() -> None:
    keras.utils.set_random_seed(0)
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    joint = keras.layers.Concatenate()([*inputs.values()])
    body = keras.layers.Dense(8, "tanh", name="body")(joint)
    outputs = {
        "kind": keras.layers.Dense(3, "softmax", name="kind")(body),
        "size": keras.layers.Dense(1, name="size")(keras.layers.Concatenate()([body, joint])),
    }
    model = keras.Model(inputs, outputs)
    groups = split_layers(model, ["kind"])
    data = ({"a": X, "b": X[::-1]}, {"kind": Y, "size": X[:, :1]})
    loss = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    history = fine_tune(
        model, groups, data, loss=loss, learning_rate=0.0, epochs=1, head_start=True, verbose=0
    )
    assert history.head_start.scores["size_loss"] < 0.2 * float(np.var(X[:, 0]))


@pytest.mark.slow
def test_under_a_strategy() -> None:
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = make_model()
    twin = make_model()
    train(model)
    train(twin)
    np.testing.assert_allclose(model.layers[-1].kernel, twin.layers[-1].kernel, atol=1e-4)


def test_features_that_are_not_finite() -> None:
    model = make_model()
    model.layers[0].kernel.assign(np.full((6, 8), np.nan))
    with pytest.raises(ValueError, match="not finite"):
        train(model)


@pytest.mark.slow
def test_weights_of_examples_count() -> None:
    weights = np.where(Y == 1, 50.0, 1.0)
    model, twin = make_model(), make_model()
    train(model, (X, Y, weights))
    train(twin, class_weight={1: 50.0})
    np.testing.assert_allclose(model.layers[-1].kernel, twin.layers[-1].kernel, atol=1e-6)
