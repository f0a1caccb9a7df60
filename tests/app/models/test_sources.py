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
from dlr_tf.app.run.tasks import split_task
from dlr_tf.core.model_tree import leaf_layers
from dlr_tf.training import fine_tuning

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


@pytest.mark.parametrize("activation", ["softmax", None])
def test_a_head_is_kept(activation: str | None) -> None:
    model = functional([*body(), POOL(), dense(activation, units=3)])
    source = opened(model, keep_head=True)
    assert source.kept_classes == ("0", "1", "2")
    assert source.note == "the head of 'net.keras' is kept"
    built = source.build(NAMES)
    x = images(2, SIZE, SIZE, 3)
    expected = model(x, training=False)
    if activation is None:
        expected = keras.ops.softmax(expected)
    np.testing.assert_allclose(built(x, training=False), expected, rtol=1e-5)
    assert models.head_paths(built) == ["net/old_head"]
    groups = split_task(built, 3)
    assert [layer for layer in groups[-1].layers if "old_head" in layer] == ["net/old_head"]
    with pytest.raises(ValueError, match="gives 3 outputs and DATA has 2 classes. Leave --keep-h"):
        source.build(NAMES[:2])


def test_a_kept_head_has_the_classes_of_the_data() -> None:
    models.write_class_names(Path("classes.json"), NAMES)
    model = models.classifier(functional(body(), "body"), 3)
    source = opened(model, keep_head=True)
    assert source.kept_classes == tuple(NAMES)
    built = source.build(NAMES)
    assert [leaf.path for leaf in leaf_layers(built)] == [leaf.path for leaf in leaf_layers(model)]
    with pytest.raises(ValueError, match=r"knows the classes \['cat', .* has \['cat', 'eel'"):
        source.build(["cat", "eel", "dog"])
    Path("classes.json").write_text(json.dumps({"cat": 0}))
    with pytest.raises(ValueError, match="'classes.json' should hold a JSON list of the names"):
        opened(model, keep_head=True)


def test_a_kept_head_of_raw_logits_gets_a_softmax() -> None:
    inputs, resized = raw_images((SIZE, SIZE, 3))
    network = functional([*body(), POOL(), dense(None, units=3)])
    model = keras.Model(inputs, network(resized), name="own")
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
        (several_inputs, {}, "should take RGB images, .* Received: other inputs"),
        (lambda: functional(body(channels=1)), {}, "Received: images with 1 channels"),
        (lambda: functional(body(size=None)), {}, "images of any size. Give --image-size"),
        (lambda: functional(body()), {"image_size": 20}, "12 x 12 pixels alone. Leave --image"),
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
    Path("empty").mkdir()
    with pytest.raises(ValueError, match="model 'empty' holds no model.keras: expected a .keras"):
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
    fine_tuning.compile_groups(model, groups, [1e-4, 1e-3, 1e-2], data)
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
