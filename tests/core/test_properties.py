"""Whatever is done in whatever order: the groups train as independent optimizers would.

Random models in random groups go through random sequences of training, freezing, thawing, saving,
loading and rescaling. After each operation every weight is compared, bit for bit, with one trained
by a Keras Adam of its own, and every variable has to have one owner.

    python -m tests.core.test_properties 1000    # that many sequences, and what was in them
"""

from __future__ import annotations

import collections
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from dlr_tf.core._keras import known_variables, knows
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.model_tree import leaf_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.freezing import freeze_to

WIDTH = 2
counts: collections.Counter[str] = collections.Counter()

LEAVES: dict[str, Callable[[], keras.layers.Layer]] = {
    "dense": lambda: keras.layers.Dense(WIDTH),
    "plain dense": lambda: keras.layers.Dense(WIDTH, use_bias=False),
    "norm": lambda: keras.layers.BatchNormalization(),
    "embedding": lambda: keras.layers.Embedding(3, WIDTH),
    "weightless": lambda: keras.layers.Dropout(0.5),
}
# A layer, or a nested model of layers.
PARTS = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda parts: st.lists(parts, min_size=1, max_size=3),
    max_leaves=4,
)
MODELS = st.tuples(st.lists(PARTS, min_size=1, max_size=4), st.booleans())


class Tower(keras.Model):
    """Layers and towers, some of them in a list, built without being called."""

    def __init__(self, parts: Sequence[Any], own_weight: bool = False) -> None:
        super().__init__()
        made = [Tower(part) if isinstance(part, list) else LEAVES[part]() for part in parts]
        self.first, self.others = made[0], made[1:]
        for layer in made:
            if not isinstance(layer, Tower):
                layer.build((None, WIDTH))
        if own_weight:
            self.offset = self.add_weight((WIDTH,), "random_normal", name="offset")
        self.built = True


def has_weights(parts: Any) -> bool:
    return any(has_weights(p) if isinstance(p, list) else p != "weightless" for p in parts)


def variables_by_group(model: keras.Model, groups: Sequence[LayerGroup]) -> dict[int, int]:
    """The number of its group for each of the model's variables, by hand."""
    number = {path: n for n, group in enumerate(groups) for path in group.layers}
    units = leaf_layers(model)
    owned = {id(v): number[unit.path] for unit in units for v in unit.layer.weights}
    # A weight of the model's own stands before its layers: it goes with the first of them.
    return {id(v): owned.get(id(v), number[units[0].path]) for v in model.weights}


SEEDS = st.integers(0, 2**32 - 1)
OPERATIONS = st.lists(
    st.one_of(
        *[st.tuples(st.just("train"), SEEDS)] * 3,
        st.tuples(st.just("freeze_to"), st.integers(-4, 4)),
        st.tuples(st.just("toggle"), SEEDS),
        st.tuples(st.just("save"), st.just(0)),
        st.tuples(st.just("load"), SEEDS),
        st.tuples(st.just("rebuild"), SEEDS),
        st.tuples(st.just("rescale"), st.floats(1e-4, 1.0)),
        st.tuples(st.just("set rates"), SEEDS),
        st.tuples(st.just("build"), SEEDS),
    ),
    min_size=1,
    max_size=12,
)


class Independent:
    """One variable with an Adam of its own."""

    def __init__(self, value: np.ndarray, amsgrad: bool) -> None:
        self.variable = keras.Variable(value)
        self.amsgrad = amsgrad
        self.forget()

    def forget(self) -> None:
        self.adam = keras.optimizers.Adam(amsgrad=self.amsgrad)
        self.adam.build([self.variable])

    def step(self, gradient: np.ndarray, rate: float, steps_of_group: int) -> None:
        self.adam.learning_rate = rate
        self.adam.iterations.assign(steps_of_group)
        self.adam.apply([tf.constant(gradient)], [self.variable])

    def stored(self) -> list[np.ndarray]:
        return [v.numpy() for v in (self.variable, *self.adam.variables)]

    def restore(self, stored: list[np.ndarray]) -> None:
        for variable, value in zip((self.variable, *self.adam.variables), stored):
            variable.assign(value)


