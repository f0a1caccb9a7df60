"""Small models of every kind, the inner optimizers of the tests, and what all tests share."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from dlr_tf.core import _keras
from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup, split_layers

# Keras 3.15's own way to turn a variable into an array, under NumPy 2.
KERAS_WARNING = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning:keras.src"

# They hold no doctests; two of one name cannot both be imported, and the script that made the data
# needs the version that it is for.
collect_ignore_glob = ["conftest.py", "*/conftest.py", "data/*"]

N_INPUTS, N_OUTPUTS = 8, 3
GROUP_NAMES = ("early", "middle", "head")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runslow", action="store_true", help="run the tests that take more than a few seconds too"
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share the files of the whole suite between processes; run files that are named in one.

    Each process loads TensorFlow, with about one GiB of memory.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(os.cpu_count() or 1, 4) if whole else 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", KERAS_WARNING)
    # Tests give groups whatever rates show best what they check.
    config.addinivalue_line("filterwarnings", "ignore:The learning rates fall:UserWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--runslow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --runslow"))


# Python's garbage collector: TensorFlow and Keras hold half a million objects, which each full
# collection visits, and thousands of dead graphs at once take longer to remove than in small parts.
TESTS_PER_COLLECTION = 20
_tests_ended = itertools.count(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    leave_out_of_collections()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        leave_out_of_collections()
    elif next(_tests_ended) % TESTS_PER_COLLECTION == 0:
        gc.collect()


def leave_out_of_collections() -> None:
    """Remove what is dead, and let later collections pass over what lives now."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def terminal_of_120_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as the terminal, which may be one of 80 columns, or none."""
    monkeypatch.setenv("COLUMNS", "120")


def dense(units: int, name: str | None = None, activation: str | None = "tanh") -> Any:
    return keras.layers.Dense(units, activation, name=name)


def sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((N_INPUTS,)),
            dense(6, "stem"),
            keras.layers.BatchNormalization(name="norm"),
            dense(5, "body"),
            dense(N_OUTPUTS, "top", None),
        ]
    )


