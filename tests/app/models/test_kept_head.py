"""Heads that stay, and the order of their outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from app_helpers import write_class_names
from model_helpers import NAMES, POOL, SIZE, body, dense, functional, images, nested, opened

from dlr_tf.app import models
from dlr_tf.app.run.tasks import split_task
from dlr_tf.core.model_graph import output_activations
from dlr_tf.core.model_tree import leaf_layers

# The ends of a network for three classes, and whether a softmax is missing.
KEPT_ENDS: dict[str, tuple[list[Any], bool]] = {
    "softmax": ([dense("softmax", 3)], False),
    "logits": ([dense(None, 3)], True),
    "softmax operation": ([dense(None, 3), keras.ops.softmax], False),
    "softmax function": ([dense(None, 3), keras.activations.softmax], False),
    "log_softmax": ([dense(None, 3), keras.ops.log_softmax], True),
    "temperature": ([dense(None, 3), lambda x: x / 2.0], True),
}


@pytest.mark.parametrize("kind", KEPT_ENDS)
def test_a_head_is_kept(kind: str) -> None:
    end, needs_softmax = KEPT_ENDS[kind]
    model = functional([*body(), POOL(), *end])
    write_class_names(Path("classes.json"), NAMES)
    source = opened(model, keep_head=True)
    assert source.kept_classes == tuple(NAMES)
    assert source.note == (
        "the head of 'net.keras' is kept; its outputs are the classes ['cat', 'dog', 'eel']"
    )
    built = source.build(NAMES)
    x = images(2, SIZE, SIZE, 3)
    expected = model(x, training=False)
    if needs_softmax:
        expected = keras.ops.softmax(expected)
    np.testing.assert_allclose(built(x, training=False), expected, rtol=1e-5)
    assert output_activations(built) == ("softmax",)
    assert models.head_paths(built) == ["net/old_head"]
    groups = split_task(built, 3)
    assert [layer for layer in groups[-1].layers if "old_head" in layer] == ["net/old_head"]
    with pytest.raises(ValueError, match="gives 3 outputs and DATA has 2 classes. Leave --keep-h"):
        source.build(NAMES[:2])


def test_a_kept_head_without_names_has_numbers_as_classes() -> None:
    model = functional([*body(), POOL(), dense(units=12)])
    source = opened(model, keep_head=True)
    assert source.kept_classes == tuple(str(number) for number in range(12))
    assert "its outputs are the classes ['0', '1', " in source.note
    x = images(2, SIZE, SIZE, 3)
    for names in (
        [str(number) for number in range(12)],
        sorted(str(number) for number in range(12)),  # 0, 1, 10, 11, 2, ...
        [f"{number:02}" for number in range(12)],
    ):
        expected = np.asarray(model(x))[:, [int(name) for name in names]]
        np.testing.assert_allclose(source.build(names)(x), expected, rtol=1e-5)


@pytest.mark.parametrize("names", [NAMES, ["1", "2", "3"], ["0", "0.5", "1"]])
def test_classes_that_a_kept_head_does_not_name_are_asked_for(names: list[str]) -> None:
    source = opened(functional([*body(), POOL(), dense(units=3)]), keep_head=True)
    message = (
        "It is not known which output .* is which class. Write .*'classes.json', in the order of "
        rf"the outputs; if that is the order here: \[\"{names[0]}\", \"{names[1]}\", "
    )
    with pytest.raises(ValueError, match=message):
        source.build(names)


def test_a_kept_head_has_the_classes_of_the_data() -> None:
    write_class_names(Path("classes.json"), NAMES)
    model = models.classifier(functional(body(), "body"), 3)
    source = opened(model, keep_head=True)
    assert source.kept_classes == tuple(NAMES)
    built = source.build(NAMES)
    assert [leaf.path for leaf in leaf_layers(built)] == [leaf.path for leaf in leaf_layers(model)]
    with pytest.raises(ValueError, match=r"knows the classes \['cat', .* has \['cat', 'eel'"):
        source.build(["cat", "eel", "fox"])
    Path("classes.json").write_text(json.dumps({"cat": 0}))
    with pytest.raises(ValueError, match="'classes.json' should hold a JSON list of the names"):
        opened(model, keep_head=True)
    write_class_names(Path("classes.json"), NAMES[:2])
    with pytest.raises(ValueError, match="gives 3 outputs, and 'classes.json' names 2 classes"):
        opened(model, keep_head=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.classifier(functional([*body(), POOL()], "body"), 3),
        lambda: functional([*body(), POOL(), keras.layers.Dropout(0.5), dense(units=3)]),
        lambda: functional([*body(), POOL(), dense(None, 3), lambda x: keras.ops.softmax(x)]),
        lambda: nested([dense(units=3)]),
    ],
)
def test_the_outputs_of_a_kept_head_follow_the_classes_of_the_data(
    make: Callable[[], keras.Model],
) -> None:
    model = make()
    write_class_names(Path("classes.json"), ["eel", "cat", "dog"])
    built = opened(model, keep_head=True).build(NAMES)
    x = images(2, SIZE, SIZE, 3)
    np.testing.assert_allclose(
        built(x, training=False), np.asarray(model(x, training=False))[:, [1, 2, 0]], rtol=1e-4
    )
    assert output_activations(built) == ("softmax",)
    n_dropouts = [
        sum(isinstance(leaf.layer, keras.layers.Dropout) for leaf in leaf_layers(one))
        for one in (built, model)
    ]
    assert n_dropouts[0] == n_dropouts[1]


def test_a_head_whose_outputs_cannot_be_reordered() -> None:
    write_class_names(Path("classes.json"), ["eel", "cat", "dog"])
    end = [keras.layers.Conv2D(3, 1), POOL(), keras.layers.Softmax()]
    source = opened(functional([*body(), *end]), keep_head=True)
    message = r"\['eel', 'cat', 'dog'\], and DATA has \['cat', .* another order"
    with pytest.raises(ValueError, match=message):
        source.build(NAMES)
    source.build(["eel", "cat", "dog"])


ONE_UNIT: dict[str, list[Any]] = {
    "sigmoid": [dense("sigmoid", 1)],
    "sigmoid operation": [dense(None, 1), keras.ops.sigmoid],
    "logit": [dense(None, 1)],
    "dropout": [keras.layers.Dropout(0.5), dense("sigmoid", 1)],
}


def test_one_unit_of_a_sequential_model_is_kept() -> None:
    model = keras.Sequential([*body(), POOL(), dense("sigmoid", units=1)])
    write_class_names(Path("classes.json"), ["no", "yes"])
    assert opened(model, keep_head=True).build(["no", "yes"]).output_shape == (None, 2)


@pytest.mark.parametrize("kind", ONE_UNIT)
def test_one_unit_for_two_classes_is_kept(kind: str) -> None:
    model = functional([*body(), POOL(), *ONE_UNIT[kind]])
    write_class_names(Path("classes.json"), ["no", "yes"])
    source = opened(model, keep_head=True)
    assert "one unit for two classes" in source.note
    x = images(2, SIZE, SIZE, 3)
    yes = np.asarray(model(x, training=False))
    if kind == "logit":
        yes = 1 / (1 + np.exp(-yes))
    expected = np.concatenate([1 - yes, yes], axis=1)
    for names, order in ((["no", "yes"], [0, 1]), (["yes", "no"], [1, 0])):
        built = source.build(names)
        np.testing.assert_allclose(built(x, training=False), expected[:, order], rtol=1e-4)
        assert output_activations(built) == ("softmax",)
        assert models.head_paths(built) == ["net/old_head"]
