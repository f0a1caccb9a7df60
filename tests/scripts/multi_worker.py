"""One of two workers on the loopback address; `TF_CONFIG` says which.

    python -m tests.scripts.multi_worker first FOLDER
    python -m tests.scripts.multi_worker second FOLDER

`first` trains, compares with one device, and is killed in mid-epoch (worker 1 kills itself);
`second` resumes where the last checkpoint was written. Each check that fails ends the process with
an error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dlr_tf.freezing import freeze_to
from tests.scripts.training import BATCH, STEPS, Loop, assert_alike, data, optimizer_for, stack

# Seconds to wait for the other worker, and for everything.
CLUSTER_LIMIT, WHOLE_LIMIT = 30.0, 150.0
ALONE, STUCK = 3, 4  # exit codes
KILLED_AT = 3  # the step of the second epoch before which worker 1 dies

TOGETHER: dict[str, Any] = {
    "global_clipnorm": 0.5,
    "gradient_accumulation_steps": 2,
    "use_ema": True,
    "ema_momentum": 0.8,
    "ema_overwrite_frequency": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "global norm": {"global_clipnorm": 0.5},
    "together": TOGETHER,
}


def stop_after(seconds: float, code: int, message: str) -> threading.Timer:
    """A thread that ends the process, whatever it waits for; `cancel` calls it off."""

    def stop() -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(code)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    return timer


def number_of_this_worker() -> int:
    return int(json.loads(os.environ["TF_CONFIG"])["task"]["index"])


def join_the_others() -> tf.distribute.Strategy:
    message = f"No other worker came within {CLUSTER_LIMIT:.0f} seconds."
    timer = stop_after(CLUSTER_LIMIT, ALONE, message)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    timer.cancel()
    assert strategy.num_replicas_in_sync == 2
    return strategy


def compare(loop: Loop, twin: Loop) -> None:
    np.testing.assert_allclose(loop.losses, twin.losses, rtol=1e-5)
    assert_alike(loop.values(), twin.values())


# --- training -------------------------------------------------------------------------------------


def train(strategy: tf.distribute.Strategy, folder: Path) -> None:
    for settings in SETTINGS.values():
        compare(Loop(strategy, settings=settings).epoch(), Loop(settings=settings).epoch())


def thaw(strategy: tf.distribute.Strategy, folder: Path) -> None:
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


def fit(strategy: tf.distribute.Strategy, folder: Path) -> None:
    """Whether Keras' own `fit` works here; what it says is written down, not judged."""
    outcomes = {}
    for name, make_optimizer in (
        ("Adam", lambda model: keras.optimizers.Adam()),
        ("MultiGroupOptimizer", optimizer_for),
    ):
        with strategy.scope():
            model = stack()
            model.compile(make_optimizer(model), "mse", jit_compile=False)
            model.optimizer.build(model.trainable_variables)
        try:
            model.fit(*data(model), batch_size=BATCH, shuffle=False, verbose=0)
            outcomes[name] = "works"
        except Exception as error:
            outcomes[name] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    (folder / f"fit_{number_of_this_worker()}.json").write_text(json.dumps(outcomes))


# --- killed and resumed ---------------------------------------------------------------------------


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

    def run(self, before: Callable[[int], None] | None = None) -> list[float]:
        while int(self.done) < 2 * STEPS:
            iterator = self.loop.distributed()
            for number in range(STEPS):
                batch = next(iterator)
                if number < int(self.done) % STEPS:
                    continue  # seen before the stop
                if before is not None:
                    before(int(self.done))
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
    assert int(resumed.done) == STEPS + KILLED_AT, int(resumed.done)
    resumed.run()
    alone = Loop(settings=TOGETHER).epoch().epoch()
    np.testing.assert_allclose(resumed.loop.losses, alone.losses[STEPS + KILLED_AT :], rtol=1e-5)
    assert_alike(resumed.loop.values(), alone.values())


def main(phase: str, folder: Path) -> None:
    tf.config.set_visible_devices([], "GPU")
    stop_after(WHOLE_LIMIT, STUCK, f"Not done within {WHOLE_LIMIT:.0f} seconds.")
    strategy = join_the_others()
    parts = {"first": (train, thaw, interchange, fit, begin), "second": (resume,)}[phase]
    for part in parts:
        part(strategy, folder)
        (folder / f"{part.__name__}_{number_of_this_worker()}.done").touch()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
