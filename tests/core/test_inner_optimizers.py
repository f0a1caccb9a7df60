"""One optimizer per group: which are accepted, what they share with plain ones, their views."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay, InverseTimeDecay

from dlr_tf.core import _keras
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer
from tests.conftest import newer_optimizer
from tests.core.core_helpers import (
    RATES,
    apply_of,
    assert_same_weights,
    build_separately,
    ones_for,
    push,
    three_parts,
    values,
)

GROUPS = tuple(LayerGroup(name, (name,)) for name in ("early", "middle", "head"))


def equals_plain_keras(any_optimizer: Callable[[Any], Any], rate: Any) -> None:
    model, twin = three_parts(), three_parts()
    start = values(model.weights)
    push(apply_of(model.optimizer(rate, any_optimizer(1.0))), model.weights)
    push(apply_of(any_optimizer(rate)), twin.weights)
    assert_same_weights(model, twin)
    assert not np.array_equal(model.weights[0].numpy(), start[0])


def test_any_optimizer_can_be_the_template(any_optimizer):
    equals_plain_keras(any_optimizer, 0.01)


@pytest.mark.parametrize("name", ["Adafactor", "Nadam", "AdamW"])
def test_any_optimizer_follows_a_schedule(name):
    """Adafactor asks whether its rate is a schedule, and limits it to `1 / sqrt(step)`."""
    equals_plain_keras(getattr(keras.optimizers, name), InverseTimeDecay(0.9, 1, 0.1))


def test_the_template_is_left_alone():
    model = three_parts()
    template = keras.optimizers.SGD(0.5, momentum=0.9)
    optimizer = model.optimizer(0.01, template)
    push(apply_of(optimizer), model.weights, steps=1)
    assert not template.built
    assert float(template.learning_rate) == 0.5
    assert int(template.iterations) == 0
    assert all(inner is not template for inner in optimizer.group_optimizers)
    assert [inner.momentum for inner in optimizer.group_optimizers] == [0.9] * 3


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("adam", FusedAdam),
        ("AdamW", FusedAdam),
        ("RMSPROP", keras.optimizers.RMSprop),
        ({"class_name": "SGD", "config": {"momentum": 0.5}}, keras.optimizers.SGD),
        (keras.optimizers.serialize(keras.optimizers.Lion(beta_1=0.5)), keras.optimizers.Lion),
    ],
    ids=str,
)
def test_a_name_or_a_configuration_makes_the_template(given, kind):
    before = json.dumps(given)
    model, twin = three_parts(), three_parts()
    optimizer = model.optimizer(0.01, given)
    push(apply_of(optimizer), model.weights)
    assert [type(inner) for inner in optimizer.group_optimizers] == [kind] * 3
    if kind is FusedAdam:
        plain = FusedAdam(weight_decay={"adam": None, "AdamW": 0.004}[given])
        assert plain.weight_decay == keras.optimizers.get(given).weight_decay
    else:
        plain = keras.optimizers.get(json.loads(before))
    plain.learning_rate = 0.01
    push(apply_of(plain), twin.weights)
    assert_same_weights(model, twin)
    assert json.dumps(given) == before  # Keras changes the dictionary that it is given
    again = MultiGroupOptimizer.from_config(json.loads(json.dumps(optimizer.get_config())))
    assert again.get_config() == optimizer.get_config()


def test_every_name_in_the_message_makes_a_template():
    with pytest.raises(ValueError, match="Keras has no optimizer 'x'") as caught:
        MultiGroupOptimizer(GROUPS, 0.1, "x")
    names = ast.literal_eval(str(caught.value).split("one of the names ")[1].rstrip("."))
    assert {"adam", "sgd", "muon", "lamb"} <= set(names)
    for name in set(names) - {"muon"}:  # which is refused with some versions of Keras
        inner = MultiGroupOptimizer(GROUPS, 0.1, name).group_optimizers
        kind = "fusedadam" if name in ("adam", "adamw") else name
        assert {type(one).__name__.lower() for one in inner} == {kind}


def test_different_optimizers_per_group():
    model, twin = three_parts(), three_parts()

    def make() -> list[Any]:
        return [
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.optimizers.AdamW(0.01, weight_decay=0.1),
            keras.optimizers.Nadam(CosineDecay(0.01, 10)),
        ]

    inner = make()
    optimizer = model.optimizer(None, inner)
    assert list(optimizer.group_optimizers) == inner  # used as they are
    push(apply_of(optimizer), model.weights, "graph")
    push(build_separately(make(), twin, twin.groups()), twin.weights, "graph")
    assert_same_weights(model, twin)
    np.testing.assert_allclose(optimizer.learning_rates[:2], [0.1, 0.01], rtol=1e-6)


def test_rates_beside_optimizers_win():
    inner = [keras.optimizers.SGD(9.0) for _ in GROUPS]
    optimizer = MultiGroupOptimizer(GROUPS, RATES, inner)
    np.testing.assert_allclose(optimizer.learning_rates, RATES, rtol=1e-6)


@keras.saving.register_keras_serializable(package="test_inner_optimizers")
def constant_rate() -> float:
    return 0.125


def test_a_function_as_the_rate_of_an_inner_optimizer_is_saved():
    inner = [keras.optimizers.SGD(r) for r in (constant_rate, 0.1, CosineDecay(0.3, 5))]
    optimizer = MultiGroupOptimizer(GROUPS, None, inner)
    with pytest.warns(UserWarning, match="set above what the group's schedule gives"):
        optimizer.learning_rate = 0.6
    again = MultiGroupOptimizer.from_config(json.loads(json.dumps(optimizer.get_config())))
    assert again.learning_rates == optimizer.learning_rates
    np.testing.assert_allclose(again.learning_rates, [0.25, 0.2, 0.6], rtol=1e-6)
    assert again.get_config() == optimizer.get_config()


# --- Views of the rate and the step count


def test_inner_optimizers_show_and_take_the_rate_in_use():
    model = three_parts()
    schedule = InverseTimeDecay(1.0, 1, 1.0)
    optimizer = model.optimizer([0.125, schedule, 0.5])
    inner = optimizer.group_optimizers
    assert len(inner) == 3
    assert [float(one.learning_rate) for one in inner] == [0.125, 1.0, 0.5]
    optimizer.apply(ones_for(model.weights), model.weights)
    assert float(inner[1].learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    assert [float(one.learning_rate) for one in inner] == [0.0625, 0.25, 0.25]
    inner[0].learning_rate = 2.0
    with pytest.warns(UserWarning, match="set above what the group's schedule gives"):
        inner[1].learning_rate = 1.0
    assert optimizer.learning_rates == [2.0, 1.0, 0.25]
    assert [int(one.iterations) for one in inner] == [1, 1, 1]
    inner[2].learning_rate = schedule
    with pytest.raises(TypeError, match="group 'group_2' was replaced by a schedule"):
        optimizer.apply(ones_for(model.weights), model.weights)


def test_inner_rates_and_counts_behave_as_numbers():
    optimizer = MultiGroupOptimizer(GROUPS, [0.125, 0.25, 0.5])
    inner = optimizer.group_optimizers[0]
    rate, count = inner.learning_rate, inner.iterations
    assert bool(rate == 0.125)
    assert not bool(rate != 0.125)
    assert bool(rate < 1)
    assert float(rate * 2) == float(2 * rate) == 0.25
    assert float(rate / 2) == 0.0625
    assert float(1 - rate) == 0.875
    assert float(rate**2) == 0.015625
    assert float(keras.ops.convert_to_numpy(rate)) == 0.125
    assert float(tf.sqrt(rate * 2)) == 0.5
    assert rate.dtype == "float32"
    assert tuple(rate.shape) == ()
    assert "0.125" in repr(rate)
    assert repr(optimizer.group_optimizers).startswith("GroupOptimizers([<")
    assert int(count + 1) == 1
    assert int((count + 7) % 4) == 3
    assert bool(count < 1)


def test_keras_callbacks_find_one_rate():
    """There is no attribute `optimizers`, by which they would set each group to one rate."""
    optimizer = MultiGroupOptimizer(GROUPS, RATES)
    assert not hasattr(optimizer, "optimizers")
    assert hasattr(optimizer, "learning_rate")


# --- Wrong optimizers


def in_use() -> list[Any]:
    inner = [keras.optimizers.SGD() for _ in range(3)]
    inner[1].build([keras.Variable(1.0)])
    return inner


def of_another_wrapper() -> list[Any]:
    inner = [keras.optimizers.SGD() for _ in GROUPS]
    MultiGroupOptimizer(GROUPS, 0.1, inner)
    return inner


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        (
            "adamm",
            ValueError,
            "Keras has no optimizer 'adamm'. Did you mean 'adam'. .*'adafactor', .*'sgd'",
        ),
        ("optimizer", ValueError, "Keras has no optimizer 'optimizer'"),
        ("LossScaleOptimizer", ValueError, "Keras has no optimizer 'LossScaleOptimizer'"),
        ({"name": "sgd"}, ValueError, r"one with `class_name` and `config`. .*KeyError"),
        (
            {"class_name": "SGD", "config": {"rate": 1}},
            ValueError,
            r"cannot make an optimizer from this configuration. .*ValueError: Arg.*'rate': 1",
        ),
        (
            {"class_name": "SGD", "config": {"clipnorm": 1.0}},
            ValueError,
            "Pass `clipnorm=1.0` to `MultiGroupOptimizer`",
        ),
        (0.1, TypeError, "`optimizer` should be a Keras optimizer, its name or .*optimizer=0.1"),
        (
            ["sgd"] * 3,
            TypeError,
            r"should hold the optimizers themselves.*Give `keras.optimizers.get\('sgd'\)`",
        ),
        ([keras.optimizers.SGD] * 3, TypeError, "should be a `keras.optimizers.Optimizer`"),
        (
            lambda: [keras.optimizers.SGD(name="s") for _ in range(2)],
            ValueError,
            r"for each of the 3 groups. Received 2: \['s', 's'\]",
        ),
        (lambda: [keras.optimizers.SGD(name="s")] * 3, ValueError, "one optimizer of its own for"),
        (lambda: [], ValueError, "Received 0"),
        (in_use, ValueError, "Optimizer '(?i:sgd).*' is in use already: .*Give a new optimizer"),
        (of_another_wrapper, ValueError, r"is in use already: .*another wrapper"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            TypeError,
            "A `LossScaleOptimizer` cannot be an inner optimizer",
        ),
        (
            lambda: MultiGroupOptimizer([LayerGroup("g", ("a",))], 0.1),
            TypeError,
            "A `MultiGroupOptimizer` cannot be an inner optimizer",
        ),
        (
            lambda: newer_optimizer("MultiOptimizer", [(keras.optimizers.SGD(), ".*")]),
            TypeError,
            "A `MultiOptimizer` cannot be an inner optimizer",
        ),
        *(
            (
                lambda name=name, value=value: keras.optimizers.SGD(name="s", **{name: value}),
                ValueError,
                f"Optimizer 's' asks for {name}={value}, .*Pass `{name}={value}` to `MultiGroupOp",
            )
            for name, value in {
                "clipnorm": 1.0,
                "clipvalue": 1.0,
                "global_clipnorm": 1.0,
                "use_ema": True,
                "loss_scale_factor": 2.0,
                "gradient_accumulation_steps": 2,
            }.items()
        ),
    ],
)
def test_wrong_optimizers(optimizer, error, message):
    if callable(optimizer):
        optimizer = optimizer()
    with pytest.raises(error, match=message):
        MultiGroupOptimizer(GROUPS, 0.1, optimizer)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        with pytest.raises(error, match=message):
            MultiGroupOptimizer(
                GROUPS, 0.1, [optimizer, *(keras.optimizers.SGD() for _ in range(2))]
            )


@keras.saving.register_keras_serializable(package="test_inner_optimizers", name="Own")
class OwnOptimizer(keras.optimizers.SGD):
    pass


def test_the_name_of_a_custom_class_is_found_as_keras_finds_it():
    with keras.saving.custom_object_scope({"OwnOptimizer": OwnOptimizer}):
        optimizer = MultiGroupOptimizer(GROUPS, 0.1, "OwnOptimizer")
    assert {type(inner) for inner in optimizer.group_optimizers} == {OwnOptimizer}


def test_the_default_has_a_name():
    optimizer = MultiGroupOptimizer(GROUPS, 0.1, "FusedAdam")
    assert {type(inner).__name__ for inner in optimizer.group_optimizers} == {"FusedAdam"}


@pytest.mark.parametrize("name", [3, None])
def test_a_configuration_whose_class_has_no_name_is_refused(name):
    with pytest.raises(ValueError, match="cannot make an optimizer from this configuration"):
        MultiGroupOptimizer(GROUPS, 0.1, {"class_name": name, "config": {}})


def test_a_muon_that_cannot_take_a_step_is_refused(monkeypatch):
    """That of Keras 3.12 and before."""
    monkeypatch.setattr(_keras, "muon_works", lambda: False)
    with pytest.raises(ValueError, match=r"`Muon` of Keras .* fails .*keras>=3\.13"):
        MultiGroupOptimizer(GROUPS, 0.1, keras.optimizers.Muon())
