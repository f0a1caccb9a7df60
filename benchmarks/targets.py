"""Several labels and numbers: does `dlr-tf finetune` reach a plain Keras script that is tuned?

The pictures are made of those of fashion_mini, a folder with `train/CLASS/*.png` and
`test/CLASS/*.png`. For *labels*, a picture shows two garments, and the labels are their classes.
For *number*, it shows one garment, and the number is the side in pixels in which it is drawn.

Both fine-tune MobileNetV2 for the same steps on the same pictures. The command takes its own rates.
The plain script has one rate for all layers with a cosine decay, frozen batch normalization, and
standardized numbers. It trains once at each of four rates, and validation pictures choose one.
Everything is scored on the test pictures by the same code, with three seeds.

    python -m benchmarks.targets FASHION_MINI [--weights FILE] [--quick] [--output FILE.jsonl]
    python -m benchmarks.targets --table FILE.jsonl
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from benchmarks.common import device_name, markdown_table
from dlr_tf.app import cli
from dlr_tf.app.results import target_of

SIDE = 64  # of a picture
GARMENT = 28
TASKS = {"labels": "mean_average_precision", "number": "mean_absolute_error"}
OURS, THEIRS = "dlr-tf finetune", "plain Keras, tuned"
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
BATCH = 16


class Sizes(NamedTuple):
    """How much is trained."""

    train: int = 320
    validation: int = 160
    test: int = 400
    image_size: int = 48
    epochs: int = 5
    seeds: int = 3
    rates: Sequence[float] = RATES


QUICK = Sizes(40, 12, 12, image_size=32, epochs=1, seeds=1, rates=(1e-4, 1e-3))


def read_picture(path: Path) -> np.ndarray:
    """Return the grey values of a picture, uint8 array of shape `(height, width)`."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def read_garments(folder: Path) -> dict[str, list[np.ndarray]]:
    """Return the pictures of each class of a folder."""
    return {
        path.name: [read_picture(file) for file in sorted(path.iterdir())]
        for path in sorted(folder.iterdir())
    }


def draw(garments: Sequence[tuple[np.ndarray, int]], random: np.random.Generator) -> np.ndarray:
    """Draw garments of these sides beside each other at random places, each in its own half."""
    from PIL import Image

    picture = np.zeros((SIDE, SIDE), np.uint8)
    width = SIDE // len(garments)
    for place, (garment, side) in enumerate(garments):
        pixels = np.asarray(Image.fromarray(garment).resize((side, side)))
        x = place * width + int(random.integers(0, width - side + 1))
        y = int(random.integers(0, SIDE - side + 1))
        picture[y : y + side, x : x + side] = pixels
    return picture


