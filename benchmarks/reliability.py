"""Does training continue bit for bit after a stop?

`MultiGroupOptimizer` is compared with Keras' `MultiOptimizer`, in a table with one row per
situation and one column per file format. In each cell, a small model of three groups with equal
shapes trains five steps, is saved, and trains five more. A new process builds the model again from
other weights, restores it, and trains the same five steps. Weights, slots, step counts, rates,
averages, accumulators and the loss scale should then be the same, bit for bit. Situations that
Keras has no setting for are in our table only.

    python -m benchmarks.reliability [--quick] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import common
from dlr_tf import (
    SGDR,
    FusedAdam,
    LayerGroup,
    MultiGroupOptimizer,
    OneCycle,
    SnapshotEnsemble,
    WarmUp,
    split_by_pattern,
)
from dlr_tf.core._keras import known_variables, slots_of, step_counter_of
from dlr_tf.core.model_tree import leaf_layers

WIDTH, BATCH = 6, 4
STEPS = 5  # before the stop, and after it
GROUPS = ("early", "middle", "head")
RATES = (1e-3, 3e-3, 1e-2)
# Groups of single variables, searched in their paths.
PATTERNS = {"early": r"(bias|gamma|beta)$", "middle": r"(early|middle)/kernel$", "head": ""}
FIRST_CYCLE = 3  # steps of SGDR
SNAPSHOTS = "snapshots"  # the folder of the weights at the ends of cycles

EXACT, DIFFERS, RAISES = "exact", "differs", "raises"


def dense(name: str | None = None, activation: str | None = "tanh") -> keras.layers.Layer:
    return keras.layers.Dense(WIDTH, activation, name=name)


def named_model() -> keras.Model:
    inputs = keras.Input((WIDTH,))
    x = keras.layers.BatchNormalization(name="norm")(dense("early")(inputs))
    backbone = keras.Model(inputs, x, name="backbone")
    inputs = keras.Input((WIDTH,))
    x = dense("late")(dense("middle")(backbone(inputs)))
    return keras.Model(inputs, dense("top", None)(x))


@keras.saving.register_keras_serializable(package="dlr_tf_benchmarks")
class Tower(keras.Model):
    """A subclassed model whose layers Keras names by counting: differently in every process."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.early = dense()
        self.norm = keras.layers.BatchNormalization()
        self.middle = dense()
        self.late = dense()
        self.top = dense(activation=None)

    def parts(self) -> list[keras.layers.Layer]:
        return [self.early, self.norm, self.middle, self.late, self.top]

    def build(self, input_shape: Any) -> None:
        for layer in self.parts():
            layer.build((None, WIDTH))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = inputs
        for layer in self.parts():
            x = layer(x, training=training) if layer is self.norm else layer(x)
        return x


def automatic_model() -> keras.Model:
    model = Tower()
    model.build((None, WIDTH))
    return model


def layers_by_group(model: keras.Model) -> dict[str, list[tuple[str, keras.layers.Layer]]]:
    """The layers of each group, each with its path."""
    parts = ("early", "norm", "middle", "late", "top")
    of_part = dict(zip(parts, ("early", "early", "middle", "head", "head")))
    grouped: dict[str, list[tuple[str, keras.layers.Layer]]] = {name: [] for name in GROUPS}
    for leaf in leaf_layers(model):
        grouped[of_part[leaf.path.split("/")[-1]]].append((leaf.path, leaf.layer))
    return grouped


def set_trainable(model: keras.Model, group: str, flag: bool) -> None:
    for _, layer in layers_by_group(model)[group]:
        layer.trainable = flag
    if model.compiled:
        model.make_train_function(force=True)


