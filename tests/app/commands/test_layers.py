"""The command `layers`: blocks, suggested boundaries, and the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from dlr_tf import split_layers
from dlr_tf.app import cli
from dlr_tf.app.commands.layers import (
    Row,
    layer_rows,
    layer_table,
    merge_blocks,
    suggest_boundaries,
)
from dlr_tf.app.models import open_source
from dlr_tf.app.run.tasks import split_task


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["layers", *arguments]) == 0
    return capsys.readouterr().out


def test_a_short_model_layer_by_layer(
    tiny_applications: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = listed(capsys, "mobilenetv2", "--image-size", "16")
    assert out.splitlines() == [
        "MobileNetV2, images of 16 x 16, a head for 10 classes: 7 layers, 420 parameters",
        "layer           output  parameters  group",
        "resizing       16x16x3           0      0",
        "stem             7x7x4         112      0",
        "norm             7x7x4          16      0",
        "top              3x3x6         222      1",
        "pooling              6           0      1",
        "dropout              6           0      1",
        "probabilities       10          70   head",
        "to cut it into groups of about equal sizes, the last one the head alone:",
        "  2 groups  --boundaries probabilities",
        "  3 groups  --boundaries top,probabilities",
        "  4 groups  --boundaries norm,top,probabilities",
    ]


def test_groups_follow_the_boundaries(
    tiny_applications: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = listed(capsys, "MobileNetV2", "--image-size", "16", "--boundaries", "norm,top")
    assert re.findall(r"^(\w+) .* (\w+)$", out, re.MULTILINE)[2:6] == [
        ("stem", "0"),
        ("norm", "1"),
        ("top", "2"),
        ("pooling", "2"),
    ]


def test_the_network_for_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    out = listed(capsys)
    assert out.startswith("the network for the digits of scikit-learn: ")
    assert "\nconv_3 " in out
    assert "4 groups  --boundaries conv_3,conv_4,probabilities\n" in out


def test_a_file_with_its_own_head(capsys: pytest.CaptureFixture[str]) -> None:
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, "softmax", name="mine")]
    keras.Sequential([keras.Input((4, 4, 3)), *layers], name="net").save("net.keras")
    out = listed(capsys, "net.keras", "--keep-head")
    assert out.startswith("net.keras, images of 4 x 4, its own head for 3 classes: ")
    assert re.search(r"\nmine +3 +147 +head\n", out)
    assert "probabilities" not in out


def test_a_run_has_as_many_classes_as_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    layers = [keras.layers.Flatten(), keras.layers.Dense(8, "softmax", name="mine")]
    keras.Sequential([keras.Input((4, 4, 3)), *layers], name="net").save("run/model.keras")
    out = listed(capsys, "run")
    assert "images of 4 x 4, a head for 8 classes: " in out
    assert re.search(r"\nprobabilities +8 +392 +head\n", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilnet"], "Did you mean 'MobileNet'"),
        (["missing.keras"], "'missing.keras' does not exist"),
        (["--image-size", "8"], "--image-size needs MODEL"),
        (["MobileNetV2", "--keep-head"], "--keep-head is for a .keras file"),
        (["MobileNetV2", "--image-size", "16", "--boundaries", "stm"], "Did you mean 'stem'"),
        (["MobileNetV2", "--image-size", "16", "--groups", "9"], "at most 3 groups"),
    ],
)
def test_mistakes(
    tiny_applications: None,
    assert_mistake: Callable[[list[str], str], None],
    arguments: list[str],
    message: str,
) -> None:
    assert_mistake(["layers", *arguments], message)


def test_errors_of_boundaries_name_this_command(
    tiny_applications: None,
    image_folder: Callable[..., Path],
    assert_mistake: Callable[[list[str], str], None],
) -> None:
    pytest.importorskip("matplotlib")
    image_folder("photos")
    task = ["finetune", "photos", "--weights", "none", "--image-size", "16"]
    hint = ". See the layers with: dlr-tf layers MobileNetV2 --image-size 16"
    assert_mistake([*task, "--boundaries", "stm"], hint)
    assert_mistake([*task, "--groups", "9"], hint)


def row(name: str, block: object, n_parameters: int = 1, **others: Any) -> Row:
    return Row(name, (4, 4, 1), 1, n_parameters, (0,), block, **others)


def test_blocks() -> None:
    rows = [
        row("resizing", None, 0),
        row("stem", 8),
        row("relu", None, 0),
        row("block_1_a", "block_1"),
        row("block_1_b", "block_1"),
        row("add", None, 0),
        row("block_2_a", "block_2"),
        row("top", 4),
        row("pooling", None, 0),
        row("head", 0, 5, is_head=True),
    ]
    found = [(merged.name, merged.n_layers, merged.n_parameters) for merged in merge_blocks(rows)]
    assert found == [
        ("resizing", 3, 1),
        ("block_1_a", 3, 2),
        ("block_2_a", 1, 1),
        ("top", 2, 1),
        ("head", 1, 5),
    ]


def test_suggested_boundaries() -> None:
    rows = [row(name, None, count) for name, count in zip("abcde", (5, 0, 1, 4, 9))]
    assert suggest_boundaries(rows, 2) == ["e"]
    assert suggest_boundaries(rows, 3) == ["c", "e"]
    assert suggest_boundaries(rows, 4) == ["c", "d", "e"]
    assert suggest_boundaries(rows, 5) == []


def test_the_table() -> None:
    rows = [
        Row("a" * 60, (112, 112, 2048), 12, 348_168_458, (0,)),
        Row("b", (None, None, 3), 1, 5, (0, 1)),
        Row("head", (10,), 1, 5, (2,)),
    ]
    lines = [line.split() for line in layer_table(rows, 3).splitlines()]
    assert lines[0] == ["first", "layer", "output", "layers", "parameters", "group"]
    assert lines[1] == ["a" * 60, "112x112x2048", "12", "348,168,458", "0"]
    assert lines[2] == ["b", "?x?x3", "1", "5", "0-1"]
    assert lines[3] == ["head", "10", "1", "5", "head"]
    assert layer_table(rows[1:], 3).split()[:4] == ["layer", "output", "parameters", "group"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "block"),
    [("MobileNetV2", "block_12_expand"), ("ResNet50", "conv4_block1_1_conv"), ("VGG16", "block4")],
)
def test_models_of_keras(name: str, block: str) -> None:
    source = open_source(name.upper(), weights="none", image_size=32)
    model = source.build(["a", "b"])
    assert len(split_task(model, 3)) == 3
    blocks = merge_blocks(layer_rows(model, split_task(model, 3)))
    assert 6 <= len(blocks) <= 24
    assert any(merged.name.startswith(block) for merged in blocks)
    for n_groups in (2, 3, 4):
        boundaries = suggest_boundaries(blocks, n_groups)
        assert len(split_layers(model, boundaries)) == n_groups
        assert len(split_task(model, 3, boundaries)) == n_groups
