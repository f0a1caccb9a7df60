"""The command `evaluate`: the scores of a model on images whose classes are known."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app import data as image_data
from dlr_tf.app.config import EvaluateConfig
from dlr_tf.app.models import KnownTarget, TrainedModel, load_trained, text_columns
from dlr_tf.app.paths import TFDS
from dlr_tf.app.results import (
    Evaluation,
    Target,
    atomic_write,
    check_output_folder,
    make_folder,
    target_of,
    versions,
    write_report,
)
from dlr_tf.app.run import (
    Classifier,
    check_same_data,
    evaluate_data,
    known_labels,
    predict_files,
    run_settings,
)
from dlr_tf.app.terminal import (
    messages_to_stderr,
    print_note,
    print_stderr,
    printable_name,
    usage_errors,
    written_line,
)
from dlr_tf.core._validation import warn_user
from dlr_tf.training import plotting

FOLDER = "evaluation"
FOUND = {"class": "one class", "labels": "several labels", "number": "numbers"}


def run(config: EvaluateConfig) -> int:
    """Print the scores, and write `evaluation.json` and `confusion.png`.

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
        target = target_of(**trained.described)
        classify = Classifier(trained.model, target.kind, tta=config.tta)
        found = find_examples(trained, classify, config)
        if found.kind != target.kind:
            raise ValueError(
                f"{found.name} tells {FOUND[found.kind]} of each example, and the model "
                f"{config.run!r} {FOUND[target.kind]}. Give other DATA."
            )
        check_names(found, trained.known)
    unreadable: list[str] = []
    with messages_to_stderr():
        if isinstance(found, image_data.ImageData):
            evaluation = evaluate_data(classify, found, target)
        else:
            evaluation, unreadable = evaluate_files(classify, found, target, config.batch_size)
    total = len(evaluation.labels)
    if not total:
        print_stderr(f"none of the {len(unreadable)} images can be read")
        return 1
    if config.tta:
        print("each image and its mirror image, averaged (--tta):")
    print(evaluation.headline(found.name))
    print(evaluation.text())
    if evaluation.n_not_finite:
        what, then = {"number": ("numbers", "are left out")}.get(
            target.kind, ("probabilities", "count as wrong")
        )
        print_stderr(
            f"the model's {what} are not finite for {evaluation.n_not_finite} of {total} "
            f"{evaluation.unit}s, which {then}. Its training diverged: train "
            "again at lower rates, such as those of dlr-tf find-lr"
        )
    make_folder(output)
    write_report(
        output / "evaluation.json",
        {
            "model": printable_name(str(trained.path)),
            "data": found.name,
            "tta": config.tta,
            **evaluation.as_dict(),
            "unreadable": [*map(printable_name, unreadable)],
            "versions": versions(),
        },
    )
    files = ["evaluation.json"]
    if isinstance(evaluation, Evaluation):
        files.append("confusion.png")
        with atomic_write(output / "confusion.png") as path:
            plotting.plot_confusion_matrix(
                evaluation.confusion_matrix(),
                evaluation.class_names,
                path,
                title=printable_name(f"{trained.path} on {found.name}"),
            )
    print(written_line(output, files))
    return 1 if unreadable or evaluation.n_not_finite else 0