@dataclasses.dataclass(frozen=True)
class Situation:
    """What training is like when it is stopped.

    Args:
        label: Its name in the table.
        make_model: Builds the model.
        schedule: Makes the schedule of a group from its rate. `None` for constant rates.
        by_pattern: Whether the groups are those of `PATTERNS` instead of layers.
        cycles_momentum: Whether the momentum follows a schedule.
        averaged: Whether the weights at the ends of cycles are averaged.
        only_ours: Whether Keras has no such setting.
        policy: Keras' dtype policy.
        reordered: Whether the groups are given in another order after the stop.
        frozen: The groups that are frozen when training begins.
        events: What is done before a step, by step.
        settings: Arguments for the optimizer.
    """

    label: str
    make_model: Callable[[], keras.Model] = named_model
    schedule: Callable[[float], Any] | None = None
    by_pattern: bool = False
    cycles_momentum: bool = False
    averaged: bool = False
    only_ours: bool = False
    policy: str = "float32"
    reordered: bool = False
    frozen: tuple[str, ...] = ()
    events: Mapping[int, Callable[[keras.Model], None]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def rescale(model: keras.Model) -> None:
    optimizer = inner(model.optimizer)
    for one in getattr(optimizer, "optimizers", [optimizer]):
        one.learning_rate = 0.25 * float(one.learning_rate)


def freeze_middle(model: keras.Model) -> None:
    set_trainable(model, "middle", False)


def unfreeze_all(model: keras.Model) -> None:
    for group in GROUPS:
        set_trainable(model, group, True)


def sgdr(rate: float) -> SGDR:
    return SGDR(rate, FIRST_CYCLE)


def one_cycle(rate: float) -> OneCycle:
    return OneCycle(rate, 2 * STEPS)


def warm_up(rate: float) -> WarmUp:
    """It rises until after the stop, and then falls in a straight line."""
    decay = keras.optimizers.schedules.PolynomialDecay(rate, STEPS - 1, end_learning_rate=0.0)
    return WarmUp(decay, STEPS + 2)


_AVERAGED = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4}
_ACCUMULATED = {"gradient_accumulation_steps": 2}
_DECAYING = {"weight_decay": {"early": 0.0, "middle": 10.0, "head": sgdr(5.0)}}
_TO_START = {"decay_to_start": {"early": 10.0, "middle": 5.0, "head": 0.0}}

SITUATIONS = {
    "plain": Situation("plain"),
    "reordered": Situation("groups given in another order", reordered=True),
    "renamed": Situation("model rebuilt under other automatic names", automatic_model),
    "idle": Situation("a group that never trained", frozen=("early",)),
    "thawed": Situation(
        "saved frozen, resumed trainable",
        frozen=("early",),
        events={3: freeze_middle, STEPS: unfreeze_all},
    ),
    "rescaled": Situation("rates rescaled", events={2: rescale}),
    "sgdr": Situation("SGDR", schedule=sgdr),
    "ema": Situation("EMA", settings=_AVERAGED),
    "accumulation": Situation("in the middle of gradient accumulation", settings=_ACCUMULATED),
    "mixed_float16": Situation("`mixed_float16`", policy="mixed_float16"),
    "together": Situation(
        "the last five, with groups in another order",
        schedule=sgdr,
        policy="mixed_float16",
        reordered=True,
        events={2: rescale},
        settings={**_AVERAGED, **_ACCUMULATED},
    ),
    "warm_up": Situation("warm-up, then linear decay", schedule=warm_up),
    "patterns": Situation("groups of variables, by pattern", by_pattern=True),
    "momentum": Situation(
        "one-cycle, with its momentum", schedule=one_cycle, cycles_momentum=True, only_ours=True
    ),
    "weight_decay": Situation(
        "weight decay per group, one by a schedule", only_ours=True, settings=_DECAYING
    ),
    "decay_to_start": Situation("decay to the start", only_ours=True, settings=_TO_START),
    "averaged_weights": Situation(
        "averaged weights, within a cycle", schedule=sgdr, averaged=True, only_ours=True
    ),
    "all_of_these": Situation(
        "the five rows above, with groups in another order",
        schedule=sgdr,
        reordered=True,
        by_pattern=True,
        cycles_momentum=True,
        averaged=True,
        only_ours=True,
        settings={**_DECAYING, **_TO_START},
    ),
}


def ours(model: keras.Model, situation: Situation, order: Sequence[str]) -> Any:
    if situation.by_pattern:
        split = {group.name: group for group in split_by_pattern(model, PATTERNS)}
    else:
        split = {
            name: LayerGroup(name, tuple(path for path, _ in layers))
            for name, layers in layers_by_group(model).items()
        }
    groups = [split[name] for name in order]
    template = FusedAdam(beta_1=one_cycle(1.0).momentum()) if situation.cycles_momentum else None
    optimizer = MultiGroupOptimizer(groups, rates(situation, order), template, **situation.settings)
    optimizer.bind(model)
    return optimizer


