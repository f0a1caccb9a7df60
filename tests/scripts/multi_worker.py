"""One of two workers on the loopback address; `TF_CONFIG` says which.

    python -m tests.scripts.multi_worker first|second|third FOLDER WAIT

`first` trains, compares with one device, and is killed in the middle of an epoch (worker 1 kills
itself); `second` resumes where the last checkpoint was written, and is killed in the middle of an
epoch of `fine_tune`; `third` resumes that from `BackupAndRestore`. Each check that fails ends the
process with an error.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf import distributed_fit, is_chief, make_strategy
from dlr_tf.core.groups import split_layers
from dlr_tf.training.fine_tuning import fine_tune
from dlr_tf.training.freezing import freeze_to
from tests.scripts.training import (
    BATCH,
    RATES,
    STEPS,
    Loop,
    assert_alike,
    batches,
    data,
    optimizer_for,
    stack,
)

WHOLE_LIMIT = 150.0  # seconds
EVERY = 2  # steps of `fine_tune` between two backups
KILLED_AT = 3  # the step of the second epoch before which worker 1 dies

OPTIMIZERS: dict[str, Callable[[keras.Model], Any]] = {
    "Adam": lambda model: keras.optimizers.Adam(),
    "MultiGroupOptimizer": optimizer_for,
}
TOGETHER: dict[str, Any] = {
    "global_clipnorm": 0.5,
    "gradient_accumulation_steps": 2,
    "use_ema": True,
    "ema_momentum": 0.8,
    "ema_overwrite_frequency": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {"plain": {}, "together": TOGETHER}


def number_of_this_worker() -> int:
    return int(json.loads(os.environ["TF_CONFIG"])["task"]["index"])


def compare(loop: Loop, twin: Loop) -> None:
    np.testing.assert_allclose(loop.losses, twin.losses, rtol=1e-5)
    assert_alike(loop.values(), twin.values())


def train(strategy: tf.distribute.Strategy, folder: Path) -> None:
    for settings in SETTINGS.values():
        compare(Loop(strategy, settings=settings).epoch(), Loop(settings=settings).epoch())


def unfreeze(strategy: tf.distribute.Strategy, folder: Path) -> None:
    loops = []
    for place in (strategy, None):
        loop = Loop(place, settings=TOGETHER)
        for first in (2, 0):
            freeze_to(loop.model, loop.optimizer.groups, first)
            loop.retrace()
            loop.epoch()
        loops.append(loop)
    compare(*loops)


def interchange(strategy: tf.distribute.Strategy, folder: Path) -> None:
    """From two workers to one device, which goes on as they do."""
    path = folder / f"worker_{number_of_this_worker()}.weights.h5"
    loop = Loop(strategy, settings=TOGETHER).epoch()
    loop.model.save_weights(path)
    alone = Loop(settings=TOGETHER, seed=1)
    alone.model.load_weights(path)
    assert_alike(alone.values(), loop.values(), rtol=0.0)
    loop.epoch()
    alone.epoch()
    np.testing.assert_allclose(alone.losses, loop.losses[STEPS:], rtol=1e-5)


def keras_fit(strategy: tf.distribute.Strategy, folder: Path) -> None:
    """Whether Keras' own `fit` works here; what it says is written down, not judged."""
    outcomes = {}
    for name, make_optimizer in OPTIMIZERS.items():
        model = compiled(strategy, make_optimizer)
        try:
            model.fit(*data(model), batch_size=BATCH, shuffle=False, verbose=0)
            outcomes[name] = "works"
        except Exception as error:
            outcomes[name] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    (folder / f"fit_{number_of_this_worker()}.json").write_text(json.dumps(outcomes))


def fit_on_all_workers(strategy: tf.distribute.Strategy, folder: Path) -> None:
    """Losses, metrics, validation and weights, with batches that do not divide evenly."""
    results = []
    for place in (strategy, None):
        model = compiled(place, optimizer_for)
        x, y = data(model)
        with distributed_fit(model, (x, y)):
            history = model.fit(
                batches(model, BATCH - 1),
                epochs=2,
                validation_data=tf.data.Dataset.from_tensor_slices((x, y)).batch(len(x) - 3),
                verbose=0,
            )
            scores = model.evaluate(batches(model), verbose=0)
        # Nothing stays on the model.
        assert model.train_function is None or place is None
        assert "make_train_function" not in vars(model)
        assert model.predict(x, batch_size=BATCH, verbose=0).shape == y.shape
        results.append((history.history, scores, model))
    (logs, scores, model), (known_logs, known_scores, twin) = results
    assert logs.keys() == known_logs.keys() >= {"loss", "mae", "val_loss", "val_mae"}
    for name, values in known_logs.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(scores, known_scores, rtol=1e-5)
    for value, known in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(value, known, rtol=1e-5, atol=1e-6)


def refused_fit(strategy: tf.distribute.Strategy, folder: Path) -> None:
    model = compiled(strategy, optimizer_for, steps_per_execution=2)
    try:
        with distributed_fit(model, data(model)):
            model.fit(batches(model), verbose=0)
    except ValueError as error:
        assert "`steps_per_execution` are not supported" in str(error), error
    else:
        raise AssertionError("two steps a call went through")


def compiled(
    place: tf.distribute.Strategy | None, make_optimizer: Any, **settings: Any
) -> keras.Model:
    with (place or tf.distribute.get_strategy()).scope():
        model = stack()
        model.compile(make_optimizer(model), "mse", metrics=["mae"], **settings)
        model.optimizer.build(model.trainable_variables)
    return model


