"""Networks of KerasHub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app.models.heads import classifier
from dlr_tf.app.models.inputs import image_shape, in_size
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.texts import preset_source
from dlr_tf.app.models.weights import check_weights, load_backbone_weights
from dlr_tf.app.paths import HUB
from dlr_tf.app.terminal import one_line


def hub_source(name: str, weights: str | None, image_size: int | None) -> Source:
    """Return a preset of KerasHub as a network to start from."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            f"The model {name!r} needs KerasHub, which is not installed. Run: pip install keras-hub"
        ) from error
    check_weights(weights)
    preset = name[len(HUB) :]
    tasks = (keras_hub.models.ImageClassifier, keras_hub.models.TextClassifier)
    known = sorted(preset for task in tasks for preset in task.presets)
    is_folder = Path(preset).is_dir()
    if not is_folder and preset not in known and "/" not in preset:
        raise ValueError(
            f"KerasHub has no preset {preset!r} for the classification of images or texts."
            f"{did_you_mean(preset, known)} Known: {some_of(known)}. Or give hub: and the folder "
            "of a preset."
        )
    policy = keras.config.dtype_policy().name
    precision = {} if policy == "float32" else {"dtype": policy}  # else that of the preset
    try:
        backbone = keras_hub.models.Backbone.from_preset(
            preset, load_weights=weights in (None, "imagenet"), **precision
        )
    except Exception as error:  # whatever the library behind the preset's address raises
        raise ValueError(
            f"The preset {preset!r} of KerasHub could not be loaded. Check the network, or give "
            f"hub: and the folder of a preset. Received: {one_line(error)[:300]}"
        ) from error
    if weights not in (None, "imagenet", "none"):
        load_backbone_weights(
            backbone, weights, preset, f"keras_hub.models.Backbone.from_preset({preset!r})"
        )
    chosen = weights or "of the preset"
    if isinstance(backbone.input, dict) and "token_ids" in backbone.input:
        if image_size is not None:
            raise ValueError(
                "--image-size is for images, and the network takes texts. Received: "
                f"--model {name} --image-size {image_size}"
            )
        return preset_source(keras_hub, name, preset, backbone, chosen)
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except ValueError:  # the preset has none
        converter = None
    label = f"The preset {preset!r}"
    shape, output = image_shape(backbone, label), backbone.output
    if shape[2] != 3 or not isinstance(output, keras.KerasTensor):
        raise ValueError(f"{label} of KerasHub is not a network for images: choose another one.")
    size = image_size
    if size is None and shape[0] is None and getattr(converter, "image_size", None):
        size = converter.image_size[0]
    backbone, size = in_size(label, backbone, size)

    def preprocess(images: Any) -> Any:
        scale, offset = (
            1.0 if value is None else np.asarray(value, "float32")
            for value in (converter.scale, converter.offset)
        )
        return images * scale + (0.0 if converter.offset is None else offset)

    def build(class_names: Sequence[str], kind: str = "class") -> keras.Model:
        return classifier(
            backbone,
            len(class_names),
            preprocess=None if converter is None else preprocess,
            image_size=size,
            kind=kind,
        )

    return Source(name, chosen, size, build)
