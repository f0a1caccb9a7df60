"""A network to start from: what a name stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras

from dlr_tf.app.models.text_inputs import TextInput


@dataclasses.dataclass(frozen=True)
class Source:
    """A network to start from, which is known to exist.

    Args:
        name: What it is called, in the spelling of its library.
        weights: Where its weights come from.
        image_size: Height and width in pixels that images are resized to; `None` for texts.
        build: A function from the names of the classes to a classifier, not compiled. It takes raw
            images of any size, with values from 0 to 255, or texts. A second argument is another
            kind of target, whose names come first then.
        note: What is done to the network, to be told to the user. May be empty.
        own_classes: The number of classes of the head that is replaced; `None` if there is none.
        kept_classes: If the head stays, the names of its classes, or the indices of its outputs
            where the names are not known.
        texts: The texts that it takes; `None` if it takes images.
    """

    name: str
    weights: str
    image_size: int | None
    build: Callable[..., keras.Model]
    note: str = ""
    own_classes: int | None = None
    kept_classes: tuple[str, ...] | None = None
    texts: TextInput | None = None
