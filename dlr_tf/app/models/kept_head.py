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
from dlr_tf.app.models.heads import features_of
from dlr_tf.app.models.outputs import class_count, to_probabilities
from dlr_tf.app.models.trained import CLASSES_FILE, KnownTarget, known_target
from dlr_tf.core.model_graph import output_activations


@dataclasses.dataclass(frozen=True)
class KeptHead:
    """A network with a head that stays.

    Args:
        label: What to call the network in an error.
        path: Its file.
        model: The network.
        known: What its outputs are, without names if these are not known.
    """

    label: str
    path: Path
    model: keras.Model
    known: KnownTarget

    @classmethod
    def of(cls, path: Path, label: str, model: keras.Model) -> KeptHead:
        """Check that the network in a file has a head that can stay.

        Raises:
            ValueError: If it has not, or `classes.json` beside it names another number of classes.
        """
        known = known_target(path)
        if known.kind != "class":
            return cls(label, path, model, known)
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
        if known.names and len(known.names) != n_classes:
            raise ValueError(
                f"{label} gives {n_classes} outputs, and {str(path.parent / CLASSES_FILE)!r} names "
                f"{len(known.names)} classes. Correct the file."
            )
        return cls(label, path, model, known)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its outputs or classes; where they are not known, their indices."""
        count = class_count(self.model) or 0
        return self.known.names or tuple(str(index) for index in range(count))

    @property
    def is_one_unit(self) -> bool:
        """Whether one unit tells two classes apart."""
        return self.model.output_shape[1] == 1

    def note(self) -> str:
        """Say what is kept, and which output is which class."""
        line = f"the head of {str(self.path)!r} is kept"
        if self.known.kind != "class":
            return line
        outputs = "its one unit for two classes tells" if self.is_one_unit else "its outputs are"
        return f"{line}; {outputs} the classes {some_of(self.names)}"

    def build(self, names: Sequence[str], kind: str) -> keras.Model:
        """Return the network with one output per name of the data, in their order.

        Raises:
            ValueError: If these are not what the head is for.
        """
        if self.known.kind != "class":
            if (kind, tuple(names)) != (self.known.kind, self.known.names):
                raise ValueError(
                    f"{self.label} knows the {self.known.nouns} {some_of(self.names)}, and DATA "
                    f"has {some_of(names)}. Leave --keep-head out, to get a new head."
                )
            return self.model
        if kind != "class":
            raise ValueError(
                f"{self.label} tells classes apart, and DATA has another kind of target. Leave "
                "--keep-head out, to get a new head."
            )
        if len(names) != len(self.names):
            raise ValueError(
                f"{self.label} gives {len(self.names)} outputs and DATA has {len(names)} "
                "classes. Leave --keep-head out, to get a new head."
            )
        order = self._order(names)
        if order == list(range(len(names))) and not self.is_one_unit:
            return self.model
        reordered = self._reordered(order)
        if reordered is None:
            raise ValueError(
                f"{self.label} knows the classes {some_of(self.names)}, and DATA has "
                f"{some_of(names)}: one unit, or another order, which is possible for a head "
                "that is one dense layer alone. Leave --keep-head out, to get a new head."
            )
        return reordered

    def _order(self, class_names: Sequence[str]) -> list[int]:
        """Return the index of the output for each class of the data."""
        if self.known.names:
            if set(self.known.names) != set(class_names):
                raise ValueError(
                    f"{self.label} knows the classes {some_of(self.names)}, and DATA has "
                    f"{some_of(class_names)}. Leave --keep-head out, to get a new head."
                )
            return [self.known.names.index(name) for name in class_names]
        if all(name.isdecimal() for name in class_names):
            indices = [int(name) for name in class_names]
            if sorted(indices) == list(range(len(self.names))):
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
