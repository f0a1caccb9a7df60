"""The command `evaluate`: the scores of a model on images whose classes are known."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app import data as image_data
from dlr_tf.app.config import EvaluateConfig
from dlr_tf.app.models import Classifier, TrainedModel, load_trained, predictions
from dlr_tf.app.results import (
    ConfidentError,
    Evaluation,
    atomic_write,
    check_output_folder,
    evaluate_batches,
    make_folder,
    versions,
    write_report,
)
from dlr_tf.app.run import check_same_data, run_settings
from dlr_tf.app.terminal import (
    messages_to_stderr,
    print_stderr,
    printable_name,
    table,
    usage_errors,
    written_line,
)
from dlr_tf.core._validation import warn_user
from dlr_tf.training import plotting

FOLDER = "evaluation"


class Examples(NamedTuple):
    """Images whose classes are known.

    Args:
        name: Where they come from.
        class_names: The names that the labels stand for.
        used: Those of them that have images.
        names: What each image is called.
        labels: The true classes, int array; `None` if they come with the batches.
        batches: Batches of images and labels; none if `names` are image files.
        broken: Paths beside `names` that cannot be read, and why. Defaults to none.
    """

    name: str
    class_names: tuple[str, ...]
    used: Sequence[str]
    names: Sequence[str]
    labels: np.ndarray | None = None
    batches: Iterable[Any] = ()
    broken: Mapping[str, str] = {}


class Scored(NamedTuple):
    """What a model says of the images that can be read, in their order.

    Args:
        names: What each image is called.
        labels: The true classes, indices into the names of `Examples`.
        probabilities: One row per image.
        unreadable: The paths that cannot be read.
    """

    names: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    unreadable: Sequence[str] = ()


def run(config: EvaluateConfig) -> int:
    """Print the scores, and write `evaluation.json` and `confusion.png`.

    Args:
        config: What to do.

    Returns:
        The exit code: 0, or 1 if an image cannot be read or has no finite probabilities.

    Raises:
        UsageError: If there is no such model, or the images do not fit it, before anything is
            written.
        WriteError: If a file cannot be written. The scores are printed by then.
    """
    with messages_to_stderr(), usage_errors():
        trained = load_trained(config.run)
        output = Path(config.output) if config.output else new_folder(trained.folder / FOLDER)
        check_output_folder(output)
        plotting.require_matplotlib()
        classify = Classifier(trained.model)
        examples = find_examples(trained, config.data, config.batch_size, classify.size)
        check_class_names(examples, trained.class_names)
    with messages_to_stderr():
        scored = classify_examples(classify, examples, config.batch_size)
        if not scored.names:
            print_stderr(f"none of the {len(examples.names)} images can be read")
            return 1
    # A class without images may be unknown to the model.
    known = {name: number for number, name in enumerate(trained.class_names)}
    numbers = np.array([known.get(name, -1) for name in examples.class_names])
    evaluation = Evaluation(
        trained.class_names,
        numbers[scored.labels],
        scored.probabilities,
        [*map(printable_name, scored.names)],
    )
    errors = evaluation.most_confident_errors()
    print(f"accuracy on {examples.name}: {share(evaluation)}")
    print(class_table(evaluation))
    if evaluation.n_not_finite:
        print_stderr(
            f"the model's probabilities are not finite for {evaluation.n_not_finite} of "
            f"{len(scored.names)} images, which count as wrong. Its training diverged: train again "
            "at lower rates, such as those of dlr-tf find-lr"
        )
    if errors:
        print("the most confident errors:")
        print(error_table(errors))
    for folder in (*reversed(output.parents), output):
        make_folder(folder)
    write_report(
        output / "evaluation.json",
        {
            "model": printable_name(str(trained.path)),
            "data": examples.name,
            "n_correct": evaluation.n_correct,
            "count": len(scored.names),
            "accuracy": evaluation.accuracy,
            "unreadable": [*map(printable_name, scored.unreadable)],
            "n_not_finite": evaluation.n_not_finite,
            "classes": [vars(score) for score in evaluation.class_scores()],
            "confusion_matrix": evaluation.confusion_matrix().tolist(),
            "most_confident_errors": [vars(error) for error in errors],
            "versions": versions(),
        },
    )
    with atomic_write(output / "confusion.png") as path:
        plotting.plot_confusion_matrix(
            evaluation.confusion_matrix(),
            evaluation.class_names,
            path,
            title=printable_name(f"{trained.path} on {examples.name}"),
        )
    print(written_line(output, ["confusion.png", "evaluation.json"]))
    return 1 if scored.unreadable or evaluation.n_not_finite else 0


def share(evaluation: Evaluation) -> str:
    """Return the correct predictions as a text.

    >>> share(Evaluation(("a", "b"), np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])))
    '1 of 2, 0.500'
    """
    return f"{evaluation.n_correct} of {len(evaluation.labels)}, {evaluation.accuracy:.3f}"


def new_folder(wanted: Path) -> Path:
    """Return a folder that does not exist: `evaluation`, `evaluation-2`, ..."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())


