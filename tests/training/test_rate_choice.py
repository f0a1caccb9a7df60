from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf import SGDR, FusedAdam, fine_tune, freeze_to, split_layers
from dlr_tf.training.auto_rates import SWEEP, auto_sweep
from dlr_tf.training.lr_finder import LearningRateSweep
from dlr_tf.training.rate_choice import (
    RATIO,
    RateChoice,
    rates_from_sweep,
    rates_near,
    relative_rates,
    typical_adam_rates,
)

LENGTH = 48


def small_model(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Dense(8, activation="relu", name="early"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dropout(0.2, name="dropout"),
        keras.layers.Dense(8, activation="relu", name="late"),
        keras.layers.Dense(3, activation="softmax", name="head"),
    ]
    return keras.Sequential([keras.Input((4,)), *layers])


def arrays() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(LENGTH, 4)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return LENGTH // 16

    def __getitem__(self, number: int) -> Any:
        x, y = arrays()
        return x[16 * number : 16 * (number + 1)], y[16 * number : 16 * (number + 1)]


def peaks_of(model: keras.Model) -> list[float]:
    """The peak rates that a model was fine-tuned with."""
    config = model.optimizer.get_config()["learning_rate"]
    return [rate["config"]["initial_learning_rate"] for rate in config]


def fit(model: keras.Model, data: Any, learning_rate: Any = "auto", **options: Any) -> Any:
    groups = split_layers(model, ["late", "head"])
    if isinstance(data, tuple):
        options = {"batch_size": 16, **options}
    arguments: dict[str, Any] = {"epochs": 2, "schedule": "sgdr", "verbose": 0, **options}
    return fine_tune(model, groups, data, learning_rate=learning_rate, **arguments)


def test_the_ratios() -> None:
    np.testing.assert_allclose(relative_rates(3), [0.1, 0.1**0.5, 1.0])
    assert relative_rates(1) == [1.0]


@pytest.mark.parametrize("frozen_epochs", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_training_is_the_one_with_these_rates(frozen_epochs: int) -> None:
    chosen, given = small_model(), small_model()
    keras.utils.set_random_seed(7)
    history = fit(chosen, arrays(), frozen_epochs=frozen_epochs, head_start=False)
    peaks = peaks_of(chosen)
    keras.utils.set_random_seed(7)
    expected = fit(given, arrays(), peaks, frozen_epochs=frozen_epochs)
    # The range test left no trace: neither in the model nor in the random generators.
    assert history.history == expected.history
    for one, other in zip(chosen.get_weights(), given.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert peaks[0] == pytest.approx(peaks[-1] / RATIO)
    assert 1e-4 < peaks[-1] < 0.1


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model()
    fit(model, arrays(), verbose=2, head_start=False)
    test, bar, line, *rest = capsys.readouterr().out.splitlines()
    assert test == "Range test of the learning rate"
    assert bar.startswith("60/60 - ")
    early, late, head = peaks_of(model)
    rates = f"{early:.2g} / {late:.2g} / {head:.2g}"
    assert line.startswith(f"peak learning rates {rates}: for the head, 0.001 is usual for Adam, ")
    assert rest[0] == "Epoch 1/2"
    fit(small_model(), arrays(), verbose=2)
    test, bar, line, start, head_alone, *rest = capsys.readouterr().out.splitlines()
    assert line.startswith("peak learning rate 0.00018: 0.00018 is usual for Adam, ")
    assert start == "Head start: the head is trained on features"
    assert head_alone.startswith("the head alone, on held-out parts of the ")
    assert rest[0] == "Epoch 1/2"
    fit(small_model(), arrays(), verbose=0)
    assert capsys.readouterr().out == ""


def test_the_line() -> None:
    def line(*rates: float) -> str:
        return RateChoice(rates, 0.0064).line()

    allowed = "usual for Adam, and a range test allows 0.0021 to 0.019"
    assert line(0.019) == f"peak learning rate 0.019: 0.00032 is {allowed}"
    assert line(0.02, 0.02) == line(0.02)
    assert line(1e-3, 2e-3, 3e-3, 4e-3, 0.02) == (
        f"peak learning rates 0.001 to 0.02: for the head, 0.0018 is {allowed}"
    )


@pytest.mark.parametrize(
    ("suggestion", "head"),
    [(1e-3, 1e-3), (4e-4, 1e-3), (2.9e-3, 1e-3), (1e-4, 3e-4), (9e-3, 3e-3)],
)
def test_the_rates_nearest_to_the_usual_ones(suggestion: float, head: float) -> None:
    # Adam's usual rate, 3.2e-4, is in the middle between 1e-4 and 1e-3.
    low, middle, high = rates_near(suggestion, relative_rates(3))
    assert high == pytest.approx(head)
    assert (low / high, middle / high) == pytest.approx((0.1, 0.1**0.5))
    assert typical_adam_rates(relative_rates(3)) == pytest.approx((1e-4, 10**-3.5, 1e-3))


def data_of_kind(kind: str) -> Any:
    if kind == "arrays":
        return arrays()
    if kind == "dataset":
        return tf.data.Dataset.from_tensor_slices(arrays()).batch(16)
    return Batches()


@pytest.mark.slow
def test_all_kinds_of_data() -> None:
    for kind in ("arrays", "dataset", "py_dataset"):
        model = small_model()
        fit(model, data_of_kind(kind))
        assert 1e-4 < peaks_of(model)[-1] < 0.1, kind


def test_what_validates_is_not_read() -> None:
    x, y = arrays()
    x[36:] = np.nan
    weights = np.ones(LENGTH)
    weights[36:] = np.nan
    model = small_model()
    fit(model, (x, y, weights), validation_split=0.25)
    assert 1e-4 < peaks_of(model)[-1] < 0.1


@pytest.mark.slow
def test_data_of_any_structure() -> None:
    """Inputs, labels and weights by name, as `fit` takes them; some of them `None`."""
    x, y = arrays()
    inputs = {"a": keras.Input((4,), name="a")}
    hidden = keras.layers.Dense(8, activation="relu", name="late")(inputs["a"])
    outputs = {
        name: keras.layers.Dense(3, activation="softmax", name=name)(hidden) for name in ("p", "q")
    }
    for weights in (None, {"p": np.ones(LENGTH), "q": np.zeros(LENGTH)}):
        model = keras.Model(inputs, outputs)
        fine_tune(
            model,
            split_layers(model, ["p"]),
            ({"a": x}, {"p": y, "q": y}, weights),
            epochs=1,
            schedule="sgdr",
            loss=dict.fromkeys(("p", "q"), "sparse_categorical_crossentropy"),
            metrics={"p": ["accuracy"], "q": ["accuracy"]},
            validation_split=0.25,
            verbose=0,
        )
        assert 1e-5 < peaks_of(model)[-1] < 1


def test_what_fit_ignores_is_ignored() -> None:
    fit(small_model(), tf.data.Dataset.from_tensor_slices(arrays()).batch(16), batch_size=8)


def test_one_optimizer_per_group() -> None:
    model = small_model()
    optimizers = [keras.optimizers.SGD(rate) for rate in (0.1, 0.2, 0.3)]
    with pytest.raises(ValueError, match="one optimizer per group, pass the learning rates too"):
        fit(model, arrays(), optimizer=optimizers)
    fit(model, arrays(), [0.1, 0.2, 0.3], optimizer=optimizers, schedule="constant")
    assert model.optimizer.learning_rates == pytest.approx([0.1, 0.2, 0.3])


def test_only_the_head() -> None:
    model = small_model()
    moments = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            moments.append([bool(layer.trainable) for layer in self.model.layers])

    with pytest.warns(UserWarning, match="Only the head"):
        fit(model, arrays(), frozen_epochs=2, callbacks=[Watch()])
    assert moments == [[False, False, False, False, True]]
    assert 1e-4 < peaks_of(model)[-1] < 1


@pytest.mark.slow
def test_a_body_that_freeze_to_froze_is_trained_and_one_that_the_user_froze_is_not() -> None:
    model = small_model()
    freeze_to(model, split_layers(model, ["late", "head"]), 1)
    model.get_layer("late").trainable = False
    before = model.get_layer("early").get_weights()
    sweep = auto_sweep(model, split_layers(model, ["late", "head"]), [0.1, 0.3, 1.0], arrays())
    assert len(sweep.losses) > 50
    for one, other in zip(before, model.get_layer("early").get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.get_layer("early").trainable
    assert not model.get_layer("late").trainable


@pytest.mark.slow
def test_it_follows_the_optimizer() -> None:
    rates = {}
    for name in ("sgd", "adam"):
        model = small_model()
        optimizer = {"sgd": keras.optimizers.SGD(), "adam": FusedAdam()}[name]
        fit(model, arrays(), optimizer=optimizer)
        rates[name] = peaks_of(model)[-1]
    assert rates["sgd"] > rates["adam"]


def test_a_generator_can_be_read_only_once() -> None:
    def batches() -> Iterator[Any]:
        yield from (Batches()[number] for number in range(3))

    with pytest.raises(TypeError, match="a generator can be read only once"):
        fit(small_model(), batches(), steps_per_epoch=3, loss="sparse_categorical_crossentropy")


def test_the_usual_rates_where_the_loss_falls_at_no_rate() -> None:
    rates, ratios = SWEEP.rates(), relative_rates(3)
    diverging = np.where(rates > 0.1, np.nan, 1.0)
    for losses in (np.ones(60), np.linspace(1.0, 3.0, 60), diverging, np.array([1e-9, 5e-9])):
        choice = rates_from_sweep(LearningRateSweep(rates[: len(losses)], losses), ratios)
        assert choice == RateChoice(typical_adam_rates(ratios), None)
    assert choice.line() == (
        "the range test found no rate at which the loss falls: taking 0.0001 / 0.00032 / 0.001, "
        "which are usual for Adam"
    )
    for n_finite in (0, 1, 10):
        losses = np.where(np.arange(60) < n_finite, 1.0, np.nan)
        with pytest.raises(ValueError, match=f"not finite at the rate {rates[n_finite]:.1e}"):
            rates_from_sweep(LearningRateSweep(rates, losses), ratios)


@pytest.mark.slow
def test_a_model_that_cannot_learn_more(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def solved(y: Any, predicted: Any) -> Any:
        return 0.0 * keras.ops.mean(predicted)

    for verbose in (0, 2):
        model = small_model()
        fit(model, arrays(), loss=solved, verbose=verbose)
        assert peaks_of(model) == pytest.approx(typical_adam_rates(relative_rates(3)))
    # Said once: in the log where nothing is printed.
    line = "the range test found no rate at which the loss falls: taking "
    assert [message.startswith(line) for message in caplog.messages] == [True]
    assert capsys.readouterr().out.count(line) == 1


def test_a_loss_that_is_never_finite() -> None:
    def loss(y: Any, predicted: Any) -> Any:
        return np.nan * keras.ops.mean(predicted)

    model = small_model()
    with pytest.raises(ValueError, match=r"'auto'` finds no learning rate .* or pass `learning_r"):
        fit(model, arrays(), loss=loss)
    # Whoever goes on with `fit` trains at usual rates.
    assert model.optimizer.learning_rates == pytest.approx(typical_adam_rates(relative_rates(3)))


def test_another_word() -> None:
    with pytest.raises(ValueError, match="should be 'auto', a float, .*learning_rate='best'"):
        fit(small_model(), arrays(), "best")


def test_bad_arguments_are_found_before_the_test() -> None:
    with pytest.raises(ValueError, match="`schedule` should be one of"):
        fit(small_model(), arrays(), schedule="cosin")
    with pytest.raises(ValueError, match="pass `learning_rate=None` with it. .*'auto'"):
        fit(small_model(), arrays(), schedule=[SGDR(0.1, 6)] * 3)
    # A schedule of one's own gets the peaks.
    model = small_model()
    fit(model, arrays(), schedule=lambda peak: SGDR(peak, 6))
    assert 1e-4 < peaks_of(model)[-1] < 0.1
