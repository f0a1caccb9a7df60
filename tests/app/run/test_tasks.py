"""The task of a command: groups with the head alone in the last, and their rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from dlr_tf import LayerGroup
from dlr_tf.app import data, models
from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.run import tasks
from dlr_tf.app.run.tasks import load_task, parse_rates, rates_of_groups, split_task


@pytest.fixture(scope="module")
def model() -> keras.Model:
    backbone = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(4, name="early"),
            keras.layers.Dense(4, name="late"),
            keras.layers.ReLU(name="relu"),
        ],
        name="backbone",
    )
    return models.classifier(backbone, 2)


@pytest.mark.parametrize(
    ("boundaries", "names"),
    [
        (["late"], ["group_0", "group_1", "head"]),
        (["backbone/late"], ["group_0", "group_1", "head"]),
        ([], ["group_0", "head"]),
    ],
)
def test_the_head_becomes_a_group_of_its_own(
    model: keras.Model, boundaries: list[str], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    groups = split_task(model, 3, boundaries)
    assert [group.name for group in groups] == names
    assert groups[-1].layers == ("probabilities",)
    assert capsys.readouterr().err == (
        "the head, layer 'probabilities', becomes a group of its own, which makes "
        f"{len(names)} groups: {names}\n"
    )


@pytest.mark.parametrize("boundary", ["probabilities", "dropout", "relu"])
def test_a_head_of_its_own_stays(
    model: keras.Model, boundary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Layers without weights may stand before the head.
    groups = split_task(model, 3, ["late", boundary])
    assert [group.name for group in groups] == ["group_0", "group_1", "head"]
    assert groups[-1].layers[-1] == "probabilities"
    assert capsys.readouterr().err == ""


def test_groups_by_number(model: keras.Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert [group.layers[-1] for group in split_task(model, 3)][-1] == "probabilities"
    assert capsys.readouterr().err == ""
    assert [group.name for group in split_task(model, 1)] == ["group_0", "head"]
    assert "makes 2 groups: ['group_0', 'head']" in capsys.readouterr().err


@pytest.mark.parametrize("n_layers", [3, 2, 1])
def test_a_small_network_has_fewer_groups_by_default(n_layers: int) -> None:
    body = [keras.layers.Dense(4) for _ in range(n_layers - 1)]
    small = keras.Sequential([keras.Input((8,)), *body, keras.layers.Dense(2, "softmax")])
    assert len(split_task(small, parse_arguments(["finetune"]).groups)) == n_layers


@pytest.mark.parametrize(
    ("n_groups", "boundaries", "message"),
    [
        (9, None, "can be cut into at most 3 groups: .* Received: --groups 9"),
        (3, ["lat"], "Did you mean 'late'"),
        (3, ["late", "early"], "out of order"),
        (3, ["late", "late"], "would have no weights"),
    ],
)
def test_groups_that_cannot_be(
    model: keras.Model, n_groups: int, boundaries: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split_task(model, n_groups, boundaries)


def groups_named(*names: str) -> list[LayerGroup]:
    return [LayerGroup(name, (name,)) for name in names]


def test_rates() -> None:
    groups = groups_named("a", "b", "head")
    assert rates_of_groups(parse_rates("1e-4:1e-2"), groups) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert rates_of_groups(parse_rates(":0.1"), groups) == pytest.approx([0.01, 0.01, 0.1])
    assert rates_of_groups(parse_rates("0.1"), groups) == [0.1, 0.1, 0.1]
    assert rates_of_groups(parse_rates("0.1,0,0.3"), groups) == [0.1, 0.0, 0.3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "should be auto, LO:HI, :HI, one number.* Received: --learning-rate fast"),
        ("1e-3:", "should be auto, LO:HI, :HI, one number"),
        ("1,,2", "should be auto, LO:HI, :HI, one number"),
        ("-1e-3", "finite"),
        ("nan", "finite"),
        ("0.1,-1", "finite"),
        ("0:1", "both should be above 0"),
        ("0", "nothing learns at 0. Received: --learning-rate 0"),
        ("0,0", "nothing learns at 0"),
    ],
)
def test_rates_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_rates(text)


def test_rates_that_are_chosen() -> None:
    assert rates_of_groups(parse_rates("auto"), groups_named("a", "head")) is None


def test_a_mistake_is_found_before_the_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")

    def pretrain(*_: object, **__: object) -> None:
        raise AssertionError("pretrained")

    monkeypatch.setattr(tasks, "pretrain_on_digits", pretrain)
    for options, message in (
        (["--learning-rate", "1,2"], "There are 3 groups"),
        (["--boundaries", "conv"], "Did you mean 'conv_"),
        (["--groups", "99"], "can be cut into at most"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task(parse_arguments(["finetune", *options]))


def test_a_list_of_rates_has_one_per_group() -> None:
    groups = groups_named("group_0", "group_1", "head")
    message = (
        r"There are 3 groups: \['group_0', 'group_1', 'head'\]. Received: 2 rates, \[0.1, 0.2\]"
    )
    with pytest.raises(ValueError, match=message):
        rates_of_groups(parse_rates("0.1,0.2"), groups)
    many = groups_named(*(f"group_{number}" for number in range(40)))
    with pytest.raises(ValueError, match=r"'group_9', and 30 more\]. Received: 2 rates"):
        rates_of_groups(parse_rates("0.1,0.2"), many)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--boundaries", "stm"], "Did you mean 'stem'"),
        (["--groups", "9"], "can be cut into at most 3 groups"),
        (["--learning-rate", "1,2"], "There are 3 groups"),
        (["--image-size", "8"], "8 x 8 pixels: Input size must .*[^.]\\. Give a larger --i"),
        (["--model", "mobilnetv2"], "Did you mean 'MobileNetV2'"),
        (["--weights", "missing.h5"], "weights file 'missing.h5' does not exist"),
    ],
)
def test_mistakes_are_found_before_images_are_read(
    tiny_applications: None,
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(data, "load", read)
    image_folder("images")
    argv = ["finetune", "images", "--weights", "none", "--image-size", "16", *options]
    with pytest.raises(ValueError, match=message):
        load_task(parse_arguments(argv))


def test_a_folder_with_an_application(
    tiny_applications: None,
    image_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    image_folder("images")
    argv = ["find-lr", "images", "--weights", "none", "--seed", "3"]
    task = load_task(parse_arguments(argv))
    # The size that the model was made for.
    assert task.source == {"model": "MobileNetV2", "weights": "none", "image_size": 224}
    assert task.data.image_shape == (224, 224, 3)
    assert task.model.output_shape == (None, 2)
    assert [group.name for group in task.groups] == ["group_0", "group_1", "head"]
    assert task.rates is None
    assert task.ratios == pytest.approx([0.1, 0.1**0.5, 1.0])
    assert task.pretraining_accuracy is None
    assert capsys.readouterr().err.endswith(
        "images: 8 training images, 2 test images, 2 classes\n"
        "class    train  test\n"
        "class_0      4     1\n"
        "class_1      4     1\n"
    )


def test_options_for_images_reach_the_data(
    tiny_applications: None,
    image_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("PIL")
    (image_folder("images") / "class_0" / "000.png").write_bytes(b"")
    argv = ["finetune", "images", "--weights", "none", "--image-size", "16"]
    with pytest.raises(ValueError, match=r"1 file of the data 'images' cannot be read, for the"):
        load_task(parse_arguments(argv))
    assert "images/class_0/000.png: it is empty, no image" in capsys.readouterr().err
    config = parse_arguments([*argv, "--skip-broken", "--augment", "colour"])
    config = dataclasses.replace(config, validation_fraction=0.25)
    changed = load_task(config).data
    err = capsys.readouterr().err
    assert "images: 1 file left out (--skip-broken)\n" in err
    assert "images: 5 training images, 2 validation images, 2 test images, 2 classes\n" in err
    assert "class    train  validation  test\nclass_0      2           1     1\n" in err
    plain = load_task(dataclasses.replace(config, augment="none")).data
    (one, labels), (other, other_labels) = (
        next(iter(task)) for task in (changed.train, plain.train)
    )
    np.testing.assert_array_equal(labels, other_labels)
    assert not np.allclose(one, other)
