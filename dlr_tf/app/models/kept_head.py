"""A network that keeps its head: what its outputs mean, and their order in the data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from dlr_tf._names import MAX_NAMES, some_of
from dlr_tf.app.models.examples import example_inputs
from dlr_tf.app.models.heads import CLASSES, Head, features_of
from dlr_tf.app.models.outputs import class_count, to_probabilities
from dlr_tf.app.models.trained import CLASSES_FILE, known_class_names
from dlr_tf.core.model_graph import output_activations


@dataclasses.dataclass(frozen=True)
class KeptHead:
    """A network with a head that stays.

    Args:
        label: What to call the network in an error.
        path: Its file.
        model: The network.
        known: The names of its classes, in the order of its outputs; `None` if they are not known.
        n_classes: The number of its classes.
    """

    label: str
    path: Path
    model: keras.Model
    known: tuple[str, ...] | None
    n_classes: int

    @classmethod
    def of(cls, path: Path, label: str, model: keras.Model) -> KeptHead:
        """Check that the network in a file has a head that can stay.

        Raises:
            ValueError: If it has not, or `classes.json` beside it names another number of classes.
        """
        n_classes = class_count(model)
        if n_classes is None:
            raise ValueError(
                f"{label} has no head to keep: expected one output per class. Leave --keep-head "
                f"out. Received: output shape {model.output_shape}"
            )
        (activation,) = output_activations(model) or (None,)
        if activation not in ("linear", "sigmoid" if model.output_shape[1] == 1 else "softmax"):
            raise ValueError(
                f"{label} has a head that cannot be kept: expected a softmax, one sigmoid unit, "
                f"or no activation. Leave --keep-head out. Received: activation {activation!r}"
            )
        known = known_class_names(path)
        if known is not None and len(known) != n_classes:
            raise ValueError(
                f"{label} gives {n_classes} outputs, and {str(path.parent / CLASSES_FILE)!r} names "
                f"{len(known)} classes. Correct the file."
            )
        return cls(label, path, model, known, n_classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; where they are not known, the indices of the outputs."""
        return self.known or tuple(str(index) for index in range(self.n_classes))

    @property
    def is_one_unit(self) -> bool:
        """Whether one unit tells two classes apart."""
        return self.model.output_shape[1] == 1

    def note(self) -> str:
        """Say what is kept, and which output is which class."""
        outputs = "its one unit for two classes tells" if self.is_one_unit else "its outputs are"
        return (
            f"the head of {str(self.path)!r} is kept; {outputs} the classes {some_of(self.classes)}"
        )

    def build(self, class_names: Sequence[str], wanted: Head = CLASSES) -> keras.Model:
        """Return the network with one output per class of the data, in their order.

        Raises:
            ValueError: If the classes of the data are not those of the head.
        """
        if wanted != CLASSES:
            raise ValueError(
                f"{self.label} tells classes apart, and DATA has another kind of target. Leave "
                "--keep-head out, to get a new head."
            )
        if self.n_classes != len(class_names):
            raise ValueError(
                f"{self.label} gives {self.n_classes} outputs and DATA has {len(class_names)} "
                "classes. Leave --keep-head out, to get a new head."
            )
        order = self._order(class_names)
        if order == list(range(self.n_classes)) and not self.is_one_unit:
            return self.model
        reordered = self._reordered(order)
        if reordered is None:
            raise ValueError(
                f"{self.label} knows the classes {some_of(self.classes)}, and DATA has "
                f"{some_of(class_names)}: one unit, or another order, which is possible for a head "
                "that is one dense layer alone. Leave --keep-head out, to get a new head."
            )
        return reordered

    def _order(self, class_names: Sequence[str]) -> list[int]:
        """Return the index of the output for each class of the data."""
        if self.known is not None:
            if set(self.known) != set(class_names):
                raise ValueError(
                    f"{self.label} knows the classes {some_of(self.known)}, and DATA has "
                    f"{some_of(class_names)}. Leave --keep-head out, to get a new head."
                )
            return [self.known.index(name) for name in class_names]
        if all(name.isdecimal() for name in class_names):
            indices = [int(name) for name in class_names]
            if sorted(indices) == list(range(self.n_classes)):
                return indices
        names = json.dumps(list(class_names[:MAX_NAMES]), ensure_ascii=False)
        if len(class_names) > MAX_NAMES:
            names = f"{names[:-1]}, ...]"
        raise ValueError(
            f"It is not known which output of {str(self.path)!r} is which class. Write the names "
            f"to {str(self.path.parent / CLASSES_FILE)!r}, in the order of the outputs; if that is "
            f"the order here: {names}"
        )

    def _reordered(self, order: Sequence[int]) -> keras.Model | None:
        """Return the network with a softmax over its outputs in another order.

        `None` if it cannot be built, since the head is not one dense layer, or what follows it
        differs between the outputs.
        """
        try:
            features, head = features_of(self.model, self.label, keep_dropout=True)
        except ValueError:
            return None
        if head is None or type(head) is not keras.layers.Dense:
            return None
        settings = {"units": len(order), "activation": "softmax"}
        dense = keras.layers.Dense.from_config({**head.get_config(), **settings})
        model = keras.Model(self.model.inputs[0], dense(features), name=self.model.name)
        weights = head.get_weights()
        if self.is_one_unit:
            # softmax((0, x)) is (1 - sigmoid(x), sigmoid(x)).
            weights = [np.concatenate([np.zeros_like(w), w], axis=-1) for w in weights]
        dense.set_weights([w[..., order] for w in weights])
        images = example_inputs(self.model)[0]
        probabilities = to_probabilities(self.model, self.label, images)
        expected = np.asarray(probabilities(self.model(images, training=False)))[:, order]
        found = np.asarray(model(images, training=False))
        return model if np.allclose(found, expected, atol=1e-3) else None