def find_examples(
    trained: TrainedModel, source: str | None, batch_size: int, size: tuple[int, int] | None
) -> Examples:
    """Find the images to score a model on.

    Args:
        trained: The model.
        source: A folder, a CSV file, `"tfds:NAME"`, or `None` for the data that the model was
            trained on.
        batch_size: Images in a batch.
        size: Height and width that the model was trained on; `None` if it has none.

    Raises:
        ValueError: If there is no such source, it cannot be used, it is not known what the model
            was trained on, or the images must be in batches and the model has no size for them.
        ImportError: If the source needs a package that is not installed.

    Warns:
        UserWarning: If the images that the model was trained on have changed since.
    """
    settings = run_settings(trained.folder)
    if source is None and "data" not in settings:
        raise ValueError(
            f"It is not known what {str(trained.path)!r} was trained on. Give DATA: a folder with "
            "one sub-folder of images per class."
        )
    if source is None:
        source = settings["data"]
    split = {
        "seed": settings.get("seed", 0),
        "validation_fraction": settings.get("validation_fraction", 0.0),
    }
    if source is None:
        _, found = image_data.load_digits(**split)
        return _of_test_part(found)
    is_tfds = source.startswith("tfds:")
    was_trained_on = settings.get("data") is not None and _same(source, settings["data"])
    if not is_tfds and not was_trained_on:
        return _of_folder(source)
    if size is None or size[0] != size[1]:
        received = "no size" if size is None else f"{size[0]} x {size[1]} pixels"
        raise ValueError(
            f"The images of {source!r} are scored in batches, so the model {str(trained.path)!r} "
            "should have a size that images are resized to, the same height and width. Give DATA: "
            f"a folder or a CSV file of other images. Received: {received}"
        )
    skip_broken = not is_tfds and settings.get("skip_broken", False)
    found = image_data.load(
        source,
        image_size=size[0],
        evaluation_batch_size=batch_size,
        skip_broken=skip_broken,
        **split,
    )
    if was_trained_on:
        _warn_if_changed(trained.folder, found)
    if not is_tfds:
        print_stderr(
            f"the {found.test_images} images of {source} that the training kept for testing"
        )
    return _of_test_part(found)


def _warn_if_changed(folder: Path, found: image_data.ImageData) -> None:
    try:
        check_same_data(folder, found)
    except ValueError:
        warn_user(
            f"The images of {found.name!r} have changed since the training, so another part of "
            "them is kept for testing now, and the model may have been trained on some of it."
        )


def _same(source: str, other: str) -> bool:
    if source.startswith("tfds:") or other.startswith("tfds:"):
        return source == other
    return os.path.realpath(source) == os.path.realpath(other)


def _of_test_part(found: image_data.ImageData) -> Examples:
    counts = zip(found.class_names, found.class_counts["test"], strict=True)
    used = [name for name, count in counts if count]
    return Examples(found.name, found.class_names, used, found.test_names, batches=found.test)


def _of_folder(source: str) -> Examples:
    """Return the images of the part for testing, else all images of a folder or a CSV file."""
    found = image_data.find_to_score(source)
    if found.ignored:
        print_stderr(f"{found.name}: ignored: {found.ignored}")
    names = [os.path.join(found.root, path) for path in found.files]
    return Examples(
        found.name, found.class_names, found.class_names, names, found.labels, broken=found.broken
    )


def check_class_names(examples: Examples, known: Sequence[str]) -> None:
    """Check that a model knows all classes of the images. It may know more.

    Args:
        examples: The images.
        known: The classes of the model.

    Raises:
        ValueError: If it does not.
    """
    unknown = [name for name in examples.used if name not in known]
    if unknown:
        raise ValueError(
            f"{examples.name} has classes that the model does not know: {some_of(unknown)}."
            f"{did_you_mean(unknown[0], known)} The model knows {some_of(known)}. Rename or remove "
            "the others."
        )
    absent = [name for name in known if name not in examples.used]
    if absent:
        print_stderr(
            f"{examples.name} has no images of {len(absent)} of {len(known)} classes: "
            f"{some_of(absent)}"
        )


def classify_examples(classify: Classifier, examples: Examples, batch_size: int) -> Scored:
    """Classify images, in one pass. Those that cannot be read are named on stderr."""
    if examples.labels is None:

        def predict(images: Any) -> np.ndarray:
            return classify(image_data.resize(images, channels=classify.channels))

        scored = evaluate_batches(predict, examples.batches, examples.class_names)
        return Scored(examples.names, scored.labels, scored.probabilities)
    rows: list[np.ndarray] = []
    readable: list[int] = []
    unreadable = []
    for number, found in enumerate(predictions(classify, examples.names, batch_size=batch_size)):
        if found.probabilities is None:
            print_stderr(found.error)
            unreadable.append(found.path)
        else:
            rows.append(found.probabilities)
            readable.append(number)
    for path, reason in sorted(examples.broken.items()):
        print_stderr(f"{path}: {reason}")
        unreadable.append(path)
    names = [examples.names[number] for number in readable]
    return Scored(names, examples.labels[readable], np.array(rows), unreadable)


def class_table(evaluation: Evaluation) -> str:
    """Format the scores of each class, with a dash where there is none."""
    rows = []
    for score in evaluation.class_scores():
        numbers = [
            "-" if np.isnan(value) else f"{value:.3f}"
            for value in (score.precision, score.recall, score.f1)
        ]
        rows.append((score.name, *numbers, f"{score.support:,}"))
    return table(("class", "precision", "recall", "F1", "images"), rows, numbers=4)


def error_table(errors: Sequence[ConfidentError]) -> str:
    """Format wrong predictions, one per line."""
    columns = ("image", "true class", "predicted class", "probability")
    rows = [(e.name, e.true_class, e.predicted_class, f"{e.probability:.3f}") for e in errors]
    return table(columns, rows, numbers=1)
