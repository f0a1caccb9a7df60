"""Is the mean of the models at the ends of three cycles better than the last of them?

The embedded default of `dlr-tf finetune` (a small network pretrained on the digits 0 to 4, trained
on 5 to 9 with 20 images a class), fine-tuned in three cosine cycles of equal length. Test accuracy
of each snapshot and of the ensemble, for several seeds. Also the largest difference between the
ensemble's predictions and the mean of the snapshots' predictions, each from a model of its own.

    python -m benchmarks.snapshot_ensemble [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from benchmarks import common
from dlr_tf import SGDR, SnapshotEnsemble, fine_tune, split_evenly
from dlr_tf.app.data import load_digits
from dlr_tf.app.models import classifier
from dlr_tf.app.run import pretrain_on_digits
from dlr_tf.training.training_data import steps_in_epoch

N_CYCLES = 3
RATES = (1e-3, 3.16e-3, 1e-2)  # the command's defaults, as is the batch size
BATCH_SIZE = 16


def measure(seed: int, epochs_per_cycle: int, pretraining_epochs: int) -> dict[str, Any]:
    keras.utils.set_random_seed(seed)
    pretraining, data = load_digits(batch_size=BATCH_SIZE, seed=seed)
    backbone, _ = pretrain_on_digits(pretraining, epochs=pretraining_epochs, verbose=0)
    model = classifier(backbone, len(data.class_names))
    first = epochs_per_cycle * steps_in_epoch(data.train)
    schedules = [SGDR(rate, first, t_mul=1.0) for rate in RATES]
    images = data.test.map(lambda image, label: image)
    labels = np.concatenate([label for _, label in data.test.as_numpy_iterator()])

    def accuracy(probabilities: np.ndarray) -> float:
        return float(np.mean(probabilities.argmax(axis=1) == labels))

    with tempfile.TemporaryDirectory() as folder:
        ensemble = SnapshotEnsemble(schedules[-1], folder)
        fine_tune(
            model,
            split_evenly(model, len(RATES)),
            data.train_from(0),
            steps_per_epoch=steps_in_epoch(data.train),
            learning_rate=None,
            schedule=schedules,
            epochs=N_CYCLES * epochs_per_cycle,
            frozen_epochs=0,
            callbacks=[ensemble],
            verbose=0,
        )
        probabilities = ensemble.predict(images, verbose=0)
        members = []
        for path in ensemble.members:
            member = keras.models.clone_model(model)
            member.load_weights(path)
            members.append(member.predict(images, verbose=0))
    return {
        "seed": seed,
        "members": [accuracy(own) for own in members],
        "ensemble": accuracy(probabilities),
        "largest_difference": float(np.abs(probabilities - np.mean(members, axis=0)).max()),
    }


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """One row per seed."""
    if quick:
        return [measure(0, epochs_per_cycle=1, pretraining_epochs=1)]
    return [measure(seed, epochs_per_cycle=10, pretraining_epochs=12) for seed in range(5)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, with the means over the seeds below."""

    def line(label: str, accuracies: Sequence[float], difference: float) -> list[str]:
        return [label, *(common.number(value, 4) for value in accuracies), f"{difference:.0e}"]

    lines = [
        line(str(row["seed"]), [*row["members"], row["ensemble"]], row["largest_difference"])
        for row in rows
    ]
    columns = zip(*([*row["members"], row["ensemble"]] for row in rows), strict=True)
    means = [statistics.mean(column) for column in columns]
    lines.append(line("mean", means, max(row["largest_difference"] for row in rows)))
    cycles = [f"cycle {number}" for number in range(1, N_CYCLES + 1)]
    return common.markdown_table(["seed", *cycles, "ensemble", "from the mean"], lines)


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("snapshot_ensemble", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
