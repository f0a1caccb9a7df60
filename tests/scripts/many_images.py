"""Peak memory and time per image of `dlr-tf finetune`, with few images and with many.

    python -m tests.scripts.many_images FOLDER [--counts 1000 100000] [--size 32]

Makes folders of small images in 10 classes below FOLDER where they are missing, half of them JPEG
and half PNG. Then it trains a tiny network on each for one epoch, in a process of its own, and
prints one line of JSON per process. `read`: only the images are read. `finetune`: the command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10


def make_images(folder: Path, count: int, size: int) -> None:
    """Write `count` images of noise around a colour that depends on the class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class_{label}").mkdir(parents=True)
    for number in range(count):
        label = number % CLASSES
        pixels = 20 * label + rng.integers(0, 60, (size, size, 3))
        ending = "jpg" if number // CLASSES % 2 else "png"
        Image.fromarray(pixels.astype(np.uint8)).save(
            folder / f"class_{label}" / f"{number:06d}.{ending}"
        )


def read(folder: Path, size: int) -> dict[str, Any]:
    """Check all images, then read two epochs of the training images, and the test images."""
    from dlr_tf.app.data import load

    with measured("load and check") as checking:
        data = load(folder, image_size=size)
    rows = [per_image(checking, data.train_images + data.test_images)]
    count = len(data.train)
    for name, batches, images in (
        ("first epoch", data.train_from(0).take(count), data.train_images),
        ("second epoch", data.train_from(count).take(count), data.train_images),
        ("test", data.test, data.test_images),
    ):
        with measured(name) as part:
            for _ in batches:
                pass
        rows.append(per_image(part, images))
    return {"parts": rows}


def finetune(folder: Path, size: int) -> dict[str, Any]:
    """Fine-tune a tiny network for one epoch."""
    import keras

    from dlr_tf.app import cli

    def tiny(**arguments: Any) -> keras.Model:
        inputs = keras.Input(arguments["input_shape"])
        outputs = keras.layers.Conv2D(4, 3, 2, name="stem")(inputs)
        return keras.Model(inputs, keras.layers.ReLU(name="top")(outputs), name="tiny")

    tiny.__module__ = keras.applications.MobileNetV2.__module__
    keras.applications.MobileNetV2 = tiny
    with tempfile.TemporaryDirectory() as output, measured("command") as command:
        options = ["--weights", "none", "--image-size", str(size), "--groups", "2"]
        options += ["--epochs", "1", "--frozen-epochs", "0", "--output", f"{output}/run"]
        assert cli.main(["finetune", str(folder), *options]) == 0
        report = json.loads(Path(output, "run", "report.json").read_text())
    return {"parts": [command], "training": report["seconds"]["training"]}


@contextlib.contextmanager
def measured(name: str) -> Iterator[dict[str, Any]]:
    """Give a dictionary in which the seconds of the block are, when it has ended."""
    taken: dict[str, Any] = {"name": name}
    started, cpu = time.perf_counter(), time.process_time()
    yield taken
    taken["seconds"] = round(time.perf_counter() - started, 2)
    taken["cpu seconds"] = round(time.process_time() - cpu, 2)


def per_image(taken: dict[str, Any], images: int) -> dict[str, Any]:
    per = {
        f"{kind} per image, ms": round(1000 * taken[f"{kind}seconds"] / images, 3)
        for kind in ("", "cpu ")
    }
    return {**taken, **per}


WORK = {"read": read, "finetune": finetune}


def measure(work: str, folder: Path, size: int) -> dict[str, Any]:
    """Do the work in this process, and return what it took."""
    import tensorflow  # noqa: F401

    import dlr_tf.app.cli  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.redirect_stdout(sys.stderr):
        taken = WORK[work](folder, size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "work": work,
        "folder": folder.name,
        "MiB before": before // 1024,
        "peak MiB": peak // 1024,
        **taken,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 100000])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--work", choices=WORK)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(measure(arguments.work, arguments.folder, arguments.size)))
        return
    for count in arguments.counts:
        folder = arguments.folder / str(count)
        if not folder.exists():
            make_images(folder, count, arguments.size)
        for work in WORK:
            command = [sys.executable, "-m", "tests.scripts.many_images", str(folder)]
            command += ["--size", str(arguments.size), "--work", work]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
