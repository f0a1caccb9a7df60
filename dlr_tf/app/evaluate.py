"""The command `evaluate`: the scores of a model on images whose classes are known."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlr_tf.app import data as image_data
from dlr_tf.app import digits, report
from dlr_tf.app.evaluation import Evaluation
from dlr_tf.app.folders import find_to_score
from dlr_tf.app.messages import messages_to_stderr, mistakes, say
from dlr_tf.app.output import check_output_folder
from dlr_tf.app.predict import Classifier, predictions
from dlr_tf.app.trained import TrainedModel, load_trained
from dlr_tf.core._validation import did_you_mean, some_of
from dlr_tf.training import plotting

FOLDER = "evaluation"


class Examples(NamedTuple):
    """Images whose classes are known.

    Args:
        name: Where they come from.
        class_names: The names that the labels stand for.
        names: What each image is called.
        labels: The right classes, int array.
        batches: Batches of images; `None` if `names` are image files.
    """

    name: str
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: np.ndarray
    batches: Iterable[Any] | None = None


def run(args: argparse.Namespace) -> int:
    """Print the scores, and write `evaluation.json` and `confusion.png`.

    Args:
        args: What `parse_arguments` returns for `evaluate`.

    Returns:
        The exit code: 0, or 1 if an image cannot be read.

    Raises:
        MistakeError: If there is no such model, or the images do not fit it, before anything is
            written.
    """
    with messages_to_stderr(), mistakes():
        trained = load_trained(args.run)
        output = Path(args.output) if args.output else new_folder(trained.folder / FOLDER)
        check_output_folder(output)
        plotting.require_matplotlib()
        examples = find_examples(trained, args.data, args.batch_size)
        check_class_names(examples, trained.class_names)
        classify = Classifier(trained.model)
    with messages_to_stderr():
        probabilities, unreadable = classify_examples(classify, examples, args.batch_size)
        readable = np.setdiff1d(np.arange(len(examples.names)), unreadable)
        if not readable.size:
            say(f"none of the {len(examples.names)} images can be read")
            return 1
        numbers = [trained.class_names.index(name) for name in examples.class_names]
        evaluation = Evaluation(
            trained.class_names, np.asarray(numbers)[examples.labels[readable]], probabilities
        )
    names = [examples.names[number] for number in readable]
    output.mkdir(parents=True, exist_ok=True)
    plotting.plot_confusion_matrix(
        evaluation.confusion_matrix(),
        evaluation.class_names,
        output / "confusion.png",
        title=f"{trained.path} on {examples.name}",
    )
    mistaken = worst_mistakes(evaluation, names)
    report.write_report(
        output / "evaluation.json",
        {
            "model": str(trained.path),
            "data": examples.name,
            "right": evaluation.right,
            "count": len(names),
            "accuracy": evaluation.accuracy,
            "unreadable": [examples.names[number] for number in unreadable],
            "classes": [vars(score) for score in evaluation.class_scores()],
            "confusion_matrix": evaluation.confusion_matrix().tolist(),
            "worst_mistakes": mistaken,
            "versions": report.versions(),
        },
    )
    print(f"accuracy on {examples.name}: {share(evaluation)}")
    print(class_table(evaluation))
    if mistaken:
        print("the worst mistakes:")
        print(mistake_table(mistaken))
    print(f"written to {output}: confusion.png, evaluation.json")
    return 1 if unreadable else 0


def share(evaluation: Evaluation) -> str:
    """Return the right predictions as a text.

    >>> share(Evaluation(("a", "b"), np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])))
    '1 of 2, 0.500'
    """
    return f"{evaluation.right} of {len(evaluation.labels)}, {evaluation.accuracy:.3f}"


def new_folder(wanted: Path) -> Path:
    """Return a folder that does not exist: `evaluation`, `evaluation-2`, ..."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())


