"""The network to start from: names, `.keras` files and their heads, presets of KerasHub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf import MultiGroupOptimizer, split_layers
from dlr_tf.app import models
from dlr_tf.app.models.heads import features_of
from dlr_tf.app.models.inputs import raw_images
from dlr_tf.app.models.trained import write_class_names
from dlr_tf.app.run.tasks import split_task
from dlr_tf.core.model_graph import output_activations
from dlr_tf.core.model_tree import leaf_layers
from dlr_tf.training.compiling import compile_groups

NAMES = ["cat", "dog", "eel"]
SIZE = 12


def body(size: int | None = SIZE, channels: int = 3) -> list[Any]:
    return [
        keras.Input((size, size, channels), name="pixels"),
        keras.layers.Rescaling(1 / 255, name="scaled"),
        keras.layers.Conv2D(4, 3, strides=2, name="stem"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Conv2D(6, 3, activation="relu", name="top"),
    ]


POOL = keras.layers.GlobalAveragePooling2D


def dense(activation: str | None = "softmax", units: int = 5) -> keras.layers.Layer:
    return keras.layers.Dense(units, activation=activation, name="old_head")


def functional(layers: list[Any], name: str = "net") -> keras.Model:
    inputs, *layers = layers
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def nested(end: list[Any]) -> keras.Model:
    """The head is the last layer of a model inside the model."""
    inner = functional([*body(), POOL(name="pool"), *end], name="inner")
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, inner(inputs / 2.0), name="outer")


# Each with the head that should be replaced, and with what stands before it.
WITH_HEAD: dict[str, Callable[[], keras.Model]] = {
    "sequential": lambda: keras.Sequential([*body(), POOL(), dense()], name="net"),
    "functional": lambda: functional([*body(), POOL(), dense()]),
    "logits": lambda: functional([*body(), POOL(), dense(None)]),
    "sigmoid": lambda: functional([*body(), POOL(), dense("sigmoid", units=1)]),
    "softmax layer": lambda: functional([*body(), POOL(), dense(None), keras.layers.Softmax()]),
    "dropout": lambda: functional([*body(), POOL(), keras.layers.Dropout(0.5), dense()]),
    "convolution": lambda: functional(
        [*body(), keras.layers.Conv2D(5, 1, name="old_head"), POOL(), keras.layers.Softmax()]
    ),
    "nested": lambda: nested([dense()]),
    "nested logits": lambda: nested([dense(None), keras.layers.Activation("softmax")]),
    "backbone and head": lambda: keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), functional(body(), "body"), POOL(), dense()]
    ),
    "head in a model of its own": lambda: keras.Sequential(
        [
            functional([*body(), POOL()], "body"),
            keras.Sequential([keras.Input((6,)), keras.layers.Dense(7, name="mid"), dense()]),
        ]
    ),
}
WITHOUT_HEAD: dict[str, Callable[[], keras.Model]] = {
    "feature maps": lambda: functional(body()),
    "pooled": lambda: functional([*body(), POOL()]),
    "relu": lambda: functional([*body(), POOL(), keras.layers.Dense(7, "relu", name="embedding")]),
    "sum": lambda: two_branches(),
}


def two_branches(activation: str = "linear") -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Flatten()(inputs)
    branches = [keras.layers.Dense(4, name=name)(x) for name in ("left", "right")]
    x = keras.layers.Add(name="sum")(branches)
    return keras.Model(inputs, keras.layers.Activation(activation, name="last")(x))


def opened(model: keras.Model, **arguments: Any) -> models.Source:
    model.save("net.keras")
    return models.open_source("net.keras", **arguments)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_a_head_is_replaced(kind: str) -> None:
    model = WITH_HEAD[kind]()
    x = images(2, SIZE, SIZE, 3)
    source = opened(model)
    assert (
        source.note
        == "the head of 'net.keras', layer 'old_head', is replaced (--keep-head keeps it)"
    )
    assert (source.image_size, source.weights) == (SIZE, "of the file")
    built = source.build(NAMES)
    assert built.input_shape == (None, None, None, 3)
    assert built.output_shape == (None, 3)
    assert not any("old_head" in leaf.path for leaf in leaf_layers(built))
    assert models.head_paths(built) == ["probabilities"]
    # What stands before the head is the same, weights too.
    found = keras.Model(built.inputs, built.get_layer("probabilities").input)
    np.testing.assert_allclose(found(x), features_before_head(model, x), rtol=1e-5, atol=1e-5)
    assert split_task(built, 2)[-1].layers[-1] == "probabilities"
    assert built(images(1, 30, 20, 3)).shape == (1, 3)


def features_before_head(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What the layer `old_head` is called on, written down while the model runs."""
    head = next(leaf for leaf in leaf_layers(model) if leaf.layer.name == "old_head").layer
    seen: list[np.ndarray] = []
    call = head.call

    def record(features: Any, **options: Any) -> Any:
        seen.append(np.asarray(features))
        return call(features, **options)

    head.call = record
    model(x, training=False)
    (features,) = seen
    return features if features.ndim == 2 else features.mean(axis=(1, 2))


