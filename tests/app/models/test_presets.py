"""Presets of KerasHub."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
from model_helpers import NAMES, SIZE, images

from dlr_tf.app import models


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
