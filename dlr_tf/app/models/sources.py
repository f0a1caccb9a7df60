"""A name becomes a network to start from, which is checked before any image is read."""

from __future__ import annotations

from pathlib import Path

from dlr_tf.app.models.applications import (
    application_name,
    application_names,
    application_source,
)
from dlr_tf.app.models.keras_files import file_source
from dlr_tf.app.models.keras_hub import HUB, hub_source
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.trained import MODEL_FILE, model_path


def open_source(
    name: str,
    *,
    weights: str | None = None,
    image_size: int | None = None,
    keep_head: bool = False,
) -> Source:
    """Find the network that a name means, and check what is asked of it.

    Args:
        name: A model of `keras.applications` in upper or lower case, the path of a `.keras` file or
            of a folder with `model.keras`, or `hub:` and a preset of KerasHub.
        weights: `"imagenet"`, `"none"` (random), or a weights file of the network without its head.
            Defaults to `None`: those of ImageNet, of the file, or of the preset.
        image_size: Height and width in pixels. Defaults to those of the network.
        keep_head: Whether the head of a `.keras` file stays. Defaults to `False`: it is replaced.

    Raises:
        ValueError: If there is no such network, or it cannot be used like this.
        ImportError: If a preset is asked for, and KerasHub is not installed.
    """
    file = model_file(name)
    if file is not None:
        if weights is not None:
            raise ValueError(
                f"--weights is not for a .keras file, which has weights: leave it out. "
                f"Received: --model {name} --weights {weights}"
            )
        return file_source(file, image_size=image_size, keep_head=keep_head)
    if keep_head:
        raise ValueError(
            f"--keep-head is for a .keras file, which has a head to keep. Received: --model {name}"
        )
    if name.startswith(HUB):
        return hub_source(name, weights, image_size)
    try:
        name = application_name(name)
    except ValueError as error:
        raise ValueError(
            f"{error} Or give the path of a .keras file, or hub:NAME for a preset of KerasHub."
        ) from None
    return application_source(name, weights, image_size)


def model_file(name: str) -> Path | None:
    """Return the `.keras` file that a name means, `None` if it means something else.

    Raises:
        ValueError: If it should be a file, and there is none.
    """
    path = Path(name)
    known = [application.lower() for application in application_names()]
    if name.startswith(HUB) or (name.lower() in known and not (path / MODEL_FILE).is_file()):
        return None
    is_path = path.exists() or len(path.parts) > 1 or path.suffix in (".keras", ".h5", ".hdf5")
    return model_path(name) if is_path else None