def find_examples(trained: TrainedModel, source: str | None, batch_size: int) -> Examples:
    """Find the images to score a model on.

    Args:
        trained: The model.
        source: A folder, `"tfds:NAME"`, or `None` for the data that the model was trained on.
        batch_size: Images in a batch.

    Raises:
        ValueError: If there is no such source, it cannot be used, or it is not known what the model
            was trained on.
        ImportError: If the source needs a package that is not installed.
    """
    settings = trained.settings
    if source is None and "data" not in settings:
        raise ValueError(
            f"It is not known what {str(trained.path)!r} was trained on. Give DATA: a folder with "
            "one sub-folder of images per class."
        )
    if source is None:
        source = settings["data"]
    seed = settings.get("seed", 0)
    if source is None:
        _, found = digits.load_digits(batch_size=batch_size, seed=seed)
        return _of_test_part(found)
    was_trained_on = settings.get("data") is not None and _same(source, settings["data"])
    if source.startswith("tfds:") or was_trained_on:
        found = image_data.load(
            source,
            image_size=settings.get("image_size") or 1,
            batch_size=batch_size,
            seed=seed,
            **(
                {}
                if source.startswith("tfds:")
                else {"skip_broken": settings.get("skip_broken", False)}
            ),
        )
        if not source.startswith("tfds:"):
            say(f"the {found.test_images} images of {source} that the training kept for testing")
        return _of_test_part(found)
    return _of_folder(source)


def _same(source: str, other: str) -> bool:
    if source.startswith("tfds:") or other.startswith("tfds:"):
        return source == other
    return os.path.realpath(source) == os.path.realpath(other)


def _of_test_part(found: image_data.ImageData) -> Examples:
    labels = np.concatenate([np.asarray(labels) for _, labels in found.test])
    batches = (images for images, _ in found.test)
    return Examples(found.name, tuple(found.class_names), found.test_names, labels, batches)


def _of_folder(source: str) -> Examples:
    """Return the images of the part for testing, else all images of a folder or a CSV file."""
    found = find_to_score(source)
    if found.left_aside:
        say(f"{found.name}: left aside: {found.left_aside}")
    names = [os.path.join(found.root, path) for path in found.files]
    return Examples(found.name, found.class_names, names, found.labels)


def check_class_names(examples: Examples, known: Sequence[str]) -> None:
    """Check that a model knows all classes of the images. It may know more.

    Args:
        examples: The images.
        known: The classes of the model.

    Raises:
        ValueError: If it does not.
    """
    used = [examples.class_names[label] for label in np.unique(examples.labels)]
    unknown = [name for name in used if name not in known]
    if unknown:
        raise ValueError(
            f"{examples.name} has classes that the model does not know: {some_of(unknown)}."
            f"{did_you_mean(unknown[0], known)} The model knows {some_of(known)}. Rename or remove "
            "the folders of the others."
        )
    absent = [name for name in known if name not in used]
    if absent:
        say(f"{examples.name} has no images of {len(absent)} classes: {some_of(absent)}")


def classify_examples(
    classify: Classifier, examples: Examples, batch_size: int
) -> tuple[np.ndarray, list[int]]:
    """Return the probabilities of the images that can be read, and the numbers of the others."""
    if examples.batches is not None:
        return np.concatenate([classify(np.asarray(batch)) for batch in examples.batches]), []
    rows: list[np.ndarray] = []
    unreadable = []
    for number, found in enumerate(predictions(classify, examples.names, batch_size=batch_size)):
        if found.probabilities is None:
            say(found.error)
            unreadable.append(number)
        else:
            rows.append(found.probabilities)
    return np.array(rows), unreadable


def worst_mistakes(evaluation: Evaluation, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ten worst mistakes: the image, its class, the predicted one, its probability."""
    classes = evaluation.class_names
    return [
        {
            "name": str(names[number]),
            "class": classes[evaluation.labels[number]],
            "predicted": classes[evaluation.predictions[number]],
            "probability": round(float(evaluation.probabilities[number].max()), 6),
        }
        for number in evaluation.worst_mistakes()
    ]


def class_table(evaluation: Evaluation) -> str:
    """Format the scores of each class, with a dash where there is none."""
    rows: list[Sequence[str]] = [("class", "precision", "recall", "F1", "images")]
    for score in evaluation.class_scores():
        numbers = [
            "-" if np.isnan(value) else f"{value:.3f}"
            for value in (score.precision, score.recall, score.f1)
        ]
        rows.append((score.name, *numbers, f"{score.support:,}"))
    return "\n".join(_lines(rows, right_from=1))


def mistake_table(mistaken: Sequence[dict[str, Any]]) -> str:
    """Format the mistakes, one per line."""
    rows = [("image", "class", "predicted", "probability")]
    rows += [(m["name"], m["class"], m["predicted"], f"{m['probability']:.3f}") for m in mistaken]
    return "\n".join(_lines(rows, right_from=3))


def _lines(rows: Sequence[Sequence[str]], *, right_from: int) -> Iterator[str]:
    """Align columns: to the left, and from one of them on to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield "  ".join(
            f"{cell:>{width}}" if number >= right_from else f"{cell:{width}}"
            for number, (cell, width) in enumerate(zip(row, widths))
        )