def write_pictures(task: str, source: Path, folder: Path, sizes: Sizes) -> Path:
    """Write the pictures of a task, and return the table that describes them."""
    from PIL import Image

    random = np.random.default_rng(0)
    known = read_garments(source / "train")
    cut = {name: len(found) * 4 // 5 for name, found in known.items()}
    splits = {
        "train": {name: found[: cut[name]] for name, found in known.items()},
        "val": {name: found[cut[name] :] for name, found in known.items()},
        "test": read_garments(source / "test"),
    }
    folder.mkdir(parents=True)
    table = folder / f"{task}.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "label" if task == "labels" else "size"])
        for (split, garments), count in zip(splits.items(), sizes[:3]):
            for index in range(count):
                chosen = random.choice([*garments], 2 if task == "labels" else 1)
                side = GARMENT if task == "labels" else int(random.integers(14, SIDE + 1))
                shown = [(garments[n][random.integers(len(garments[n]))], side) for n in chosen]
                path = f"{split}_{index:04d}.png"
                Image.fromarray(draw(shown, random)).save(folder / path)
                target = "|".join(sorted({*chosen})) if task == "labels" else side
                writer.writerow([path, split, target])
    return table


def read_pictures(task: str, table: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names of the targets, and the pictures and the targets of each split."""
    rows = [*csv.DictReader(table.read_text().splitlines())]
    names: tuple[str, ...] = ("size",)
    if task == "labels":
        names = tuple(sorted({name for row in rows for name in row["label"].split("|")}))
    found = {}
    for split in ("train", "val", "test"):
        part = [row for row in rows if row["split"] == split]
        pictures = [read_picture(table.parent / row["path"]) for row in part]
        targets = [
            [float(row["size"])]
            if task == "number"
            else [float(name in row["label"].split("|")) for name in names]
            for row in part
        ]
        found[split] = np.stack(pictures)[..., None].repeat(3, -1), np.array(targets, np.float32)
    return names, found


def run_ours(table: Path, sizes: Sizes, weights: str, seed: int) -> dict[str, float]:
    """Return the test scores of the command."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        sized = ["--image-size", str(sizes.image_size), "--epochs", str(sizes.epochs)]
        options = ["--weights", weights, "--batch-size", str(BATCH), "--seed", str(seed)]
        options += ["--target", table.stem]
        options += [] if table.stem == "labels" else ["--label-column", "size"]
        code = cli.main(["finetune", str(table), *sized, *options, "--output", str(output)])
        if code:
            raise RuntimeError(f"dlr-tf finetune ended with {code}")
        scores: dict[str, float] = json.loads((output / "report.json").read_text())["scores"]
    return scores


def run_theirs(
    task: str, table: Path, sizes: Sizes, weights: str, rate: float, seed: int
) -> dict[str, dict[str, float]]:
    """Return the scores of the plain script on the validation and the test pictures."""
    keras.utils.set_random_seed(seed)
    names, data = read_pictures(task, table)
    pictures, targets = data["train"]
    mean, deviation = targets.mean(0), targets.std(0)
    size = (sizes.image_size, sizes.image_size)
    backbone = keras.applications.MobileNetV2(
        include_top=False,
        weights=None if weights == "none" else weights,
        input_shape=(*size, 3),
        pooling="avg",
    )
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Resizing(*size)(inputs)
    x = backbone(keras.layers.Rescaling(1 / 127.5, offset=-1)(x))
    x = keras.layers.Dropout(0.2)(x)
    activation = "sigmoid" if task == "labels" else None
    model = keras.Model(inputs, keras.layers.Dense(len(names), activation=activation)(x))
    steps = -(-len(pictures) // BATCH) * sizes.epochs
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        "binary_crossentropy" if task == "labels" else "mse",
        jit_compile=False,  # compiling takes longer than such a short training
    )
    wanted = targets if task == "labels" else (targets - mean) / deviation
    model.fit(pictures, wanted, batch_size=BATCH, epochs=sizes.epochs, verbose=0)
    outputs = {split: model.predict(data[split][0], verbose=0) for split in ("val", "test")}
    if task == "number":
        outputs = {split: found * deviation + mean for split, found in outputs.items()}
    target = target_of(task, class_names=names, means=tuple(mean.tolist()))
    target = target.tuned(data["val"][1], outputs["val"])
    return {split: target.evaluate(data[split][1], outputs[split]).scores for split in outputs}


def run_task(task: str, source: Path, weights: str, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Give the rows of a task, one per training."""
    better = max if task == "labels" else min
    with tempfile.TemporaryDirectory() as folder:
        table = write_pictures(task, source, Path(folder) / task, sizes)

        def row(trainer: str, seed: int, rate: float | None = None) -> dict[str, Any]:
            print(f"{task}: {trainer}, seed {seed}, rate {rate}", file=sys.stderr, flush=True)
            begun = time.perf_counter()
            if rate is None:
                found: dict[str, Any] = {"scores": run_ours(table, sizes, weights, seed)}
            else:
                scores = run_theirs(task, table, sizes, weights, rate, seed)
                found = {"scores": scores["test"], "validation": scores["val"][TASKS[task]]}
            seconds = round(time.perf_counter() - begun, 1)
            keras.backend.clear_session()
            gc.collect()
            what = {"task": task, "trainer": trainer, "seed": seed, "rate": rate}
            print(f"{seconds} s", file=sys.stderr, flush=True)
            return {**what, **found, "seconds": seconds, "sizes": sizes._asdict(), **made()}

        tried = [row(THEIRS, 0, rate) for rate in sizes.rates]
        yield from tried
        best = better(tried, key=lambda one: one["validation"])["rate"]
        for seed in range(1, sizes.seeds):
            yield row(THEIRS, seed, best)
        for seed in range(sizes.seeds):
            yield row(OURS, seed)


def made() -> dict[str, Any]:
    """Say where and with what a row is made."""
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    versions["python"] = platform.python_version()
    device = device_name("gpu" if tf.config.list_physical_devices("GPU") else "cpu")
    return {"device": device, "date": datetime.date.today().isoformat(), "versions": versions}


def chosen_rate(rows: Sequence[Mapping[str, Any]], task: str) -> float:
    """Return the rate of the plain script that validation pictures choose."""
    tried = [r for r in rows if r["task"] == task and r["trainer"] == THEIRS and r["seed"] == 0]
    better = max if task == "labels" else min
    return float(better(tried, key=lambda row: row["validation"])["rate"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the test scores as Markdown: on average over the seeds, and from lowest to highest."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        rate = chosen_rate(rows, task)
        of_task = [row for row in rows if row["task"] == task]
        for name in of_task[0]["scores"]:
            if name.endswith("_of_the_mean"):
                continue
            cells = []
            for trainer, wanted in ((OURS, None), (THEIRS, rate)):
                chosen = [r for r in of_task if (r["trainer"], r["rate"]) == (trainer, wanted)]
                values = [row["scores"][name] for row in chosen]
                mean = statistics.mean(values)
                cells.append(f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})")
            lines.append([task, name.replace("_", " "), *cells, f"{rate:g}"])
    first = rows[0]
    columns = ["task", "test score", OURS, THEIRS, "its rate"]
    versions = first["versions"]
    return (
        f"{first['device']}; TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, "
        f"Python {versions['python']}; {first['date']}\n\n{markdown_table(columns, lines, 2)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train everything, print the table, and append the rows to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="the folder of fashion_mini")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none or a file")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--quick", action="store_true", help="a few pictures and one epoch")
    parser.add_argument("--output", type=Path, help="JSON Lines file for the rows")
    parser.add_argument("--table", type=Path, help="print the table of this file, and do no more")
    options = parser.parse_args(argv)
    if options.table:
        print(table([json.loads(line) for line in options.table.read_text().splitlines()]))
        return 0
    if options.data is None:
        parser.error("give the folder of fashion_mini")
    rows = []
    for task in options.tasks:
        for row in run_task(
            task, options.data, options.weights, QUICK if options.quick else Sizes()
        ):
            rows.append(row)
            if options.output:
                with options.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
