"""Training a task many times with one compiled model: rates, data and seeds enter as values."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.transfer.arms import (
    DECAY,
    Arm,
    first_trainable_groups,
    group_of_each,
    groups_of,
    rates_of,
)
from benchmarks.transfer.tasks import Part, Task
from dlr_tf import MultiGroupOptimizer, freeze_to, split_layerwise
from dlr_tf.app.models import HEAD
from dlr_tf.app.run import start_with_seed
from dlr_tf.training.freezing import set_batch_norm

_EVALUATION_BATCH = 128


class Trainer:
    """A task's model and training steps, built once.

    Every layer is a group of its own, so each arm is a table of rates (step, layer) and the index
    of the first trainable layer in each epoch. Groups at equal rates train as one group does, bit
    for bit. A training step is traced once per set of trainable layers; its trace reads the rates
    from a variable.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model = task.build()
        self.layer_groups = split_layerwise(self.model)
        self.optimizer = MultiGroupOptimizer(self.layer_groups, [1.0] * len(self.layer_groups))
        self.optimizer.build(self.model.trainable_variables)
        self._trained = [*self.model.trainable_variables]  # before anything is frozen
        own = (*self.model.weights, *self.optimizer.variables)
        self._initial = [(variable, variable.numpy()) for variable in own]
        self._loss = keras.losses.SparseCategoricalCrossentropy()
        # The kernel and the bias that the head starts from; `None` for random ones.
        self.first_head: tuple[np.ndarray, np.ndarray] | None = None
        n_layers = len(self.layer_groups)
        self._averages: list[tuple[keras.Variable, tf.Variable]] = []
        self._table = tf.Variable(tf.zeros((1, n_layers), tf.float64), shape=(None, n_layers))
        self._of_layer: dict[bool, list[int]] = {}
        self._train_steps: dict[tuple[int, str], Any] = {}
        self.n_traces: Counter[str] = Counter()
        part = task.split(0).train
        self._x_spec = tf.TensorSpec((None, *part.x.shape[1:]), tf.as_dtype(part.x.dtype))
        self._predict = self._make_predict("predict", self.model)
        body = keras.Model(self.model.inputs, self.model.get_layer(HEAD).input)
        self._features = self._make_predict("features", body)

    def prepare(self, arm: Arm, epochs: int) -> None:
        """Trace the training steps of an arm."""
        of_layer = self.group_of_each_layer(arm)
        for group in first_trainable_groups(arm, self.n_groups(arm), epochs):
            self._train_step(of_layer.index(group), arm.batch_norm)

    def train(
        self,
        arm: Arm,
        peaks: Sequence[float],
        part: Part,
        seed: int,
        epochs: int,
        after_step: Callable[[int], Any] = lambda step: None,
        after_epoch: Callable[[int], Any] = lambda epoch: None,
    ) -> list[float]:
        """Train from the pretrained weights; return the mean loss of the batches of each epoch.

        Args:
            arm: The arm.
            peaks: The peak rate of each of its groups.
            part: The examples.
            seed: Seed of the head's first weights, and of order and dropout.
            epochs: Number of epochs.
            after_step: Called after each step with its number.
            after_epoch: Called after each epoch with its number.
        """
        batches = batches_of(len(part.y), self.task.batch_size, epochs, seed)
        steps_per_epoch = -(-len(part.y) // self.task.batch_size)
        self._set_rates(arm, rates_of(arm, peaks, epochs, steps_per_epoch))
        self._reset(seed)
        of_layer = self.group_of_each_layer(arm)
        x, y = tf.constant(part.x), tf.constant(part.y)
        losses, step = [], 0
        if arm.averaged:
            self._begin_averages()
        first_groups = first_trainable_groups(arm, len(peaks), epochs)
        for epoch, (group, of_epoch) in enumerate(zip(first_groups, batches, strict=True)):
            train_step = self._train_step(of_layer.index(group), arm.batch_norm)
            batch_losses = []
            for indices in of_epoch:
                batch_losses.append(train_step(x, y, indices))
                if arm.averaged:
                    self._add_to_averages(tf.constant(step + 1.0))
                after_step(step)
                step += 1
            losses.append(float(np.mean([loss.numpy() for loss in batch_losses])))
            after_epoch(epoch)
        return losses

    def _begin_averages(self) -> None:
        if not self._averages:
            self._averages = [(one, tf.Variable(one.value)) for one in self._trained]

    @tf.function
    def _add_to_averages(self, count: Any) -> None:
        for variable, average in self._averages:
            average.assign_add((variable.value - average) / count)

    def use_averages(self) -> None:
        """Give the model the mean of its weights after every step of the training."""
        for variable, average in self._averages:
            variable.assign(average)

    def losses_at(self, arm: Arm, rates: np.ndarray, seed: int) -> Iterator[float]:
        """Train all groups from the pretrained weights, and give the loss of each step.

        Args:
            arm: The arm, whose groups train.
            rates: The rate of each group at each step, of shape `(steps, n_groups)`.
            seed: Seed of the examples, of the head's first weights, and of order and dropout.
        """
        part = self.task.split(seed).train
        x, y = tf.constant(part.x), tf.constant(part.y)
        train_step = self._train_step(0, arm.batch_norm)
        epochs = -(-len(rates) // self.task.steps_per_epoch())
        batches = batches_of(len(part.y), self.task.batch_size, epochs, seed)
        self._set_rates(arm, rates)
        self._reset(seed)
        for indices in itertools.islice(itertools.chain.from_iterable(batches), len(rates)):
            yield float(train_step(x, y, indices))

    def n_groups(self, arm: Arm) -> int:
        """Return the number of groups of an arm."""
        return self.group_of_each_layer(arm)[-1] + 1

    def _set_rates(self, arm: Arm, rates: np.ndarray) -> None:
        """Store the rate of each group at each step where the training steps read it."""
        self._table.assign(rates[:, self.group_of_each_layer(arm)])

    def predict(self, part: Part) -> np.ndarray:
        """Return the probabilities of the classes for each input."""
        return self._in_batches(self._predict, part.x)

    def features(self, part: Part) -> np.ndarray:
        """Return what the head receives for each input, from the pretrained body."""
        self._reset(0)
        return self._in_batches(self._features, part.x)

    def _in_batches(self, function: Any, x: np.ndarray) -> np.ndarray:
        starts = range(0, len(x), _EVALUATION_BATCH)
        return np.concatenate(
            [function(x[start : start + _EVALUATION_BATCH]).numpy() for start in starts]
        )

    def group_of_each_layer(self, arm: Arm) -> list[int]:
        """Return the number of the arm's group that each layer belongs to."""
        by_block = arm.rates == DECAY
        if by_block not in self._of_layer:
            groups = groups_of(arm, self.model, self.task.blocks)
            self._of_layer[by_block] = group_of_each(self.layer_groups, groups, self.model)
        return self._of_layer[by_block]

    def _reset(self, seed: int) -> None:
        """Give every variable its first value, and the head new weights."""
        for variable, value in self._initial:
            variable.assign(value)
        start_head_and_dropout(self.model, seed)
        if self.first_head is not None:
            self.model.get_layer(HEAD).set_weights(self.first_head)

    def _train_step(self, first_layer: int, batch_norm: str) -> Any:
        """Return the training step for a set of trainable layers, traced at most once."""
        if first_layer == len(self.layer_groups) - 1:
            batch_norm = "frozen"  # the head has none
        key = (first_layer, batch_norm)
        if key not in self._train_steps:
            # The trace keeps the layers' flags as they are now.
            set_batch_norm(self.model, batch_norm)
            freeze_to(self.model, self.layer_groups, first_layer)
            step = self._make_train_step(f"{first_layer}, {batch_norm}")
            self._train_steps[key] = step.get_concrete_function()
        return self._train_steps[key]

    def _make_train_step(self, name: str) -> Any:
        variables = self.model.trainable_variables

        @tf.function(
            input_signature=[
                self._x_spec,
                tf.TensorSpec((None,), tf.int32),
                tf.TensorSpec((None,), tf.int32),
            ]
        )
        def train_step(x: Any, y: Any, indices: Any) -> Any:
            self.n_traces[name] += 1
            self.optimizer.learning_rates = self._table[self.optimizer.step_counter.value]
            with tf.GradientTape() as tape:
                probabilities = self.model(tf.gather(x, indices), training=True)
                loss = self._loss(tf.gather(y, indices), probabilities)
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        return train_step

    def _make_predict(self, name: str, model: keras.Model) -> Any:
        @tf.function(input_signature=[self._x_spec])
        def predict(x: Any) -> Any:
            self.n_traces[name] += 1
            return model(x, training=False)

        return predict


def start_head_and_dropout(model: keras.Model, seed: int) -> None:
    """Give the head random weights, and dropout a seed."""
    start_with_seed(model, model.get_layer(HEAD).weights, seed)


def batches_of(n_examples: int, batch_size: int, epochs: int, seed: int) -> list[list[np.ndarray]]:
    """Return the indices of the examples of each batch of each epoch, in random order.

    >>> [[len(batch) for batch in epoch] for epoch in batches_of(5, 2, epochs=2, seed=0)]
    [[2, 2, 1], [2, 2, 1]]
    """
    generator = np.random.default_rng([seed, 1])
    epoch_orders = (generator.permutation(n_examples).astype("int32") for _ in range(epochs))
    return [
        [order[start : start + batch_size] for start in range(0, n_examples, batch_size)]
        for order in epoch_orders
    ]


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of right answers.

    >>> accuracy(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    0.5
    """
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def trainers(tasks: Sequence[Task]) -> Callable[[str], Trainer]:
    """Return a function from a task's name to its trainer, which is built when it is first used."""
    by_name = {task.name: task for task in tasks}
    built: dict[str, Trainer] = {}

    def trainer(name: str) -> Trainer:
        if name not in built:
            built[name] = Trainer(by_name[name])
        return built[name]

    return trainer