@pytest.mark.parametrize("kind", WITHOUT_HEAD)
def test_a_network_without_a_head_gets_one(kind: str) -> None:
    model = WITHOUT_HEAD[kind]()
    source = opened(model)
    assert source.note == "The model 'net.keras' ends with features: it gets a head"
    built = source.build(NAMES)
    assert built.output_shape == (None, 3)
    assert len(built.weights) == len(model.weights) + 2
    assert models.head_paths(built) == ["probabilities"]


def test_a_model_of_this_command_keeps_the_paths_of_its_layers() -> None:
    first = models.classifier(functional(body(), "body"), 5)
    built = opened(first).build(NAMES)
    assert [leaf.path for leaf in leaf_layers(built)] == [leaf.path for leaf in leaf_layers(first)]
    assert built.get_layer("resizing").height == SIZE
    assert built.output_shape == (None, 3)
    for name in ("body/stem", "body/top"):
        ours, theirs = (
            next(leaf.layer for leaf in leaf_layers(m) if leaf.path == name) for m in (built, first)
        )
        np.testing.assert_array_equal(ours.kernel, theirs.kernel)
    again = opened(built).build(NAMES)
    assert [leaf.path for leaf in leaf_layers(again)] == [leaf.path for leaf in leaf_layers(first)]


def test_a_folder_with_a_model_is_a_model() -> None:
    Path("run").mkdir()
    WITHOUT_HEAD["pooled"]().save("run/model.keras")
    assert models.open_source("run").name == "run/model.keras"


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


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.classifier(functional(body(), "body"), 3),
        lambda: functional([*body(), POOL(), dense(units=3)]),
        lambda: keras.Sequential([*body(), POOL(), dense(units=3)], name="net"),
        lambda: keras.Sequential(
            [functional(body(), "body"), keras.Sequential([POOL(), dense(units=3)])], name="net"
        ),
    ],
)
@pytest.mark.parametrize("size", [9, 20])
def test_a_convolutional_network_takes_another_size(
    make: Callable[[], keras.Model], size: int
) -> None:
    write_class_names(Path("classes.json"), NAMES)
    model = make()
    source = opened(model, image_size=size, keep_head=True)
    assert source.image_size == size
    assert f"images of 12 x 12 pixels, and is built for {size} x {size} now" in source.note
    built = source.build(NAMES)
    assert models.image_shape(built) == (size, size, 3)
    stem = next(leaf.layer for leaf in leaf_layers(built) if leaf.layer.name == "stem")
    assert stem.output.shape[1:3] == ((size - 1) // 2,) * 2
    for ours, theirs in zip(built.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The layers are the same as before, at another size.
    x = images(2, size, size, 3)
    stem, norm, top, head = (
        next(leaf.layer for leaf in leaf_layers(model) if leaf.layer.name in names)
        for names in (["stem"], ["norm"], ["top"], ["probabilities", "old_head"])
    )
    features = top(norm(stem(x / 255.0), training=False))
    expected = head(keras.ops.mean(features, axis=(1, 2)))
    np.testing.assert_allclose(built(x, training=False), expected, rtol=1e-4)
    replaced = opened(model, image_size=size).build(NAMES[:2])
    assert replaced(x).shape == (2, 2)


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Flatten(), dense()],
        [keras.layers.Reshape((9, 6)), keras.layers.GlobalAveragePooling1D(), dense()],
    ],
)
def test_a_network_that_takes_one_size_only(layers: list[Any]) -> None:
    with pytest.raises(ValueError, match="12 x 12 pixels alone: .* Leave --image-size out"):
        opened(functional([*body(), *layers]), image_size=20)


