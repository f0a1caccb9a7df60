"""The models of keras.applications: their sizes, preprocessing and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dlr_tf.app import applications

SIZE = 32


@pytest.fixture(scope="module")
def mobile_net() -> keras.Model:
    keras.utils.set_random_seed(2)
    return applications.application_model("MobileNetV2", 4, weights="none", image_size=SIZE)


@pytest.fixture(scope="module")
def weights_file(mobile_net: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "body.weights.h5"
    backbone(mobile_net).save_weights(path)
    return path


def backbone(model: keras.Model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def test_every_application_has_a_size_and_its_own_preprocessing() -> None:
    names = applications.application_names()
    assert {"ResNet50", "VGG16", "ConvNeXtTiny", "NASNetMobile", "Xception"} <= set(names)
    assert set(applications._IMAGE_SIZES) <= set(names)
    pixels = np.full((1, 2, 2, 3), 255.0, "float32")
    seen = {}
    for name in names:
        assert 224 <= applications.default_image_size(name) <= 600
        function, preprocess = applications._application(name)
        assert function is getattr(keras.applications, name)
        seen[name] = float(np.max(preprocess(pixels.copy())))
    # Scaled to [-1, 1]; mean subtracted; mean and deviation of ImageNet; inside the model.
    assert seen["MobileNetV2"] == seen["ResNet50V2"] == seen["Xception"] == 1.0
    assert seen["ResNet50"] == seen["VGG16"] == pytest.approx(255 - 103.939)
    assert seen["DenseNet121"] == pytest.approx((1 - 0.406) / 0.225)
    assert seen["EfficientNetB0"] == seen["ConvNeXtTiny"] == seen["MobileNetV3Small"] == 255.0


def test_application_model_takes_raw_images(mobile_net: keras.Model) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")
    features = backbone(mobile_net)(images / 127.5 - 1.0, training=False)
    logits = np.mean(features, axis=(1, 2)) @ mobile_net.get_layer("probabilities").get_weights()[0]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mobile_net(images, training=False), expected, rtol=1e-4)


def test_weights_from_a_file(weights_file: Path, mobile_net: keras.Model) -> None:
    loaded = applications.application_model(
        "MobileNetV2", 2, weights=str(weights_file), image_size=SIZE
    )
    for ours, theirs in zip(backbone(loaded).weights, backbone(mobile_net).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["MobileNet", "VGG16"])
def test_weights_of_another_model(weights_file: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"does not hold the weights of {name} without its top"):
        applications.application_model(name, 2, weights=str(weights_file), image_size=SIZE)


def test_a_weights_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    path.write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match="does not hold the weights of MobileNetV2"):
        applications.application_model("MobileNetV2", 2, weights=str(path), image_size=SIZE)
    with pytest.raises(ValueError, match=r"weights file 'missing\.h5' does not exist"):
        applications.application_model("MobileNetV2", 2, weights="missing.h5", image_size=SIZE)


def test_unknown_model() -> None:
    with pytest.raises(ValueError, match=r"no model 'mobilenet-v2' .* Did you mean 'MobileNetV2'"):
        applications.default_image_size("mobilenet-v2")
    with pytest.raises(ValueError, match=r"no model 'xyz' in keras\.applications\. Known: ConvN"):
        applications.application_model("xyz", 2)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**arguments: Any) -> keras.Model:
        raise Exception(f"URL fetch failure on {arguments['weights']}")  # as Keras does

    offline.__module__ = "keras.src.applications.mobilenet_v2"
    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    with pytest.raises(ValueError, match=r"of MobileNetV2 could not be downloaded\. .* 'none'"):
        applications.application_model("MobileNetV2", 2)


def test_images_too_small_for_the_model() -> None:
    with pytest.raises(ValueError, match=r"of 8 x 8 pixels: .* at least 32x32.* Give a larger"):
        applications.application_model("MobileNetV2", 2, weights="none", image_size=8)


def test_one_class_is_none() -> None:
    with pytest.raises(ValueError, match="at least 2: .* Received: n_classes=1"):
        applications.application_model("MobileNetV2", 1, weights=None, image_size=SIZE)