class Resumable:
    """Two epochs that write a checkpoint after every step and begin at the last one there is."""

    def __init__(self, strategy: tf.distribute.Strategy, folder: Path, seed: int) -> None:
        self.loop = Loop(strategy, settings=TOGETHER, seed=seed)
        with strategy.scope():
            self.done = tf.Variable(0, dtype=tf.int64, trainable=False)
        checkpoint = tf.train.Checkpoint(
            model=self.loop.model, optimizer=self.loop.optimizer, done=self.done
        )
        # Every worker has to take part in saving; only the chief's folder is read.
        own = folder / f"checkpoints_{number_of_this_worker()}"
        self.manager = tf.train.CheckpointManager(checkpoint, own, max_to_keep=2)
        newest = tf.train.latest_checkpoint(folder / "checkpoints_0")
        if newest:
            checkpoint.restore(newest).assert_consumed()

    def steps_done(self) -> int:
        return int(self.done.numpy())

    def run(self, before: Callable[[int], None] | None = None) -> list[float]:
        while self.steps_done() < 2 * STEPS:
            iterator = self.loop.distributed()
            for number in range(STEPS):
                batch = next(iterator)
                if number < self.steps_done() % STEPS:
                    continue  # seen before the stop
                if before is not None:
                    before(self.steps_done())
                self.loop.losses.append(float(self.loop.step(*batch)))
                self.done.assign_add(1)
                self.manager.save()
        return self.loop.losses


def begin(strategy: tf.distribute.Strategy, folder: Path) -> None:
    def die(step: int) -> None:
        if step == STEPS + KILLED_AT and number_of_this_worker() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Resumable(strategy, folder, seed=0).run(die)


def resume(strategy: tf.distribute.Strategy, folder: Path) -> None:
    resumed = Resumable(strategy, folder, seed=1)
    assert resumed.steps_done() == STEPS + KILLED_AT, resumed.steps_done()
    resumed.run()
    alone = Loop(settings=TOGETHER).epoch().epoch()
    np.testing.assert_allclose(resumed.loop.losses, alone.losses[STEPS + KILLED_AT :], rtol=1e-5)
    assert_alike(resumed.loop.values(), alone.values())


def fine_tuned(
    place: tf.distribute.Strategy, folder: Path, before: Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    """Three passes of `fine_tune`, the first with a frozen body, backed up every two steps.

    As docs/several-machines.md describes it: each two steps are an epoch, and after a stop the data
    begin where the backup was written.

    Args:
        place: Strategy to train under.
        folder: Where the first worker backs up, and all read.
        before: Called with the numbers of the epoch and the step before each step.
    """
    with place.scope():
        model = stack()

    class Before(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            before(self.epoch, batch)

    writes = is_chief(place)
    backup = keras.callbacks.BackupAndRestore(
        folder, save_freq="epoch" if writes else sys.maxsize, delete_checkpoint=False
    )
    metadata = folder / "training_metadata.json"
    done = json.loads(metadata.read_text())["epoch"] if metadata.exists() else 0
    fine_tune(
        model,
        split_layers(model, ["layer_1", "layer_2"]),
        batches(model).repeat().skip(done * EVERY),
        learning_rate=RATES,
        epochs=3 * STEPS // EVERY,
        steps_per_epoch=EVERY,
        frozen_epochs=STEPS // EVERY,
        loss="mse",
        metrics=[],
        callbacks=[backup, Before()],
        verbose=0,
    )
    values = {f"weight {n}": v for n, v in enumerate(model.get_weights())}
    own: dict[str, Any] = {}
    model.optimizer.save_own_variables(own)
    return values | {name: np.asarray(value) for name, value in own.items() if name != "manifest"}


def begin_fine_tuning(strategy: tf.distribute.Strategy, folder: Path) -> None:
    def die(epoch: int, step: int) -> None:
        # In the middle of the second pass.
        if (epoch, step) == (4, 1) and number_of_this_worker() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    fine_tuned(strategy, folder / "backup", die)


def resume_fine_tuning(strategy: tf.distribute.Strategy, folder: Path) -> None:
    """Bit for bit as two workers without a stop, and nearly as one device."""
    begun = []
    found = fine_tuned(strategy, folder / "backup", lambda *place: begun.append(place))
    assert begun[0] == (4, 0), begun
    whole = fine_tuned(strategy, folder / "whole", lambda *_: None)
    assert_alike(found, whole, rtol=0.0)
    alone = folder / f"alone_{number_of_this_worker()}"
    assert_alike(found, fine_tuned(tf.distribute.get_strategy(), alone, lambda *_: None))


def main(phase: str, folder: Path, wait: float) -> None:
    tf.config.set_visible_devices([], "GPU")
    strategy = make_strategy("multi-worker", wait=wait)
    # In a thread of its own in C: TensorFlow waits for others and keeps Python's lock.
    faulthandler.dump_traceback_later(WHOLE_LIMIT, exit=True)
    assert strategy.num_replicas_in_sync == 2
    for part in PHASES[phase]:
        part(strategy, folder)
        (folder / f"{part.__name__}_{number_of_this_worker()}.done").touch()


PHASES: dict[str, tuple[Callable[..., None], ...]] = {
    "first": (train, unfreeze, interchange, keras_fit, fit_on_all_workers, refused_fit, begin),
    "second": (resume, begin_fine_tuning),
    "third": (resume_fine_tuning,),
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
