"""The models of keras.applications: their sizes, preprocessing and weights."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from dlr_tf.app.models import applications

SIZE = 16


def backbone(model: keras.Model) -> keras.Model:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


@pytest.fixture
def model(tiny_applications: None) -> keras.Model:
    keras.utils.set_random_seed(2)
    return applications.application_model("MobileNetV2", 4, weights="none", image_size=SIZE)


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


def check_that_raw_images_are_taken(model: keras.Model, size: int) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype("float32")
    features = backbone(model)(images / 127.5 - 1.0, training=False)
    logits = np.mean(features, axis=(1, 2)) @ model.get_layer("probabilities").get_weights()[0]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-4)


def check_weights_from_a_file(model: keras.Model, size: int) -> None:
    backbone(model).save_weights("body.weights.h5")
    loaded = applications.application_model(
        "MobileNetV2", 2, weights="body.weights.h5", image_size=size
    )
    for ours, theirs in zip(backbone(loaded).weights, backbone(model).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="does not hold the weights of VGG16 without its top"):
        applications.application_model("VGG16", 2, weights="body.weights.h5", image_size=size)


def test_application_model_takes_raw_images(model: keras.Model) -> None:
    check_that_raw_images_are_taken(model, SIZE)


def test_weights_from_a_file(model: keras.Model) -> None:
    check_weights_from_a_file(model, SIZE)


@pytest.mark.slow
def test_a_model_of_keras() -> None:
    keras.utils.set_random_seed(2)
    model = applications.application_model("MobileNetV2", 4, weights="none", image_size=32)
    check_that_raw_images_are_taken(model, 32)
    check_weights_from_a_file(model, 32)
    with pytest.raises(ValueError, match="does not hold the weights of MobileNet without its top"):
        applications.application_model("MobileNet", 2, weights="body.weights.h5", image_size=32)
    with pytest.raises(ValueError, match=r"of 8 x 8 pixels: .* at least 32x32.* Give a larger"):
        applications.application_model("MobileNetV2", 2, weights="none", image_size=8)


def test_a_weights_file_that_is_none(tiny_applications: None) -> None:
    Path("x.weights.h5").write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match="does not hold the weights of MobileNetV2"):
        applications.application_model("MobileNetV2", 2, weights="x.weights.h5", image_size=SIZE)
    with pytest.raises(ValueError, match=r"weights file 'missing\.h5' does not exist"):
        applications.application_model("MobileNetV2", 2, weights="missing.h5", image_size=SIZE)


@pytest.mark.parametrize("name", ["mobilenet-v2", "MOBILENETV", "MobilNetV2"])
def test_unknown_model(name: str) -> None:
    message = rf"no model '{name}' in keras\.applications\. Did you mean 'MobileNetV2'\?"
    with pytest.raises(ValueError, match=message):
        applications.application_name(name)
    with pytest.raises(ValueError, match=message):
        applications.default_image_size(name)


def test_at_most_ten_models_are_named() -> None:
    message = (
        r"no model 'xyz' in keras\.applications\. Known: \['ConvN.*'EfficientNetB1', and \d+ more"
    )
    with pytest.raises(ValueError, match=message) as caught:
        applications.application_model("xyz", 2)
    assert str(caught.value).count("'") == 2 * (1 + 10)


def test_weights_that_cannot_be_downloaded(tiny_applications: None) -> None:
    with pytest.raises(ValueError, match=r"of MobileNetV2 could not be downloaded\. .* 'none'"):
        applications.application_model("MobileNetV2", 2)


def test_images_too_small_for_the_model(tiny_applications: None) -> None:
    with pytest.raises(ValueError, match=r"of 8 x 8 pixels: .* at least 16x16.* Give a larger"):
        applications.application_model("MobileNetV2", 2, weights="none", image_size=8)


def test_one_class_is_none(tiny_applications: None) -> None:
    with pytest.raises(ValueError, match="at least 2: .* Received: n_classes=1"):
        applications.application_model("MobileNetV2", 1, weights=None, image_size=SIZE)
