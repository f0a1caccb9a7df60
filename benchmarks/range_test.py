"""Does the rate that a range test suggests train as well as the best of a grid?

A model of `keras.applications` on a folder of images: three groups whose rates span a factor of
100, batch normalization frozen, seven epochs of cosine restarts, the first with a frozen body. The
head's rate is `valley`'s suggestion, and each of a grid. Needs data, so
`python -m benchmarks` does not run it.

    python -m benchmarks.range_test FOLDER [--model MobileNetV2] [--weights imagenet|PATH]
        [--image-size 97] [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from benchmarks import common
from dlr_tf import (
    MultiGroupOptimizer,
    find_learning_rate,
    fine_tune,
    freeze_batch_norm,
    split_evenly,
)
from dlr_tf.app.data import load
from dlr_tf.app.models import application_model
from dlr_tf.training.lr_suggestions import SUGGESTIONS
from dlr_tf.training.training_data import steps_in_epoch

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SPAN = 100.0  # the head's rate to the first group's
N_GROUPS, EPOCHS, BATCH_SIZE, SEED = 3, 7, 32, 0


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per rate."""
    keras.utils.set_random_seed(SEED)
    data = load(arguments.data, image_size=arguments.image_size, batch_size=BATCH_SIZE, seed=SEED)
    model = application_model(
        arguments.model,
        len(data.class_names),
        weights=arguments.weights,
        image_size=arguments.image_size,
    )
    groups = split_evenly(model, N_GROUPS)
    initial = model.get_weights()

    def rates(head: float) -> slice:
        return slice(head / SPAN, head)

    optimizer = MultiGroupOptimizer(groups, rates(1e-3))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    freeze_batch_norm(model)
    sweep = find_learning_rate(model, data.train, verbose=0)
    suggestions = {}
    for method in SUGGESTIONS:
        try:
            suggestions[method] = float(sweep.suggest(method))
        except ValueError as error:
            print(f"{method}: {error}")
    print({method: f"{rate:.2e}" for method, rate in suggestions.items()}, flush=True)

    rows = []
    for source, head in [("valley", suggestions["valley"]), *(("grid", rate) for rate in GRID)]:
        keras.utils.set_random_seed(SEED)
        model.set_weights(initial)
        fine_tune(
            model,
            groups,
            data.train_from(0),
            steps_per_epoch=steps_in_epoch(data.train),
            learning_rate=rates(head),
            schedule="sgdr",
            frozen_epochs=0 if arguments.quick else 1,
            epochs=1 if arguments.quick else EPOCHS,
            verbose=0,
        )
        scores = model.evaluate(data.test, verbose=0, return_dict=True)
        rows.append(
            {
                "model": arguments.model,
                "data": data.name,
                "source": source,
                "learning_rate": head,
                "test_accuracy": scores["accuracy"],
                "suggestions": suggestions,
            }
        )
        print(f"{source} {head:.2e}: {scores['accuracy']:.4f}", flush=True)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, the suggested rate first."""
    best = max(row["test_accuracy"] for row in rows if row["source"] == "grid")
    lines = [
        [
            row["source"],
            f"{row['learning_rate']:.1e}",
            common.number(row["test_accuracy"], 4),
            f"{100 * (row['test_accuracy'] - best):+.1f}",
        ]
        for row in rows
    ]
    return common.markdown_table(
        ["rate from", "head's rate", "test accuracy", "points to the grid's best"], lines
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.make_parser(__doc__, "JSON file for the rows")
    parser.add_argument("data", type=Path, metavar="FOLDER", help="as in `dlr-tf finetune`")
    parser.add_argument("--model", default="MobileNetV2", help="model of keras.applications")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--image-size", type=int, default=97, help="height and width in pixels")
    arguments = common.parse(parser, argv)
    rows = run(arguments)
    print(table(rows))
    if arguments.output is not None:
        common.write_report(arguments.output, "range_test", arguments, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