def functional() -> keras.Model:
    inputs = keras.Input((N_INPUTS,))
    x = dense(6, "stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Add(name="add")([dense(4, "left")(x), dense(4, "right")(x)])
    return keras.Model(inputs, dense(N_OUTPUTS, "top", None)(x))


def nested() -> keras.Model:
    inputs = keras.Input((N_INPUTS,))
    x = dense(6, "stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    backbone = keras.Model(inputs, dense(5, "body")(x), name="backbone")
    inputs = keras.Input((N_INPUTS,))
    x = dense(4, "body")(backbone(inputs))
    return keras.Model(inputs, dense(N_OUTPUTS, "top", None)(x))


@keras.saving.register_keras_serializable(package="dlr_tf_tests")
class Blocks(keras.Model):
    """Lists of layers, a model inside, all named by Keras, and a weight of the model's own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = keras.Sequential([dense(6), keras.layers.BatchNormalization()])
        self.blocks = [dense(5), [dense(4), dense(4)]]
        self.head = dense(N_OUTPUTS, activation=None)

    def build(self, input_shape: Any) -> None:
        self.offset = self.add_weight((N_INPUTS,), "random_normal", name="offset")
        self.stem.build(input_shape)
        width = 6
        for block in self.flat_blocks():
            block.build((None, width))
            width = block.units
        self.head.build((None, width))
        self.built = True

    def flat_blocks(self) -> list[Any]:
        return [self.blocks[0], *self.blocks[1]]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.stem(inputs + self.offset, training=training)
        for block in self.flat_blocks():
            x = block(x)
        return self.head(x)


def subclassed() -> keras.Model:
    model = Blocks()
    model.build((None, N_INPUTS))
    return model


def shared() -> keras.Model:
    inputs = keras.Input((N_INPUTS,))
    twice = dense(N_INPUTS, "twice")
    x = twice(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = dense(5, "body")(twice(x))
    return keras.Model(inputs, dense(N_OUTPUTS, "top", None)(x))


def attention() -> keras.Model:
    inputs = keras.Input((N_INPUTS,))
    x = keras.layers.Reshape((4, N_INPUTS // 4), name="reshape")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(dense(4, "embed")(x))
    x = keras.layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, dense(N_OUTPUTS, "top", None)(x))


@dataclasses.dataclass(frozen=True)
class Sample:
    """A small model of one kind, built anew on each call of `model`, always with the same weights.

    Args:
        kind: What kind of model it is.
        build: Builds the model.
        boundaries: Two boundaries, which make three groups.
        layers: The paths of the layers of each group.
    """

    kind: str
    build: Callable[[], keras.Model]
    boundaries: tuple[str, str]
    layers: tuple[tuple[str, ...], ...]

    def model(self, seed: int = 7) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return self.build()

    def groups(self, model: keras.Model) -> tuple[LayerGroup, ...]:
        return split_layers(model, self.boundaries, GROUP_NAMES)

    @staticmethod
    def data(n: int = 12, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, N_INPUTS)).astype("float32")
        return x, rng.normal(size=(n, N_OUTPUTS)).astype("float32")


SAMPLES = {
    sample.kind: sample
    for sample in (
        Sample("sequential", sequential, ("body", "top"), (("stem", "norm"), ("body",), ("top",))),
        Sample(
            "functional",
            functional,
            ("left", "top"),
            (("stem", "norm"), ("left", "right", "add"), ("top",)),
        ),
        Sample(
            "nested",
            nested,
            ("backbone/body", "top"),
            (("backbone/stem", "backbone/norm"), ("backbone/body", "body"), ("top",)),
        ),
        Sample(
            "subclassed",
            subclassed,
            ("blocks/1/0", "head"),
            (("stem/0", "stem/1", "blocks/0"), ("blocks/1/0", "blocks/1/1"), ("head",)),
        ),
        Sample("shared", shared, ("body", "top"), (("twice", "norm"), ("body",), ("top",))),
        Sample(
            "attention",
            attention,
            ("attention", "top"),
            (("reshape", "embed", "norm"), ("attention", "flatten"), ("top",)),
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Template:
    """One of the two inner optimizers that the tests of the optimizer run with."""

    kind: str

    def argument(self) -> keras.optimizers.Optimizer | None:
        """What to pass to `MultiGroupOptimizer` as `optimizer`."""
        return keras.optimizers.Adam() if self.kind == "keras_adam" else None

    def plain(self, learning_rate: Any, **kwargs: Any) -> keras.optimizers.Optimizer:
        """The same optimizer on its own."""
        kind = keras.optimizers.Adam if self.kind == "keras_adam" else FusedAdam
        return kind(learning_rate, **kwargs)


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> Sample:
    """Every kind of model in turn."""
    return SAMPLES[request.param]


@pytest.fixture
def samples() -> dict[str, Sample]:
    """All kinds of models by name, for tests that need one kind or several."""
    return SAMPLES


@pytest.fixture(params=["keras_adam", "fused_adam"])
def template(request: pytest.FixtureRequest) -> Template:
    """Keras' own Adam and the default in turn."""
    return Template(request.param)


@pytest.fixture
def keras_adam() -> Template:
    return Template("keras_adam")


def set_random_seed(seed: int) -> None:
    """Set all seeds; up to Keras 3.12 `keras.utils.set_random_seed` leaves Keras' generator."""
    keras.utils.set_random_seed(seed)
    _keras.set_keras_generator(None)


def newer_optimizer(name: str, *args: Any, **kwargs: Any) -> Any:
    """Make an optimizer of `keras.optimizers`; skip the test where this Keras lacks it.

    Up to Keras 3.12, Muon is there, but fails at its first step with TensorFlow.
    """
    if not hasattr(keras.optimizers, name) or (name == "Muon" and not _keras.muon_works()):
        pytest.skip(f"`keras.optimizers.{name}` is not there, or does not work, in this Keras")
    return getattr(keras.optimizers, name)(*args, **kwargs)


# Every optimizer that Keras has, as a function of its rate, with settings that use all its state.
OPTIMIZERS: dict[str, Callable[[Any], keras.optimizers.Optimizer]] = {
    "Adadelta": keras.optimizers.Adadelta,
    "Adafactor": keras.optimizers.Adafactor,
    "Adagrad": keras.optimizers.Adagrad,
    "Adam": keras.optimizers.Adam,
    "Adam amsgrad": lambda rate: keras.optimizers.Adam(rate, amsgrad=True),
    "AdamW": keras.optimizers.AdamW,
    "Adamax": keras.optimizers.Adamax,
    "Ftrl": lambda rate: keras.optimizers.Ftrl(rate, l1_regularization_strength=1e-3, beta=0.1),
    "Lamb": keras.optimizers.Lamb,
    "Lion": keras.optimizers.Lion,
    "Muon": lambda rate: newer_optimizer("Muon", rate, adam_weight_decay=0.02),
    "Nadam": keras.optimizers.Nadam,
    "RMSprop": keras.optimizers.RMSprop,
    "RMSprop centered": lambda rate: keras.optimizers.RMSprop(rate, momentum=0.9, centered=True),
    "SGD": keras.optimizers.SGD,
    "SGD momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "SGD nesterov": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "ScheduleFreeAdamW": lambda rate: newer_optimizer(
        "ScheduleFreeAdamW", rate, warmup_steps=3, weight_decay=0.01
    ),
    "FusedAdam": FusedAdam,
    "FusedAdam amsgrad": lambda rate: FusedAdam(rate, amsgrad=True, weight_decay=0.01),
}


# One of every kind of state: none, slots of the variable's shape, slots of other shapes, none for
# some variables, copies of the variable, and variables for all of them together. The others are
# `slow`.
ONE_OF_EVERY_KIND = (
    "Adafactor",
    "Adam",
    "FusedAdam amsgrad",
    "Muon",
    "Nadam",
    "RMSprop centered",
    "SGD",
    "ScheduleFreeAdamW",
)


@pytest.fixture(
    params=[
        name if name in ONE_OF_EVERY_KIND else pytest.param(name, marks=pytest.mark.slow)
        for name in OPTIMIZERS
    ]
)
def any_optimizer(request: pytest.FixtureRequest) -> Callable[[Any], keras.optimizers.Optimizer]:
    """Every optimizer that Keras has, and ours, in turn, as a function of its rate."""
    return OPTIMIZERS[request.param]


@pytest.fixture
def optimizers() -> dict[str, Callable[[Any], keras.optimizers.Optimizer]]:
    """All of them by name."""
    return OPTIMIZERS