class Trial:
    """A model with its optimizer, beside as many independent ones as it has variables."""

    def __init__(self, spec: Any, seed: int, amsgrad: bool, folder: Path) -> None:
        self.spec, self.amsgrad, self.folder = spec, amsgrad, folder
        self.make_model(0)
        self.make_groups(np.random.default_rng(seed))
        rng = np.random.default_rng(seed + 1)
        self.rates = list(rng.uniform(1e-3, 0.1, len(self.groups)))
        self.make_optimizer(self.rates)
        self.ones = [Independent(v.numpy(), amsgrad) for v in self.model.weights]
        self.steps = [0] * len(self.groups)
        self.joined: set[int] = set()
        self.saved: dict[str, Any] | None = None

    def make_model(self, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        parts, own_weight = self.spec
        self.model = Tower(parts, own_weight)

    def make_groups(self, rng: np.random.Generator) -> None:
        """Contiguous or not, in any order; each with a layer that has weights."""
        units = leaf_layers(self.model)
        weighted = [unit.path for unit in units if unit.layer.weights]
        n_groups = int(rng.integers(1, min(4, len(weighted)) + 1))
        holders = rng.permutation(len(weighted))[:n_groups]
        number = {weighted[holder]: n for n, holder in enumerate(holders)}
        for unit in units:
            number.setdefault(unit.path, int(rng.integers(n_groups)))
        self.groups = [
            LayerGroup(f"group {n}", tuple(p for p, of in number.items() if of == n))
            for n in range(n_groups)
        ]

    def make_optimizer(self, rates: Sequence[float]) -> None:
        template = keras.optimizers.Adam(amsgrad=self.amsgrad)
        self.optimizer = MultiGroupOptimizer(self.groups, list(rates), template)
        self.optimizer.bind(self.model)
        self.model.compile(self.optimizer)

    def group_of(self) -> list[int]:
        by_group = variables_by_group(self.model, self.groups)
        return [by_group[id(v)] for v in self.model.weights]

    def train(self, seed: int) -> None:
        """One step on some of the gradients, in any order."""
        rng = np.random.default_rng(seed)
        number = {id(v): n for n, v in enumerate(self.model.weights)}
        trainable = [number[id(v)] for v in self.model.trainable_variables]
        if not trainable:
            return
        chosen = [n for n in rng.permutation(trainable) if rng.random() < 0.8] or trainable[:1]
        given = [n for n in chosen if rng.random() < 0.8] or chosen[:1]
        gradients = {
            n: rng.normal(size=self.model.weights[n].shape).astype("float32") for n in given
        }
        self.optimizer.apply_gradients(
            [
                (tf.constant(gradients[n]) if n in gradients else None, self.model.weights[n])
                for n in chosen
            ]
        )
        group_of = self.group_of()
        for n, gradient in gradients.items():
            self.ones[n].step(gradient, self.rates[group_of[n]], self.steps[group_of[n]])
        for group in {group_of[n] for n in gradients}:
            self.steps[group] += 1
        self.joined.update(chosen)

    def freeze_to(self, n: int) -> None:
        first = max(-len(self.groups), min(n, len(self.groups)))
        freeze_to(self.model, self.groups, first)

    def toggle(self, seed: int) -> None:
        """One layer, by the attribute, which tells the optimizer nothing."""
        units = leaf_layers(self.model)
        layer = units[seed % len(units)].layer
        layer.trainable = not layer.trainable

    def build(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        variables = self.model.trainable_variables
        chosen = [v for v in variables if rng.random() < 0.5]
        if chosen:
            self.optimizer.build(chosen)

    def rescale(self, rate: float) -> None:
        factor = rate / self.rates[-1]
        self.optimizer.learning_rate = rate
        self.take_rates([own * factor for own in self.rates])

    def set_rates(self, seed: int) -> None:
        rates = list(np.random.default_rng(seed).uniform(1e-3, 0.1, len(self.groups)))
        if seed % 2:
            self.optimizer.learning_rates = rates
        else:
            chosen = seed // 2 % len(rates)
            self.optimizer.group_optimizers[chosen].learning_rate = rates[chosen]
            rates = [r if n == chosen else self.rates[n] for n, r in enumerate(rates)]
        self.take_rates(rates)

    def take_rates(self, rates: Sequence[float]) -> None:
        np.testing.assert_allclose(self.optimizer.learning_rates, rates, rtol=1e-6)
        # Their last bit depends on the order of the products that led to them.
        self.rates = self.optimizer.learning_rates

    def save(self, _: int) -> None:
        self.model.save_weights(self.folder / "model.weights.h5")
        checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
        is_known = [knows(self.optimizer, v) for v in self.model.weights]
        self.saved = {
            "checkpoint": checkpoint.write(str(self.folder / "checkpoint")),
            "ones": [one.stored() for one in self.ones],
            "known": is_known,
            "steps": {self.groups[n].layers: count for n, count in enumerate(self.steps)},
            "rates": {self.groups[n].layers: rate for n, rate in enumerate(self.rates)},
        }

    def load(self, seed: int) -> None:
        """Into what runs, whatever has been trained since."""
        if self.saved is None:
            return
        if seed % 2:
            self.model.load_weights(self.folder / "model.weights.h5")
        else:
            checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
            checkpoint.read(self.saved["checkpoint"]).expect_partial()
        for one, stored, is_known in zip(self.ones, self.saved["ones"], self.saved["known"]):
            one.forget()
            one.restore(stored if is_known else stored[:1])
        self.steps = [self.saved["steps"][group.layers] for group in self.groups]
        self.take_rates([self.saved["rates"][group.layers] for group in self.groups])

    def rebuild(self, seed: int) -> None:
        """Into a new model with other weights, its groups in another order."""
        if self.saved is None:
            return
        rng = np.random.default_rng(seed)
        self.make_model(1)
        order = rng.permutation(len(self.groups))
        self.groups = [self.groups[n] for n in order]
        self.make_optimizer(rng.uniform(1e-3, 0.1, len(order)))
        if rng.random() < 0.5:
            self.freeze_to(int(rng.integers(-4, 5)))
        self.load(seed)

    def check(self) -> None:
        for n, (variable, one) in enumerate(zip(self.model.weights, self.ones)):
            np.testing.assert_array_equal(
                variable.numpy(), one.variable.numpy(), err_msg=f"variable {n}"
            )
        members = self.optimizer.group_optimizers
        assert [int(member.iterations) for member in members] == self.steps
        group_of = self.group_of()
        for variable, group in zip(self.model.weights, group_of):
            owners = [
                n
                for n, member in enumerate(members)
                if member.built and any(known is variable for known in known_variables(member))
            ]
            is_known = any(v is variable for v in known_variables(self.optimizer))
            assert owners == ([group] if is_known else [])
        entries = self.optimizer._assignment.entries()
        if entries:
            assert len(entries) == len({entry.key for entry in entries})
            assert {id(entry.variable): entry.group for entry in entries} == {
                id(v): group for v, group in zip(self.model.weights, group_of)
            }


def run(spec: Any, seed: int, amsgrad: bool, operations: Sequence[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist", UserWarning)
        trial = Trial(spec, seed, amsgrad, Path(folder))
        for name, argument in operations:
            getattr(trial, name.replace(" ", "_"))(argument)
            trial.check()
            counts[name] += 1
        counts["sequences"] += 1


def run_random(n_sequences: int) -> None:
    @hypothesis.settings(
        max_examples=n_sequences,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        spec=MODELS.filter(lambda spec: has_weights(spec[0])),
        seed=SEEDS,
        amsgrad=st.booleans(),
        operations=OPERATIONS,
    )
    def check(spec: Any, seed: int, amsgrad: bool, operations: Any) -> None:
        run(spec, seed, amsgrad, operations)

    check()


@pytest.mark.parametrize("n_sequences", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_any_sequence_trains_as_independent_optimizers_do(n_sequences: int) -> None:
    before = counts["sequences"]
    run_random(n_sequences)
    assert counts["sequences"] >= before + n_sequences


def test_a_sequence_of_everything() -> None:
    """What `save`, `load` and `rebuild` need before and after them, for sure."""
    operations = [
        ("train", 1),
        ("freeze_to", 1),
        ("train", 2),
        ("save", 0),
        ("toggle", 3),
        ("rescale", 0.5),
        ("train", 4),
        ("load", 0),
        ("train", 5),
        ("load", 1),
        ("set rates", 6),
        ("build", 7),
        ("train", 8),
        ("save", 0),
        ("rebuild", 9),
        ("train", 10),
        ("rebuild", 12),
        ("freeze_to", 0),
        ("train", 13),
    ]
    for amsgrad in (False, True):
        run((["dense", ["norm", "embedding"], "plain dense"], True), 3, amsgrad, operations)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("wrong", ["rate", "step", "weight"])
def test_a_trial_notices(wrong: str, tmp_path: Path) -> None:
    trial = Trial((["dense", "norm"], False), 0, False, tmp_path)
    trial.train(0)
    trial.check()
    if wrong == "rate":
        trial.optimizer.learning_rates = [1.001 * r for r in trial.optimizer.learning_rates]
        trial.train(1)
    elif wrong == "step":
        trial.optimizer.group_steps.assign_add([1] * len(trial.groups))
    else:
        weight = trial.model.trainable_variables[0]
        weight.assign(np.nextafter(weight.numpy(), np.float32(9)))
    with pytest.raises(AssertionError, match=r"variable \d|=="):
        trial.check()


if __name__ == "__main__":
    start = time.perf_counter()
    run_random(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    print(f"{time.perf_counter() - start:.0f} s, no failure:")
    for name, count in counts.most_common():
        print(f"{count:8d} {name}")