def test_only_keras_files_are_models() -> None:
    """Keras opens the old format without `safe_mode`."""
    functional([*body(), POOL(), dense()]).save("net.h5")
    message = (
        r"'net\.h5' is no \.keras file.* it in Python: "
        r"keras\.models\.load_model\(.*\)\.save\('net\.keras'\)"
    )
    with pytest.raises(ValueError, match=message):
        models.open_source("net.h5")


def test_weights_that_are_not_numbers() -> None:
    model = functional([*body(), POOL(), dense()])
    model.get_layer("old_head").bias.assign(np.full(5, np.nan))
    with pytest.raises(ValueError, match=r"'net\.keras' holds weights that are NaN: .* diverged"):
        opened(model)


def test_a_kept_head_of_raw_logits_gets_a_softmax() -> None:
    inputs, resized = raw_images((SIZE, SIZE, 3))
    network = functional([*body(), POOL(), dense(None, units=3)])
    model = keras.Model(inputs, network(resized), name="own")
    write_class_names(Path("classes.json"), NAMES)
    built = opened(model, keep_head=True).build(NAMES)
    x = images(2, SIZE + 3, SIZE, 3)
    expected = keras.ops.softmax(model(x, training=False))
    np.testing.assert_allclose(built(x, training=False), expected, rtol=1e-5)
    assert built.name == "own"
    paths = [leaf.path for leaf in leaf_layers(model)]
    assert [leaf.path for leaf in leaf_layers(built)] == [*paths, "softmax"]


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.pool, self.top = POOL(), keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.top(self.pool(x))


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, SIZE, SIZE, 3), "float32"))
    return model


def several_outputs() -> keras.Model:
    model = functional([*body(), POOL()])
    return keras.Model(model.inputs, [model.output, model.output])


def several_inputs() -> keras.Model:
    inputs = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
    return keras.Model(inputs, keras.layers.Add()(inputs))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (several_outputs, {}, "should have one output. Received: 2 outputs"),
        (several_inputs, {}, "'net.keras' should take images, .* Received: input shape"),
        (lambda: functional(body(channels=1)), {}, "Received: images with 1 channels"),
        (lambda: functional(body(size=None)), {}, "images of any size. Give --image-size"),
        (lambda: functional(body()), {"weights": "none"}, "--weights is not for a .keras file"),
        (lambda: functional(body()), {"keep_head": True}, "has no head to keep"),
        (lambda: two_branches("softmax"), {}, "from 'sum', which is not one layer with one input"),
        (
            lambda: functional([*body(), POOL(), dense("sigmoid")]),
            {"keep_head": True},
            "a head that cannot be kept: .* activation 'sigmoid'",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 9, 3)), keras.layers.Flatten()]),
            {},
            "images of 8 x 9 pixels, and images are resized to squares",
        ),
    ],
)
def test_files_that_cannot_be_used(
    model: Callable[[], keras.Model], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        opened(model(), **arguments)


def test_a_subclassed_model() -> None:
    model = subclassed()
    with pytest.raises(ValueError, match="is a subclassed model, whose head cannot be replaced"):
        features_of(model)


def test_a_size_for_a_model_that_takes_any() -> None:
    source = opened(functional([*body(size=None), POOL(), dense()]), image_size=20)
    built = source.build(NAMES)
    assert (source.image_size, built.get_layer("resizing").height) == (20, 20)


def test_files_that_cannot_be_loaded() -> None:
    Path("net.keras").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="'net.keras' cannot be loaded: expected a .keras file of"):
        models.open_source("net.keras")
    functional([*body(), POOL(), dense()]).save("net.keras")
    content = bytearray(Path("net.keras").read_bytes())
    content[len(content) // 2] ^= 255
    Path("net.keras").write_bytes(content)
    with pytest.raises(ValueError, match="'net.keras' cannot be loaded: .* Bad CRC-32"):
        models.open_source("net.keras")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="folder 'empty' holds no model.keras. Give a folder"):
        models.open_source("empty")
    for name in ("missing.keras", "some/where"):
        with pytest.raises(ValueError, match=f"model '{name}' does not exist: expected a .keras"):
            models.open_source(name)


@pytest.mark.parametrize("name", ["mobilenetv2", "MOBILENETV2"])
def test_a_name_in_any_case(tiny_applications: None, name: str) -> None:
    source = models.open_source(name, weights="none")
    assert (source.name, source.image_size, source.weights) == ("MobileNetV2", 224, "none")
    assert source.build(NAMES).output_shape == (None, 3)