def new_folder(wanted: Path) -> Path:
    """Return a folder that does not exist: `evaluation`, `evaluation-2`, ..."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())


def find_examples(
    trained: TrainedModel, classify: Classifier, config: EvaluateConfig
) -> image_data.ImageData | image_data.LabelledFiles:
    """Return what to score a model on: batches, whose part `test` counts, or files of other images.

    Raises:
        ValueError: If there is no such source, it cannot be used, it is not known what the model
            was trained on, or the images must be in batches and the model has no size for them.

    Warns:
        UserWarning: If the examples that the model was trained on have changed since.
    """
    if config.text_column is not None and not classify.takes_texts:
        raise ValueError("--text-column is for a model of texts. Leave it out.")
    settings = run_settings(trained.folder)
    if config.data is None and "data" not in settings:
        layout = "a folder with one sub-folder of images per class"
        if classify.takes_texts:
            layout = "a table with the columns text and label"
        raise ValueError(
            f"It is not known what {str(trained.path)!r} was trained on. Give DATA: {layout}."
        )
    source = config.data or settings["data"]
    split = {name: settings.get(name, 0) for name in ("seed", "validation_fraction")}
    if source is None:
        return image_data.load_digits(**split)[1]
    is_tfds, trained_on = source.startswith(TFDS), settings.get("data") or ""
    was_trained_on = source == trained_on or (
        not is_tfds and os.path.realpath(source) == os.path.realpath(trained_on)
    )
    found: Any = source
    if not is_tfds:
        found = image_data.find(
            source,
            skip_broken=settings.get("skip_broken", False),
            to_score=not was_trained_on,
            columns=columns_of(trained, settings, config.text_column),
        )
    wanted = text_columns(trained.model) if classify.takes_texts else 0
    if wanted != (found.n_columns if isinstance(found, image_data.LabelledTexts) else 0):
        nouns = ("images", "single texts", "pairs of texts")[wanted]
        raise ValueError(
            f"The model {config.run!r} takes {nouns}, and {source!r} holds something else. Give "
            f"other DATA{', or --text-column' if wanted else ''}."
        )
    if isinstance(found, image_data.LabelledFiles) and not was_trained_on:
        if found.ignored:
            print_note(f"{found.name}: ignored: {found.ignored}")
        return found
    size = classify.size or (0, 0)
    if not wanted and (classify.size is None or size[0] != size[1]):
        received = "no size" if classify.size is None else f"{size[0]} x {size[1]} pixels"
        raise ValueError(
            f"The images of {source!r} are scored in batches, so the model {str(trained.path)!r} "
            "should have a size that images are resized to, the same height and width. Give DATA: "
            f"a folder or a CSV file of other images. Received: {received}"
        )
    loaded = image_data.load(
        found,
        image_size=size[0],
        evaluation_batch_size=config.batch_size,
        limit=settings.get("limit") if was_trained_on else None,
        **split,
    )
    if was_trained_on:
        try:
            check_same_data(trained.folder, loaded)
        except ValueError:
            warn_user(
                f"The {loaded.unit}s of {loaded.name!r} have changed since the training, so "
                "another part of them is kept for testing now, and the model may have been trained "
                "on some of it."
            )
        if not is_tfds:
            print_note(
                f"the {loaded.test_images} {loaded.unit}s of {source} that the training kept for "
                "testing"
            )
    return loaded


def columns_of(
    trained: TrainedModel, settings: Mapping[str, Any], text_column: str | None
) -> image_data.Columns:
    """Return the columns of a table: those of the training, and the target of the model."""
    known = trained.known
    columns = image_data.Columns.of({**settings, "target": known.kind})
    if known.kind == "number" and columns.label_column is None:
        columns = dataclasses.replace(columns, label_column=",".join(known.names))
    if text_column is not None:
        columns = dataclasses.replace(columns, text_column=text_column)
    return columns


def check_names(found: Any, model: KnownTarget) -> None:
    """Check that a model knows all classes, labels or numbers of the data. It may know more.

    Raises:
        ValueError: If it does not.
    """
    used, known = list(found.class_names), model.names
    if isinstance(found, image_data.ImageData) and found.kind != "number":
        counts = zip(found.class_names, found.class_counts["test"], strict=True)
        used = [name for name, count in counts if count]
    unknown = [name for name in used if name not in known]
    if unknown:
        raise ValueError(
            f"{found.name} has {model.nouns} that the model does not know: {some_of(unknown)}."
            f"{did_you_mean(unknown[0], known)} The model knows {some_of(known)}. Rename or remove "
            "the others."
        )
    absent = [name for name in known if name not in used]
    if absent:
        unit = getattr(found, "unit", "image")
        print_note(
            f"{found.name} has no {unit}s of {len(absent)} of {len(known)} {model.nouns}: "
            f"{some_of(absent)}"
        )


def evaluate_files(
    classify: Classifier,
    found: image_data.LabelledFiles,
    target: Target,
    batch_size: int,
) -> tuple[Any, list[str]]:
    """Return the scores on files, and the paths that cannot be read, which are named on stderr."""
    paths = [os.path.join(found.root, path) for path in found.files]
    labels = known_labels(target, found.class_names, found.labels)
    names, truth, rows, unreadable = [], [], [], []
    for label, prediction in zip(
        labels, predict_files(classify, paths, batch_size=batch_size), strict=True
    ):
        if prediction.probabilities is None:
            print_stderr(prediction.error)
            unreadable.append(prediction.path)
        else:
            names.append(printable_name(prediction.path))
            truth.append(label)
            rows.append(prediction.probabilities)
    for path, reason in sorted(found.broken.items()):
        print_stderr(f"{path}: {reason}")
        unreadable.append(path)
    return target.evaluate(np.array(truth), np.array(rows), names), unreadable
