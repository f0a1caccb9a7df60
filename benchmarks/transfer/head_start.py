"""A prototype: features that are computed once, and a head of any loss that is solved on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # from strong to weak; each starts from the one before
N_FOLDS = 5
MAX_ITERATIONS = 500


class Cut(NamedTuple):
    """A model in two parts: what can be computed once, and what has to run in every step."""

    body: keras.Model
    tail: keras.Model


def cut_before_head(model: keras.Model, first: str, x: Any) -> Cut:
    """Cut a functional model at the latest place before which training is the same as inference.

    What stands before the cut can be computed once per example, if it does not train. Dropout right
    before the head is after the cut.

    Args:
        model: A functional model with one chain of layers around the head.
        first: The name of the first layer that trains.
        x: A batch of inputs, to try what the layers do.

    Raises:
        ValueError: If nothing before that layer is the same in training.
    """
    tensor = model.get_layer(first).input
    while not any(tensor is one for one in [*model.inputs, None]):
        body = keras.Model(model.input, tensor)
        if is_exact(body, x):
            return Cut(body, keras.Model(tensor, model.outputs))
        before = tensor._keras_history.operation.input
        tensor = None if isinstance(before, list) else before  # no single place to cut before it
    raise ValueError(
        f"Layer {first!r} should come after layers that do the same in training and in inference. "
        "Random layers and statistics that move reach down to the input, so nothing can be cached."
    )


def is_exact(body: keras.Model, x: Any) -> bool:
    """Return whether training mode gives what inference gives, and moves no variable.

    What moved is put back.
    """
    before = [(variable, variable.numpy()) for variable in body.variables]
    outputs = [np.asarray(body(x, training=mode)) for mode in (True, True, False)]
    moved = [(variable, value) for variable, value in before if np.any(variable.numpy() != value)]
    for variable, value in moved:
        variable.assign(value)
    return not moved and all(np.array_equal(outputs[0], other) for other in outputs[1:])


class HeadSolver:
    """Trains the layers after the cut to convergence by L-BFGS.

        mean loss + penalty / 2 * sum of the squares of the kernels

    For one dense layer that is the logistic or the ridge regression, whose minimum is unique.
    Dropout is off.

    Args:
        tail: The model from features to outputs. It starts from the weights that it has.
        loss: A function of `y` and the outputs, such as a Keras loss: the mean over the examples.
    """

    def __init__(self, tail: keras.Model, loss: Callable[[Any, Any], Any]) -> None:
        self.tail, self.loss = tail, loss
        self._shapes = [tuple(variable.shape) for variable in tail.trainable_variables]
        self._ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])

        @tf.function(reduce_retracing=True)
        def losses(x: Any, y: Any, penalty: Any) -> tuple[Any, Any, list[Any]]:
            variables = [variable.value for variable in tail.trainable_variables]
            with tf.GradientTape() as tape:
                mean = loss(y, tail(x, training=False))
                squares = [tf.reduce_sum(v**2) for v in variables if len(v.shape) > 1]
                total = mean + penalty / 2 * tf.add_n(squares)
            return mean, total, tape.gradient(total, variables)

        self._losses = losses

    def solve(self, features: np.ndarray, y: np.ndarray, penalty: float) -> float:
        """Train the layers, and return the mean loss that they reach.

        Args:
            features: The features of all examples.
            y: What the loss compares with.
            penalty: Float, 0 or more.
        """
        from scipy import optimize

        data = (tf.constant(features), tf.constant(y), tf.constant(penalty, tf.float32))

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            self._write(flat)
            _, total, gradients = self._losses(*data)
            return float(total), _flat([gradient.numpy() for gradient in gradients])

        start = _flat([variable.numpy() for variable in self.tail.trainable_variables])
        options = {"maxiter": MAX_ITERATIONS}
        found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        self._write(found.x)
        return float(self._losses(*data)[0])

    def choose_and_solve(
        self,
        features: np.ndarray,
        y: np.ndarray,
        *,
        seed: int,
        penalties: Sequence[float] = PENALTIES,
    ) -> tuple[float, float]:
        """Solve with the penalty that does best on parts that are held out in turn.

        Weaker penalties are tried until one does worse.

        Args:
            features: The features of all training examples.
            y: What the loss compares with. Integers of one axis are classes: each part has all.
            seed: Int: seed of the parts.
            penalties: What is tried, from strong to weak.

        Returns:
            The penalty, and the mean loss that it had on the held-out parts.
        """
        from sklearn.model_selection import KFold, StratifiedKFold

        is_classes = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
        kind = StratifiedKFold if is_classes else KFold
        parts = [*kind(N_FOLDS, shuffle=True, random_state=seed).split(features, y)]
        first = self.tail.get_weights()
        weights = [first] * N_FOLDS
        losses: list[float] = []
        for penalty in penalties:
            total = 0.0
            for number, (rest, held_out) in enumerate(parts):
                self.tail.set_weights(weights[number])
                self.solve(features[rest], y[rest], penalty)
                weights[number] = self.tail.get_weights()
                outputs = self.tail(features[held_out], training=False)
                total += float(self.loss(y[held_out], outputs)) * len(held_out)
            losses.append(total / len(y))
            if losses[-1] > min(losses):
                break  # weaker penalties take longest, and are worse
        best = int(np.argmin(losses))
        self.tail.set_weights(first)
        for penalty in penalties[: best + 1]:
            self.solve(features, y, penalty)
        return penalties[best], losses[best]

    def _write(self, flat: np.ndarray) -> None:
        parts = np.split(flat, self._ends[:-1])
        for variable, part, shape in zip(
            self.tail.trainable_variables, parts, self._shapes, strict=True
        ):
            variable.assign(part.reshape(shape))


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays]).astype(float)