def of_keras(model: keras.Model, situation: Situation, order: Sequence[str]) -> Any:
    """`MultiOptimizer`; what it does not do itself is passed to its inner optimizers."""
    grouped = layers_by_group(model)
    inner_optimizers = {
        name: keras.optimizers.Adam(rate, **situation.settings)
        for name, rate in zip(order, rates(situation, order))
    }

    def pattern_of(name: str) -> str:
        if situation.by_pattern:
            return f".*{PATTERNS[name]}.*"
        return f"(.*/)?({'|'.join(layer.name for _, layer in grouped[name])})/.*"

    # One pattern per group: an optimizer that is listed twice becomes two optimizers when it is
    # made from its configuration. The head's optimizer is the default.
    patterns = {pattern_of(name): inner_optimizers[name] for name in order if name != "head"}
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(inner_optimizers["head"], optimizer_map=patterns)
    )


COMPETITORS = {"MultiGroupOptimizer": ours, "MultiOptimizer": of_keras}


def rates(situation: Situation, order: Sequence[str]) -> list[Any]:
    by_group = dict(zip(GROUPS, RATES))
    constant = [by_group[name] for name in order]
    return constant if situation.schedule is None else [*map(situation.schedule, constant)]


def inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [tuple(rng.normal(size=(2, BATCH, WIDTH)).astype("float32")) for _ in range(STEPS)]


def make_run(make_optimizer: Callable[..., Any], situation: Situation, seed: int) -> keras.Model:
    """A compiled model with weights from the seed: 0 before the stop, 1 after it."""
    keras.utils.set_random_seed(seed)
    model = situation.make_model()
    for group in situation.frozen:
        set_trainable(model, group, False)
    order = GROUPS[::-1] if situation.reordered and seed else GROUPS
    compile_with(model, make_optimizer(model, situation, order))
    return model


def compile_with(model: keras.Model, optimizer: Any) -> None:
    model.compile(optimizer, "mse", jit_compile=False)


def prepare(situation: Situation, n_others: int = 0) -> None:
    """Start as a new program does. It may create other layers before those of the model."""
    keras.backend.clear_session()
    keras.config.set_dtype_policy(situation.policy)
    for _ in range(n_others):
        dense()


def ensemble_of(model: keras.Model, situation: Situation, folder: Path) -> SnapshotEnsemble | None:
    """What saves the weights at the ends of cycles, if the situation has it."""
    if not situation.averaged:
        return None
    ensemble = SnapshotEnsemble(sgdr(1.0), folder)
    ensemble.set_model(model)
    return ensemble


def train(
    model: keras.Model, situation: Situation, steps: range, ensemble: SnapshotEnsemble | None
) -> None:
    if ensemble is not None:
        ensemble.on_train_begin()
        ensemble.on_epoch_begin(0)
    for step in steps:
        if step in situation.events:
            situation.events[step](model)
        model.train_on_batch(*batches()[step % STEPS])
        if ensemble is not None:
            ensemble.on_train_batch_end(step)


