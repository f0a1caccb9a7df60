"""The page of a run, report.html: one file that needs no other file, no network and no script.

Here is what is on the page; the template `report.html.jinja` has how it looks.
"""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlr_tf.app.results.evaluation import Evaluation
from dlr_tf.app.results.report import scores_name
from dlr_tf.app.results.thumbnails import picture_uri
from dlr_tf.app.terminal import model_on_data, printable_name
from dlr_tf.training import plotting

if TYPE_CHECKING:
    import jinja2

# A matrix of more classes has squares without numbers, and one of still more is left out.
NUMBERS_UP_TO, MATRIX_UP_TO = 20, 100
MAX_CONFUSIONS = 10
MAX_TEXT = 300  # characters
MISSING = "-"
_METRICS = {"auc_pr": "Area under the precision-recall curve", "mae": "Mean absolute error"}
# Settings that have an effect only with this value of another one.
_ONLY_WITH: Mapping[str, tuple[str, Any]] = {
    "compare_seeds": ("compare", True),
    "t_mul": ("schedule", "sgdr"),
    "wait": ("strategy", "multi-worker"),
}

History = Mapping[str, Sequence[float]]
Context = dict[str, Any]


def page_of(
    report: Mapping[str, Any],
    history: History,
    steps: History,
    evaluation: Any,
    images: Mapping[int, Any],
) -> str:
    """Return the page of a run.

    Args:
        report: What report.json holds.
        history: The `history` of the `History` that `fit` returned.
        steps: `LearningRateLogger.history`: the rates of every step.
        evaluation: The scores on the test images.
        images: The images of the most confident errors by index, uint8 arrays of shape
            `(height, width, channels)`, or the texts.

    Raises:
        ImportError: If matplotlib or Jinja2 is not installed.
    """
    return template("report.html.jinja").render(
        title=model_on_data(report["settings"].get("model"), report["data"]["name"]),
        **_overview(report, history, evaluation),
        unit=evaluation.unit,
        comparison=_comparison(report, evaluation),
        curves=_curves(report, history, steps),
        groups=[_group(group) for group in report["groups"]],
        **_scores(evaluation),
        errors=_errors(evaluation, images),
        settings=_settings(report),
        versions=report["versions"],
        command=printable_name(shlex.join(report["command"])),
    )