def test_names_that_are_none() -> None:
    message = "no model 'mobilnet' .*Did you mean 'MobileNet'.* Or give the path of a .keras file"
    with pytest.raises(ValueError, match=message):
        models.open_source("mobilnet")
    with pytest.raises(ValueError, match="--keep-head is for a .keras file"):
        models.open_source("VGG16", keep_head=True)


def test_presets_need_keras_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match="not installed. Run: pip install keras-hub"):
        models.open_source("hub:resnet_18_imagenet")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of KerasHub itself
def test_a_preset_of_keras_hub() -> None:
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 4],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    backbone.save_to_preset("preset")
    hub.layers.ImageConverter(
        image_size=(SIZE, SIZE), scale=1 / 255, offset=[-0.5, 0.0, 0.5]
    ).save_to_preset("preset")
    source = models.open_source("hub:preset")
    assert (source.image_size, source.weights) == (SIZE, "of the preset")
    built = source.build(NAMES)
    x = images(2, SIZE, SIZE, 3)
    expected = np.mean(backbone(x / 255 + np.array([-0.5, 0.0, 0.5], "float32")), axis=(1, 2))
    pooled = keras.Model(built.inputs, built.get_layer("pooling").output)
    np.testing.assert_allclose(pooled(x, training=False), expected, rtol=1e-4, atol=1e-5)
    built.save("built.keras")
    assert models.open_source("built.keras").build(NAMES).output_shape == (None, 3)
    random = models.open_source("hub:preset", weights="none").build(NAMES)
    assert not np.allclose(random.weights[0], built.weights[0])
    with pytest.raises(ValueError, match="no preset 'resnet_18' for image classification. Did you"):
        models.open_source("hub:resnet_18")


def test_the_numbers_are_those_of_training_on_resized_images() -> None:
    model = models.classifier(functional(body(), "body"), 3)
    for shape in ((2, 7, 5, 3), (2, 40, 31, 3), (2, SIZE, SIZE, 3)):
        raw = images(*shape)
        resized = tf.image.resize(raw, (SIZE, SIZE))
        found = keras.Model(model.inputs, model.get_layer("resizing").output)(raw)
        np.testing.assert_array_equal(found, resized)
        np.testing.assert_allclose(model(raw), model(resized), rtol=1e-6)
    whole = images(1, 9, 9, 3).round()
    np.testing.assert_array_equal(model(whole.astype("uint8")), model(whole))


def test_a_call_without_a_word_on_training_is_no_training() -> None:
    model = models.classifier(functional([*body(), POOL()], "body"), 3)
    model.save("net.keras")
    raw = images(4, 30, 30, 3)
    for one in (model, keras.models.load_model("net.keras"), opened(model).build(NAMES)):
        before = one.get_weights()
        np.testing.assert_array_equal(one(raw), one(raw, training=False))
        for ours, theirs in zip(one.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        one(raw, training=True)
        assert not all(
            np.array_equal(ours, theirs)
            for ours, theirs in zip(one.get_weights(), before, strict=True)
        )


def test_resizing_is_exact_under_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs, resized = raw_images((SIZE, SIZE, 3))
        assert resized.dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
    raw = images(1, 30, 30, 3)
    found = keras.Model(inputs, resized)(raw)
    np.testing.assert_array_equal(found, tf.image.resize(raw, (SIZE, SIZE)))


def test_the_saved_model_goes_on_with_its_optimizer() -> None:
    keras.utils.set_random_seed(0)
    model = models.classifier(functional(body(), "body"), 3)
    groups = split_layers(model, ["body/top", "probabilities"])
    x, y = images(8, SIZE, SIZE, 3), np.arange(8) % 3
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    compile_groups(model, groups, [1e-4, 1e-3, 1e-2], data)
    model.fit(data, epochs=2, verbose=0, shuffle=False)
    model.save("net.keras")
    loaded = keras.models.load_model("net.keras")
    assert loaded.evaluate(data, verbose=0) == model.evaluate(data, verbose=0)
    assert isinstance(loaded.optimizer, MultiGroupOptimizer)
    assert int(loaded.optimizer.iterations.numpy()) == 4
    assert loaded.optimizer.groups == tuple(groups)
    for twin in (model, loaded):
        keras.utils.set_random_seed(1)
        twin.fit(data, epochs=1, verbose=0, shuffle=False)
    assert int(loaded.optimizer.iterations.numpy()) == 6
    # Dropout draws other numbers; what has none before it in the step is the same.
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        assert ours.shape == theirs.shape
    assert loaded.predict(images(2, 50, 40, 3), verbose=0).shape == (2, 3)