class Events(keras.callbacks.Callback):
    """The situation's events inside `fit`, and the stop at a given step."""

    def __init__(
        self,
        situation: Situation,
        ensemble: SnapshotEnsemble | None,
        stop_at: int | None = None,
        stop: Any = None,
    ) -> None:
        super().__init__()
        self.situation, self.stop_at, self.stop = situation, stop_at, stop
        self.ensemble = ensemble
        self.first = self.step = 0
        self.final: dict[str, np.ndarray] | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.first = epoch * STEPS

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = self.first + batch
        if step == self.stop_at:
            self.stop()
        if step in self.situation.events:
            self.situation.events[step](self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # `fit` overwrites the weights with their averages when it ends.
        self.final = snapshot(self.model, self.ensemble)


class StoppedError(Exception):
    """Ends `fit` in the middle of an epoch, without a call of `on_train_end`."""


def fit(model: keras.Model, situation: Situation, folder: Path, **stop: Any) -> Any:
    x, y = (np.concatenate(part) for part in zip(*batches()))
    ensemble = ensemble_of(model, situation, folder / "backup_snapshots")
    events = Events(situation, ensemble, **stop)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
    callbacks = [backup, *([] if ensemble is None else [ensemble]), events]
    model.fit(x, y, BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    return events.final


def snapshot(model: keras.Model, ensemble: SnapshotEnsemble | None) -> dict[str, np.ndarray]:
    """Return all that training depends on, under names that depend only on the model's order.

    With an ensemble, also the mean of the weights at the ends of the cycles.
    """
    values = {f"weight {n}": v.numpy() for n, v in enumerate(model.weights)}
    number = {id(variable): n for n, variable in enumerate(model.weights)}
    optimizer = inner(model.optimizer)
    if optimizer is not model.optimizer:
        values["loss scale"] = model.optimizer.dynamic_scale.numpy()
        values["steps since the loss scale changed"] = model.optimizer.step_counter.numpy()
    values["iterations"] = np.asarray(step_counter_of(optimizer).numpy())
    inner_optimizers = list(getattr(optimizer, "group_optimizers", None) or optimizer.optimizers)
    for one in [optimizer, *inner_optimizers]:
        for name, slots in slots_of(one).items():
            for variable, slot in zip(known_variables(one), slots):
                values[f"{name} of weight {number[id(variable)]}"] = slot.numpy()
    for one in inner_optimizers:
        trained = [number[id(v)] for v in known_variables(one)] if one.built else []
        if trained:
            values[f"steps of the group of weight {min(trained)}"] = np.asarray(
                one.iterations.numpy()
            )
            values[f"rate of the group of weight {min(trained)}"] = np.asarray(
                one.learning_rate, np.float32
            )
    if isinstance(optimizer, MultiGroupOptimizer):
        states: dict[str, np.ndarray] = {}
        optimizer.save_own_variables(states)
        values |= {name: state for name, state in states.items() if name.endswith(".start")}
    if ensemble is not None:
        x = np.concatenate([x for x, _ in batches()])
        averaged = ensemble.averaged_model(x, batch_size=BATCH)
        values |= {f"mean of weight {n}": w for n, w in enumerate(averaged.get_weights())}
    return values


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to save training.

    Args:
        label: Its name in the table.
        save: Saves a model in a folder.
        restore: Makes the model again from the files in the folder.
    """

    label: str
    save: Callable[[keras.Model, Path], None]
    restore: Callable[[Callable[[], keras.Model], Situation, Path], keras.Model]


def save_archive(model: keras.Model, folder: Path) -> None:
    model.save(folder / "model.keras")


def restore_archive(make: Callable[[], keras.Model], situation: Situation, folder: Path) -> Any:
    if not situation.reordered:
        return keras.models.load_model(folder / "model.keras")
    model = make()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(folder / "model.keras")
    return model


def save_weights(model: keras.Model, folder: Path) -> None:
    model.save_weights(folder / "model.weights.h5")


def restore_weights(make: Callable[[], keras.Model], situation: Situation, folder: Path) -> Any:
    model = make()
    if STEPS in situation.events:
        situation.events[STEPS](model)  # trainable before the state of the frozen layers is loaded
    model.optimizer.build(model.trainable_variables)
    model.load_weights(folder / "model.weights.h5")
    return model


def manager_of(model: keras.Model, folder: Path) -> tf.train.CheckpointManager:
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    return tf.train.CheckpointManager(checkpoint, folder / "checkpoint", max_to_keep=1)


def save_checkpoint(model: keras.Model, folder: Path) -> None:
    manager_of(model, folder).save()


def restore_checkpoint(make: Callable[[], keras.Model], situation: Situation, folder: Path) -> Any:
    model = make()
    model.optimizer.build(model.trainable_variables)
    manager = manager_of(model, folder)
    manager.checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    return model


def save_config(model: keras.Model, folder: Path) -> None:
    config = keras.saving.serialize_keras_object(model.optimizer)
    (folder / "config.json").write_text(json.dumps(config))
    optimizer = inner(model.optimizer)
    parts = {"model": model.get_weights(), "optimizer": [v.numpy() for v in optimizer.variables]}
    if optimizer is not model.optimizer:
        parts["wrapper"] = [v.numpy() for v in model.optimizer._variables]
    for name, arrays in parts.items():
        np.savez(folder / f"{name}.npz", *arrays)


def restore_config(make: Callable[[], keras.Model], situation: Situation, folder: Path) -> Any:
    model = make()
    if not situation.reordered:
        config = json.loads((folder / "config.json").read_text())
        compile_with(model, keras.saving.deserialize_keras_object(config))
        if isinstance(inner(model.optimizer), MultiGroupOptimizer):
            inner(model.optimizer).bind(model)
    model.optimizer.build(model.trainable_variables)
    model.set_weights(arrays_in(folder / "model.npz"))
    inner(model.optimizer).set_weights(arrays_in(folder / "optimizer.npz"))
    if inner(model.optimizer) is not model.optimizer:
        model.optimizer.set_weights(arrays_in(folder / "wrapper.npz"))
    return model


def arrays_in(path: Path) -> list[np.ndarray]:
    with np.load(path) as stored:
        return [stored[f"arr_{n}"] for n in range(len(stored.files))]


FORMATS = {
    "keras": Format("`.keras`", save_archive, restore_archive),
    "weights": Format("`.weights.h5`", save_weights, restore_weights),
    "checkpoint": Format("`tf.train.Checkpoint`", save_checkpoint, restore_checkpoint),
    "config": Format("config and `set_weights`", save_config, restore_config),
}
# Not a pair of functions: it saves and restores inside `fit`.
BACKUP = "backup"
LABELS = {name: way.label for name, way in FORMATS.items()} | {BACKUP: "`BackupAndRestore`"}


def save_all(make_optimizer: Callable[..., Any], situations: Sequence[str], folder: Path) -> None:
    """The process that trains, saves and is killed."""
    errors: dict[str, dict[str, str]] = {}
    for name in situations:
        situation, errors[name] = SITUATIONS[name], {}
        prepare(situation)
        model = make_run(make_optimizer, situation, seed=0)
        ensemble = ensemble_of(model, situation, folder / name / SNAPSHOTS)
        try:
            train(model, situation, range(STEPS), ensemble)
        except Exception as error:
            errors[name] = dict.fromkeys(LABELS, said(error))
            continue
        for way, how in FORMATS.items():
            (folder / name / way).mkdir(parents=True)
            try:
                how.save(model, folder / name / way)
            except Exception as error:
                errors[name][way] = said(error)
            if ensemble is not None:
                shutil.copytree(ensemble.directory, folder / name / way / SNAPSHOTS)
        try:
            train(model, situation, range(STEPS, 2 * STEPS), ensemble)
        except Exception as error:
            errors[name] = dict.fromkeys(LABELS, f"already without a stop: {said(error)}")
            continue
        np.savez(folder / name / "expected.npz", **snapshot(model, ensemble))
    (folder / "errors.json").write_text(json.dumps(errors))

    for number, name in enumerate(situations):
        if BACKUP in errors[name]:
            continue
        is_last = number == len(situations) - 1
        prepare(SITUATIONS[name])
        model = make_run(make_optimizer, SITUATIONS[name], seed=0)
        try:
            stop = die if is_last else raise_stopped
            fit(model, SITUATIONS[name], folder / name, stop_at=STEPS + 2, stop=stop)
        except StoppedError:
            pass
        except Exception as error:
            errors[name][BACKUP] = said(error)
            (folder / "errors.json").write_text(json.dumps(errors))
    die()


def raise_stopped() -> None:
    raise StoppedError


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def restore_all(
    make_optimizer: Callable[..., Any], situations: Sequence[str], folder: Path
) -> None:
    """The process that restores, continues, and compares."""
    errors = json.loads((folder / "errors.json").read_text())
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for name in situations:
        cells[name] = {}
        for way in LABELS:
            if way in errors[name]:
                cells[name][way] = {"outcome": RAISES, "detail": errors[name][way]}
                continue
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                # Groups in another order have rates in another order.
                warnings.filterwarnings("ignore", message="The learning rates fall")
                cell = restore_cell(make_optimizer, SITUATIONS[name], way, folder / name)
            messages = {str(w.message).split("\n")[0] for w in caught if w.category is UserWarning}
            cells[name][way] = {**cell, "warnings": sorted(messages)}
    (folder / "cells.json").write_text(json.dumps(cells))


def restore_cell(
    make_optimizer: Callable[..., Any], situation: Situation, way: str, folder: Path
) -> dict[str, Any]:
    prepare(situation, n_others=7)

    def make() -> keras.Model:
        return make_run(make_optimizer, situation, seed=1)

    try:
        if way == BACKUP:
            found = fit(make(), situation, folder)
        else:
            model = FORMATS[way].restore(make, situation, folder / way)
            ensemble = ensemble_of(model, situation, folder / way / SNAPSHOTS)
            train(model, situation, range(STEPS, 2 * STEPS), ensemble)
            found = snapshot(model, ensemble)
    except Exception as error:
        return {"outcome": RAISES, "detail": said(error)}
    with np.load(folder / "expected.npz") as stored:
        expected = dict(stored)
    return compare(expected, found)


def compare(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the result of one cell: whether all values are there, and equal bit for bit."""
    names = sorted({*expected, *found})
    wrong = [
        name
        for name in names
        if name not in expected
        or name not in found
        or expected[name].shape != found[name].shape
        or expected[name].tobytes() != found[name].tobytes()
    ]
    if not wrong:
        return {"outcome": EXACT, "detail": f"{len(names)} values"}
    return {
        "outcome": DIFFERS,
        "detail": f"{len(wrong)} of {len(names)} values: {', '.join(wrong[:4])}, ...",
    }


def said(error: Exception) -> str:
    text = str(error).split("\n")[0]
    return f"{type(error).__name__}: {text[:150]}"


def run(competitor: str, situations: Sequence[str], folder: Path) -> dict[str, Any]:
    """Runs both processes.

    Args:
        competitor: One of `COMPETITORS`.
        situations: Some of `SITUATIONS`.
        folder: An empty folder for their files.

    Returns:
        For each situation and format: `"outcome"`, `"detail"` and `"warnings"`.

    Raises:
        RuntimeError: If a process ends with an unexpected exit status.
    """
    for phase, expected in (("save", -signal.SIGKILL), ("restore", 0)):
        command = [sys.executable, "-m", "benchmarks.reliability", "--phase", phase]
        command += ["--competitor", competitor, "--folder", str(folder), *situations]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
        if done.returncode != expected:
            raise RuntimeError(
                f"The process to {phase} ended with {done.returncode}, not {expected}:\n"
                f"{done.stdout}{done.stderr}"
            )
    cells: dict[str, Any] = json.loads((folder / "cells.json").read_text())
    return cells


def situations_of(competitor: str) -> list[str]:
    is_ours = COMPETITORS[competitor] is ours
    return [name for name, one in SITUATIONS.items() if is_ours or not one.only_ours]


def table(cells: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    columns = ["", *LABELS.values()]
    rows = [
        [SITUATIONS[name].label, *(row[way]["outcome"] for way in LABELS)]
        for name, row in cells.items()
    ]
    return common.markdown_table(columns, rows, n_left=len(columns))


def main(argv: list[str] | None = None) -> int:
    description = (__doc__ or "").strip()
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two situations only")
    parser.add_argument("--output", type=Path, help="JSON file for the cells")
    parser.add_argument("--phase", choices=("save", "restore"), help=argparse.SUPPRESS)
    parser.add_argument("--competitor", choices=COMPETITORS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("situations", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.phase:
        tf.config.set_visible_devices([], "GPU")
        # What is loaded now stays until the end, so no collection needs to look at it again.
        gc.freeze()
        phase = save_all if arguments.phase == "save" else restore_all
        phase(COMPETITORS[arguments.competitor], arguments.situations, arguments.folder)
        return 0

    rows = []
    for competitor in COMPETITORS:
        situations = ["plain", "reordered"] if arguments.quick else situations_of(competitor)
        with tempfile.TemporaryDirectory() as folder:
            cells = run(competitor, situations, Path(folder))
        n_exact = sum(cell["outcome"] == EXACT for row in cells.values() for cell in row.values())
        print(f"\n{competitor}: {n_exact} of {len(situations) * len(LABELS)} exact\n")
        print(table(cells))
        rows += [
            {"competitor": competitor, "situation": name, "format": way, **cell}
            for name, row in cells.items()
            for way, cell in row.items()
        ]
    if arguments.output is not None:
        arguments.device = "cpu"
        common.write_report(arguments.output, "reliability", arguments, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
