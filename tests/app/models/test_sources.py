"""What a name of a model stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_helpers import NAMES, POOL, body, functional

from dlr_tf.app import models


def test_a_folder_with_a_model_is_a_model() -> None:
    Path("run").mkdir()
    functional([*body(), POOL()]).save("run/model.keras")
    assert models.open_source("run").name == "run/model.keras"


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
