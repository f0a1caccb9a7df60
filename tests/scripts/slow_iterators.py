"""Does deleting a `tf.data` iterator wait? Shown on TensorFlow alone.

Each iterator of an autotuned pipeline (the default) has a thread that tunes it. The thread sleeps
for a period between two rounds: 10 ms at first, twice as long each time, up to 60 s. To delete the
iterator, TensorFlow cancels that thread and waits for its end. Sometimes the wait lasts for the
rest of the period, and Python's lock is held meanwhile: `CancellationManager::StartCancel` calls
the callback that wakes `Model::OptimizeLoop` before it counts as cancelled, so a loop that wakes at
once does not see that it should end, and sleeps again.

    python -m tests.scripts.slow_iterators [--seconds S] [--iterators N] [--no-autotune]

It prints the seconds that deleting each iterator took. With `--no-autotune` none should wait.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import tensorflow as tf


def make_dataset(*, autotune: bool) -> tf.data.Dataset:
    """Return a small pipeline of the usual form."""
    dataset = tf.data.Dataset.range(1000).repeat()
    dataset = dataset.map(lambda x: x + 1, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(8).prefetch(tf.data.AUTOTUNE)
    if autotune:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def seconds_to_delete(datasets: Sequence[tf.data.Dataset], seconds: float) -> list[float]:
    """Read from one iterator of each data set for some seconds, then delete them one by one."""
    iterators = [iter(dataset) for dataset in datasets]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for iterator in iterators:
            next(iterator)
        time.sleep(0.01)
    taken = []
    while iterators:
        iterator = iterators.pop()
        begun = time.perf_counter()
        del iterator
        taken.append(time.perf_counter() - begun)
    return taken


def main(argv: Sequence[str] | None = None) -> int:
    """Print the seconds of each deletion. Return 1 if one waited for more than 0.3 s."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="that an iterator lives")
    parser.add_argument("--iterators", type=int, default=20)
    parser.add_argument("--no-autotune", action="store_true")
    options = parser.parse_args(argv)
    dataset = make_dataset(autotune=not options.no_autotune)
    taken = seconds_to_delete([dataset] * options.iterators, options.seconds)
    print(f"TensorFlow {tf.__version__}: {', '.join(f'{seconds:.2f}' for seconds in taken)}")
    waited = sum(seconds > 0.3 for seconds in taken)
    print(f"{waited} of {len(taken)} iterators took more than 0.3 s to delete")
    return int(waited > 0)


if __name__ == "__main__":
    raise SystemExit(main())
