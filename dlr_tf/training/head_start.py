"""A head start: the head is trained to convergence on features of the body, before that moves."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.model_graph import logit_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.losses import LossChoice, is_cross_entropy, loss_name
from dlr_tf.training.model_cut import Cut, cut_before
from dlr_tf.training.rate_choice import has_usual_rates
from dlr_tf.training.training_data import (
    fit_arguments,
    is_in_batches,
    trained_on,
    without_autotuning,
)

# From strong to weak. Each is solved from the weights that the one before reached.
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
N_FOLDS = 5
MAX_ITERATIONS = 500
TOLERANCE = 1e-9
ROUGH_TOLERANCE = 1e-6  # for losses that are only compared
TEMPERATURE = 3.0  # measured in `benchmarks/transfer`
# By default, since nothing was measured with more, and the features are held in memory.
MAX_EXAMPLES = 5000
MAX_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class HeadStart:
    """What is known of a head that was trained on features.

    Args:
        penalty: The factor of the squares of its kernels.
        scores: Loss and metrics of the head alone, by name, on parts of the training data that
            were held out in turn.
        n_examples: The number of training examples.
    """

    penalty: float
    scores: Mapping[str, float]
    n_examples: int

    def line(self) -> str:
        """Return one line that says how good the head alone is.

        >>> HeadStart(0.01, {"loss": 0.5, "accuracy": 0.8125}, 96).line()
        'the head alone, on held-out parts of the 96 training examples: loss 0.5, accuracy 0.8125'
        """
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        where = f"on held-out parts of the {self.n_examples} training examples"
        return f"the head alone, {where}: {values}"


def cut_at_head(model: keras.Model, groups: Sequence[LayerGroup], choice: LossChoice) -> Cut:
    """Return a model in two parts, before its head and from there on.

    Args:
        model: A built model.
        groups: Its groups. The last one is the head.
        choice: Its loss.

    Raises:
        ImportError: If SciPy is not installed.
        ValueError: If the head cannot be trained alone.
    """
    require_scipy()
    own = [
        name
        for name in ("fit", "train_step", "compute_loss")
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if choice.loss is None or own:
        found = f"a {own[0]} of its own" if own else "no loss of `compile`"
        raise ValueError(
            "`head_start` needs a model that Keras' own `fit` trains, with the loss of `compile`. "
            f"Received: model {model.name!r} with {found}"
        )
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "`head_start` does not work on several machines, since each would train a head of its "
            "own. Leave it out."
        )
    last = len(groups) - 1
    head = [one.variable for one in assign_variables(model, groups) if one.group == last]
    if not any(variable.trainable for variable in head):
        raise ValueError(
            "`head_start` trains the head, the last group, and it is frozen. Set `trainable = "
            f"True` on its layers, or leave `head_start` out. Received: group {groups[-1].name!r}"
        )
    return cut_before(model, head)


def why_not_by_default(
    model: keras.Model,
    groups: Sequence[LayerGroup],
    choice: LossChoice,
    optimizer: MultiGroupOptimizer,
    n_examples: int | None,
    inputs: Any = None,
) -> str:
    """Return why a training does not begin with a head start by default; `""` if it does.

    Args:
        model: A built model, as it was compiled before.
        groups: Its groups. The last one is the head.
        choice: Its loss.
        optimizer: The optimizer of the training.
        n_examples: The number of training examples, up to the size of a batch more; `None` if it is
            not known.
        inputs: Something with the types of the inputs. Defaults to `None`: dense arrays.

    Source: `benchmarks/transfer`, which has classifiers with few examples.
    """
    if n_examples is None:
        return "the number of training examples is not known"
    if n_examples < 2:
        return "there are fewer than 2 training examples"
    if n_examples > MAX_EXAMPLES:
        return f"there are more than {MAX_EXAMPLES} training examples"
    if any(map(_is_sparse_or_ragged, keras.tree.flatten(inputs))):
        return "the inputs are sparse or ragged"
    if model.compiled and int(getattr(model.optimizer, "iterations", 0)):
        return "the model was trained before"
    if not has_usual_rates(optimizer):
        return "the rates that suit it are known for Adam alone"
    try:
        cut = cut_at_head(model, groups, choice)
    except (ImportError, ValueError) as error:
        return str(error)
    if not _has_one_class(model.outputs, choice.loss):
        return "it was measured only where each example has one class"
    if len(cut.tail.variables) != sum(len(layer.variables) for layer in logit_layers(cut.tail)):
        return "the head is more than one dense or convolutional layer"
    sizes = [math.prod(size or math.inf for size in one.shape[1:]) for one in cut.tail.inputs]
    if 4 * n_examples * sum(sizes) > MAX_BYTES:
        return "the features of all training examples take too much memory"
    return ""


def _is_sparse_or_ragged(array: Any) -> bool:
    kinds = (tf.SparseTensor, tf.RaggedTensor, tf.SparseTensorSpec, tf.RaggedTensorSpec)
    return isinstance(array, kinds) or type(array).__module__.startswith("scipy.sparse")


def _has_one_class(outputs: Sequence[Any], loss: Any) -> bool:
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or not is_cross_entropy(loss):
        return False
    return outputs[0].shape[-1] == 1 or not loss_name(loss).startswith("binary")


class Examples:
    """Features, labels and weights of examples, as structures of arrays.

    Args:
        features: One array per tensor before the head.
        y: The labels.
        weights: One weight per example; `None` if all count the same.
    """

    def __init__(self, features: list[np.ndarray], y: Any, weights: np.ndarray | None) -> None:
        self.features, self.y, self.weights = features, y, weights

    def __len__(self) -> int:
        return len(self.features[0])

    def parts(self, indices: np.ndarray) -> Examples:
        """Return the examples with these indices."""

        def taken(array: np.ndarray) -> np.ndarray:
            return array[indices]

        weights = None if self.weights is None else self.weights[indices]
        return Examples(
            keras.tree.map_structure(taken, self.features),
            keras.tree.map_structure(taken, self.y),
            weights,
        )


def start_head(
    cut: Cut,
    train_data: Any,
    choice: LossChoice,
    fit: Mapping[str, Any],
    *,
    body_trains: bool = False,
) -> HeadStart:
    """Train what is trainable in the tail of a model to convergence, on features computed once.

    What is minimized, by L-BFGS, is

        loss + penalty / 2 * (mean square of the features) * (sum of the squares of the kernels)

    with the mean loss over all examples. For one dense layer after the body this is logistic or
    ridge regression, whose minimum is unique. The penalty is chosen on parts of the training data
    that are held out in turn. Body and tail run as in inference, so dropout is off.

    Args:
        cut: The model in two parts.
        train_data: As in `fine_tune`, but not a generator. It is read once.
        choice: The loss and the metrics. A model that has a loss of its own has none here.
        fit: The arguments for `fit`: weights, batch size and validation split are taken from them.
        body_trains: Whether the body is trained next. Then the head is left less certain than it
            is: see `soften`. Defaults to `False`.

    Raises:
        ImportError: If SciPy is not installed.
        TypeError: If the data can be read only once.
        ValueError: If there are fewer than two examples, no labels, or a loss that is not finite.

    Source: Kumar et al., 2022, https://arxiv.org/abs/2202.10054 (linear probing, then fine-tuning);
    Liu and Nocedal, 1989, https://doi.org/10.1007/BF01589116 (L-BFGS).
    """
    require_scipy()
    examples = read_examples(cut.body, train_data, fit)
    if len(examples) < 2:
        raise ValueError(
            "`head_start` chooses its penalty on held-out parts of the training data, so it needs "
            f"at least 2 examples. Received: {len(examples)}"
        )
    solver = HeadSolver(cut.tail, choice)
    penalty, scores = solver.choose_and_solve(examples)
    if body_trains:
        soften(cut.tail, choice)
    return HeadStart(penalty, scores, len(examples))


def require_scipy() -> Any:
    """Return the module `scipy.optimize`.

    Raises:
        ImportError: If SciPy is not installed.
    """
    try:
        from scipy import optimize
    except ImportError as error:
        raise ImportError(
            "`head_start` needs SciPy, which is not installed. Run: pip install scipy"
        ) from error
    return optimize


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which linear algebra outside of TensorFlow uses one thread.

    The vectors of L-BFGS are so short that more threads take ten times longer. Scikit-learn
    installs threadpoolctl.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(1)


def read_examples(body: keras.Model, train_data: Any, fit: Mapping[str, Any]) -> Examples:
    """Compute the features of all training examples, and collect their labels and weights.

    Args:
        body: From inputs to features.
        train_data: As in `fine_tune`, but not a generator.
        fit: The arguments for `fit`.

    Raises:
        TypeError: If the data can be read only once.
        ValueError: If an example has no label.
    """
    arguments = fit_arguments(train_data, fit)
    class_weight = fit.get("class_weight")
    if is_in_batches(arguments["x"]):
        spec = getattr(arguments["x"], "element_spec", None)  # of a `PyDataset` there is none
        signature = None if spec is None else [keras.utils.unpack_x_y_sample_weight(spec)[0]]
        run = tf.function(
            lambda x: body(x, training=False), input_signature=signature, reduce_retracing=True
        )
        batches = [
            (keras.tree.map_structure(np.asarray, run(x)), y, weights)
            for x, y, weights in map(
                keras.utils.unpack_x_y_sample_weight,
                _batches(arguments["x"], fit.get("steps_per_epoch")),
            )
        ]
        features, y, weights = keras.tree.map_structure(_joined, *batches)
    else:
        data = {name: arguments.get(name) for name in ("x", "y", "sample_weight")}
        if fit.get("validation_split"):
            data = trained_on(data, fit["validation_split"])
        features = body.predict(data["x"], batch_size=fit.get("batch_size"), verbose=0)
        y, weights = keras.tree.map_structure(np.asarray, data["y"]), data["sample_weight"]
    if y is None:
        raise ValueError("`head_start` trains the head on labels, and the data have none.")
    if class_weight is not None:
        weights = weights_of_classes(y, class_weight)
    found = [np.asarray(array, "float32") for array in keras.tree.flatten(features)]
    return Examples(found, y, None if weights is None else np.asarray(weights, "float32"))


def _joined(*arrays: Any) -> np.ndarray | None:
    return None if arrays[0] is None else np.concatenate([*map(np.asarray, arrays)])


def _batches(data: Any, steps: int | None) -> Iterator[Any]:
    if isinstance(data, types.GeneratorType):
        raise TypeError(
            "`head_start` reads the data before the training, and a generator can be read only "
            "once. Pass a `tf.data.Dataset`, a `keras.utils.PyDataset` or arrays. "
            f"Received: {data!r}"
        )
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches if steps is None else steps
        return (data[number] for number in range(count))
    return iter(without_autotuning(data if steps is None else data.take(steps)))


def weights_of_classes(y: np.ndarray, class_weight: Mapping[int, float]) -> np.ndarray:
    """Return the weight of each example, from the weights of the classes, as `fit` does.

    Args:
        y: Class numbers, of shape `(n,)` or `(n, 1)`, or rows of labels.
        class_weight: The weight of each class by its number; 1 for those that are not in it.

    >>> weights_of_classes(np.array([[0, 1], [1, 0]]), {1: 3.0})
    array([3., 1.], dtype=float32)
    """
    if y.ndim > 1:
        y = y.argmax(axis=-1) if y.shape[-1] != 1 else y[..., 0]
    return np.array([class_weight.get(int(number), 1.0) for number in y], "float32")


def folds(y: Any, n_folds: int = N_FOLDS) -> list[np.ndarray]:
    """Return the indices of the parts that are held out in turn.

    Where `y` are class numbers, each part has about as many examples of a class as the others.

    Args:
        y: The labels of all examples.
        n_folds: The number of parts; fewer if there are fewer examples.

    >>> y = np.array([0, 0, 0, 0, 1, 1])
    >>> [sorted(y[part].tolist()) for part in folds(y, 2)]
    [[0, 0, 1], [0, 0, 1]]
    """
    arrays = keras.tree.flatten(y)
    order = np.random.default_rng(0).permutation(len(arrays[0]))
    if len(arrays) == 1 and np.issubdtype(arrays[0].dtype, np.integer):
        classes = arrays[0].reshape(len(order), -1)[:, 0]
        order = order[np.argsort(classes[order], kind="stable")]
    return [order[number::n_folds] for number in range(min(n_folds, len(order)))]


def soften(tail: keras.Model, choice: LossChoice, temperature: float = TEMPERATURE) -> None:
    """Divide the logits of a classifier by a number.

    A solved head fits the training examples so well that they leave little to learn for the body.
    At a higher temperature it predicts the same classes, but less certainly, so that every example
    moves the body. Only cross-entropies have logits, and only those of a dense or a convolutional
    layer that trains as a whole are divided.

    Args:
        tail: The model from features to outputs, of which the head is trainable.
        choice: The loss.
        temperature: Float above 0: the number.

    Source: Tomihari and Sato, 2024, https://arxiv.org/abs/2405.16747 (the norm of a solved head
    decides how much the body learns); `benchmarks/transfer`, which compares temperatures.
    """
    if not all(map(is_cross_entropy, keras.tree.flatten(choice.loss))):
        return
    for layer in logit_layers(tail):
        variables = layer.trainable_variables
        # Otherwise a part of it is frozen, or its kernel is a sum of variables, as with LoRA.
        if len(variables) == len(layer.variables) == 1 + layer.use_bias:
            for variable in variables:
                variable.assign(variable / temperature)


class HeadSolver:
    """Trains the tail of a model to convergence by L-BFGS.

    Args:
        tail: The model from features to outputs. It starts from the weights that it has.
        choice: The loss and the metrics.
    """

    def __init__(self, tail: keras.Model, choice: LossChoice) -> None:
        self.tail = tail
        tail.compile(loss=choice.loss, metrics=choice.metrics)
        self._variables = tail.trainable_variables

        @tf.function(reduce_retracing=True)
        def losses(flat: Any, data: Any, factor: Any) -> tuple[Any, Any, Any]:
            features, y, weights = data
            with tf.GradientTape() as tape:
                tape.watch(flat)
                values = self._split(flat)
                with keras.StatelessScope(state_mapping=zip(self._variables, values)):
                    outputs = tail(features, training=False)
                    mean = tail.compute_loss(
                        y=y, y_pred=outputs, sample_weight=weights, training=False
                    )
                squares = [tf.reduce_sum(value**2) for value in values if len(value.shape) > 1]
                total = mean + factor / 2 * tf.add_n([tf.zeros(()), *squares])
            return mean, total, tape.gradient(total, flat)

        self._losses = losses

    def solve(self, examples: Examples, factor: float, tolerance: float = TOLERANCE) -> None:
        """Train the tail on examples.

        Args:
            examples: The examples.
            factor: Float, 0 or more: of half the squares of the kernels.
            tolerance: The relative change of the loss at which it ends.

        Raises:
            ValueError: If the loss is not finite.
        """
        data = _tensors(examples)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            _, total, gradient = self._losses(
                tf.constant(flat, tf.float32), data, tf.constant(factor, tf.float32)
            )
            return float(total), gradient.numpy().astype(float)

        with one_thread():
            found = require_scipy().minimize(
                objective,
                self._flat(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": MAX_ITERATIONS, "ftol": tolerance},
            )
        if not np.all(np.isfinite(found.x)) or not np.isfinite(found.fun):
            raise ValueError(
                "`head_start` found no head: the loss on the features is not finite. Check the "
                f"data and the loss. Received: loss {found.fun}"
            )
        for variable, value in zip(self._variables, self._split(tf.constant(found.x, tf.float32))):
            variable.assign(value)

    def loss(self, examples: Examples) -> float:
        """Return the mean loss over examples."""
        flat = tf.constant(self._flat(), tf.float32)
        return float(self._losses(flat, _tensors(examples), tf.constant(0.0))[0])

    def choose_and_solve(self, examples: Examples) -> tuple[float, dict[str, float]]:
        """Solve with the penalty that does best on parts that are held out in turn.

        Weaker penalties are tried until one does worse.

        Args:
            examples: All training examples.

        Returns:
            The penalty, and the mean loss and metrics with it on the held-out parts.

        Raises:
            ValueError: If the loss is not finite.
        """
        first = self.tail.get_weights()
        unit = float(np.mean([np.mean(array**2) for array in examples.features])) or 1.0
        every = np.arange(len(examples))
        parts = [
            (examples.parts(np.setdiff1d(every, held_out)), examples.parts(held_out))
            for held_out in folds(examples.y)
        ]
        weights = [first] * len(parts)
        losses: list[float] = []
        best = weights
        for penalty in PENALTIES:
            losses.append(0.0)
            for number, (rest, held_out) in enumerate(parts):
                self.tail.set_weights(weights[number])
                self.solve(rest, penalty * unit, ROUGH_TOLERANCE)
                weights[number] = self.tail.get_weights()
                losses[-1] += self.loss(held_out) * len(held_out) / len(examples)
            if losses[-1] > min(losses):
                break  # weaker penalties take longest, and are worse
            best = [*weights]
        scores: dict[str, float] = {}
        for (_, held_out), found in zip(parts, best, strict=True):
            self.tail.set_weights(found)
            for name, value in self._scores(held_out).items():
                share = len(held_out) / len(examples)
                scores[name] = scores.get(name, 0.0) + share * value
        self.tail.set_weights(first)
        n_tried = 1 + int(np.argmin(losses))
        for penalty in PENALTIES[:n_tried]:
            self.solve(examples, penalty * unit)
        return PENALTIES[n_tried - 1], scores

    def _scores(self, examples: Examples) -> dict[str, float]:
        parts = [tuple(examples.features), examples.y]
        parts += [] if examples.weights is None else [examples.weights]
        batch = without_autotuning(tf.data.Dataset.from_tensors(tuple(parts)))
        scores: dict[str, float] = self.tail.evaluate(batch, verbose=0, return_dict=True)
        return {name: float(value) for name, value in scores.items()}

    def _split(self, flat: Any) -> list[Any]:
        """Return the values of the variables from one vector of all."""
        parts = tf.split(flat, [int(np.prod(variable.shape)) for variable in self._variables])
        return [tf.reshape(part, variable.shape) for part, variable in zip(parts, self._variables)]

    def _flat(self) -> np.ndarray:
        return np.concatenate([variable.numpy().ravel() for variable in self._variables])


def _tensors(examples: Examples) -> tuple[Any, Any, Any]:
    weights = None if examples.weights is None else tf.constant(examples.weights)
    features = [tf.constant(array) for array in examples.features]
    return features, keras.tree.map_structure(tf.constant, examples.y), weights