def require_jinja() -> None:
    """Raise an `ImportError` if pages cannot be written, before a long computation."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'report.html needs Jinja2, which is not installed. Run: pip install "dlr_tf[command]"'
        ) from error


@functools.cache
def template(name: str) -> jinja2.Template:
    """Return a template of this room."""
    require_jinja()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dlr_tf.app.results", ""),
        autoescape=".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = "{:,}".format
    environment.filters["score"] = lambda value: MISSING if math.isnan(value) else f"{value:.3f}"
    return environment.get_template(name)


def duration(seconds: float) -> str:
    """Write a time in the units that fit.

    >>> duration(4.26), duration(125), duration(7500)
    ('4.3 s', '2 min 5 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _overview(report: Mapping[str, Any], history: History, evaluation: Any) -> Context:
    data, settings = report["data"], report["settings"]
    kind = data.get("target", "class")
    noun = {"class": "classes", "labels": "labels"}.get(kind, f"numbers per {evaluation.unit}")
    tiles = [
        *evaluation.tiles(),
        (f"{report['test_loss']:.4g}", "test loss"),
        (f"{len(data['class_names'])}", noun),
        (f"{data['train_images']:,}", f"training {evaluation.unit}s"),
    ]
    if data["validation_images"]:
        tiles.append((f"{data['validation_images']:,}", f"validation {evaluation.unit}s"))
    tiles.append((duration(report["seconds"]["training"]), "training"))
    epochs = len(history["loss"])
    facts = [
        f"{epochs} epoch{'' if epochs == 1 else 's'}",
        f"{len(report['groups'])} groups of layers",
        f"optimizer {settings['optimizer']}",
        f"schedule {settings['schedule']}",
    ]
    if report.get("head_alone") is not None:
        facts.append(f"the head alone reached {report['head_alone']:.4g} before the first epoch")
    if settings.get("average_weights"):
        facts.append("the weights are the mean over all steps")
    if report["kept_epoch"] != epochs:
        facts.append(f"the model is that of epoch {report['kept_epoch']}")
    if evaluation.n_not_finite:
        what = "numbers" if kind == "number" else "probabilities"
        count = f"{evaluation.n_not_finite:,} test {evaluation.unit}s"
        facts.append(f"no finite {what} for {count}")
    return {"tiles": tiles, "facts": facts}


def _comparison(report: Mapping[str, Any], evaluation: Any) -> Context | None:
    if "compare" not in report:
        return None
    other = report["compare"]
    total = len(evaluation.labels)
    score = other.get("score", "accuracy")
    ours, theirs = report[scores_name(score)], other[scores_name(score)]
    heads = other.get("head_alone") or []
    low, high = min([*ours, *theirs, *heads]), max([*ours, *theirs, *heads])

    def place(value: float) -> float:
        """Return where a value is on the line that both sides share, in percent."""
        return round(4 + 92 * (value - low) / (high - low) if high > low else 50.0, 1)

    rates = sorted({min(other["learning_rates"]), max(other["learning_rates"])})
    label = f"{other['label']}, {' to '.join(f'{rate:.2g}' for rate in rates)}"
    sides: list[Context] = [
        {
            "name": name,
            "mean": sum(values) / len(values),
            "low": min(values),
            "high": max(values),
            "left": place(min(values)),
            "width": round(place(max(values)) - place(min(values)), 1),
            "places": [place(value) for value in values],
        }
        for name, values in ((report["label"], ours), (label, theirs), ("the head alone", heads))
        if values
    ]
    difference = sides[0]["mean"] - sides[1]["mean"]
    text = f"Difference: {difference:+.4f}"
    count = f"{abs(difference) * total:.0f} of {total} {evaluation.unit}s"
    text += f", {count}. " if score == "accuracy" else ". "
    text += (
        "A dot is one seed. The curves below are those of the first seed."
        if len(ours) > 1
        else "Each was trained with one seed, and another seed gives another result."
    )
    return {"sides": sides, "text": text, "score": _METRICS.get(score, score).lower()}


def _curves(
    report: Mapping[str, Any], history: History, steps: History
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return for each plot its heading, its SVG, and the entries of its legend with their style."""
    runs = [(report["label"], history)]
    if "compare" in report:
        runs.append((report["compare"]["label"], report["compare"]["history"]))
    frozen = report["settings"]["frozen_epochs"]
    # Without validation images, the test images are scored after each epoch.
    after_epoch = "validation" if report["data"]["validation_images"] else "test"
    figures = [
        (
            _METRICS.get(metric, metric.capitalize()),
            plotting.history_panel(runs, metric, frozen, after_epoch),
        )
        for metric in ("loss", "accuracy", "auc_pr", "mae")
        if metric in history
    ]
    rates = {group["name"]: steps[group["name"]] for group in report["groups"]}
    figures.append(("Learning rates", plotting.rates_panel(steps["iterations"], rates)))
    styles = {"solid": "{}", "dashed": "{};border-top-style:dashed", "area": "{};border-width:.8em"}
    return [
        (
            heading,
            plotting.svg_for_page(figure, f"curve-{number}", f"{heading} over the training"),
            [
                (label, f"border-color:{styles[kind].format(colour)}")
                for label, colour, kind in plotting.legend_entries(figure)
            ],
        )
        for number, (heading, figure) in enumerate(figures)
    ]


def _group(group: Mapping[str, Any]) -> Context:
    ends = list(dict.fromkeys((group["layers"][0], group["layers"][-1])))
    paths = " … ".join(ends)
    if len(paths) > 50:  # the last names say enough
        ends = [path.rsplit("/", 1)[-1] for path in ends]
    return {
        **group,
        "paths": paths,
        "ends": " … ".join(ends),
        "n_layers": len(group["layers"]),
    }


def _scores(evaluation: Any) -> Context:
    """Return the scores of each class with their confusions; or a table, and plots of numbers."""
    if isinstance(evaluation, Evaluation):
        return {**_confusion(evaluation), "class_scores": evaluation.scores_of_each, "rows": []}
    return {
        "matrix": [],
        "confusions": [],
        "class_scores": [],
        "columns": evaluation.columns,
        "rows": evaluation.rows(),
        "scatters": evaluation.scatters() if hasattr(evaluation, "scatters") else [],
    }


def _confusion(evaluation: Evaluation) -> Context:
    names, matrix = evaluation.class_names, evaluation.confusion_matrix()
    totals = matrix.sum(axis=1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS].tolist()
    confusions = [
        (names[row], names[column], int(wrong[row, column]), wrong[row, column] / totals[row])
        for row, column in (divmod(pair, len(names)) for pair in pairs)
        if wrong[row, column]
    ]
    numbers = len(names) <= NUMBERS_UP_TO

    def cell(row: int, column: int) -> Context | None:
        count = int(matrix[row, column])
        if not count:
            return None
        share = count / totals[row]
        return {
            "count": count,
            "share": share,
            "colour": "right" if row == column else "wrong",
            "shade": max(share, 0.15 if numbers else 0.4),  # one image should still be seen
            "title": f"{names[row]}: {count} of {totals[row]} as {names[column]}",
        }

    every = range(len(names))
    has_matrix = len(names) <= MATRIX_UP_TO
    return {
        "class_names": names,
        "matrix": [[cell(row, column) for column in every] for row in every] if has_matrix else [],
        "numbers": numbers,
        "turned": max(map(len, names)) > 4 or not numbers,
        "confusions": confusions if len(names) > 2 else [],
    }


def _errors(evaluation: Any, images: Mapping[int, Any]) -> Context:
    errors = [
        {
            "name": error.name,
            "lines": error.lines,
            "text": ", ".join(f"{line.word} {line.value}" for line in error.lines),
            **_example(images[error.index]),
        }
        for error in evaluation.worst_errors()
    ]
    is_number, unit = evaluation.target.kind == "number", evaluation.unit
    text = f"Every test {unit} is {'predicted exactly' if is_number else 'classified correctly'}."
    if evaluation.n_not_finite:
        text = (
            f"No prediction for {evaluation.n_not_finite:,} test {unit}s; all others are correct."
        )
    return {
        "heading": evaluation.errors_are.capitalize(),
        "what": "The predictions that are furthest from the truth."
        if is_number
        else "The wrong predictions with the highest probability.",
        "pictures": errors,
        "none": text,
    }


def _example(example: Any) -> Context:
    """Return the picture of an image, or the beginning of a text."""
    if isinstance(example, str):
        shown = example if len(example) <= MAX_TEXT else f"{example[:MAX_TEXT]}..."
        return {"example": shown}
    # Smooth enlarging would blur a picture of few pixels.
    return {"uri": picture_uri(example), "is_small": max(example.shape[:2]) < 64}


def _settings(report: Mapping[str, Any]) -> dict[str, str]:
    given = report["settings"]
    settings = {
        name.replace("_", " "): _words(value)
        for name, value in given.items()
        if value is not None and _has_effect(name, given)
    }
    if report["pretraining_accuracy"] is not None:
        settings["accuracy of the pretraining"] = f"{report['pretraining_accuracy']:.4f}"
    return settings


def _has_effect(name: str, settings: Mapping[str, Any]) -> bool:
    other, value = _ONLY_WITH.get(name, (name, settings[name]))
    return bool(settings.get(other) == value)


def _words(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else printable_name(str(value))
