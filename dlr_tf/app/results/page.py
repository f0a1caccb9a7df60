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
from dlr_tf.app.results.thumbnails import picture_uri
from dlr_tf.app.terminal import model_on_data, printable_name
from dlr_tf.training import plotting
from dlr_tf.training.learning_rate_logger import RATE

if TYPE_CHECKING:
    import jinja2

# A matrix of more classes has squares without numbers, and one of still more is left out.
NUMBERS_UP_TO, MATRIX_UP_TO = 20, 100
MAX_CONFUSIONS = 10
MISSING = "-"
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
    evaluation: Evaluation,
    *,
    images: Mapping[int, np.ndarray] | None = None,
    steps: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Return the page of a run.

    Args:
        report: What report.json holds. Only `"data"` with `"name"` and `"class_names"`,
            `"settings"`, `"groups"` and `"versions"` must be there.
        history: The `history` of the `History` that `fit` returned.
        evaluation: The scores on the test images.
        images: The images of the most confident errors by index, uint8 arrays of shape
            `(height, width, channels)`. Defaults to `None`: no pictures.
        steps: `LearningRateLogger.history`, for the rates of every step. Defaults to `None`: the
            rates at the end of every epoch, which are in `history`.

    Raises:
        ImportError: If matplotlib or Jinja2 is not installed.
    """
    # `None` stands for NaN in JSON, as in a report that is read from its file.
    history = {name: _floats(values) for name, values in history.items()}
    return _template().render(
        title=model_on_data(report["settings"].get("model"), report["data"]["name"]),
        **_overview(report, history, evaluation),
        comparison=_comparison(report, len(evaluation.labels)),
        curves=_curves(report, history, steps),
        groups=[_group(group) for group in report["groups"]],
        **_confusion(evaluation),
        class_scores=evaluation.class_scores(),
        errors=_errors(evaluation, images or {}),
        settings=_settings(report),
        versions=report["versions"],
        command=command_line(report["command"]) if report.get("command") else None,
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
def _template() -> jinja2.Template:
    require_jinja()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dlr_tf.app.results", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: MISSING if value is None else f"{value:,}"
    environment.filters["score"] = lambda value: MISSING if math.isnan(value) else f"{value:.3f}"
    return environment.get_template("report.html.jinja")


def number(value: float | None, digits: int = 4) -> str:
    """Write a number, or say why there is none.

    >>> number(0.25), number(None), number(math.nan), number(1.5e6)
    ('0.2500', '-', 'not finite', '1.5e+06')
    """
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write a time in the units that fit.

    >>> duration(4.26), duration(125), duration(7500)
    ('4.3 s', '2 min 5 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def command_line(command: Sequence[str]) -> str:
    """Return a command as it is typed, for its arguments with or without the name of the command.

    >>> command_line(["finetune", "my photos"])
    "dlr-tf finetune 'my photos'"
    """
    words = list(command)
    return printable_name(shlex.join(words if words[:1] == ["dlr-tf"] else ["dlr-tf", *words]))


def accuracies(report: Mapping[str, Any]) -> list[float]:
    """Return the test accuracy of each seed.

    >>> accuracies({"test_accuracy": 0.5}), accuracies({"test_accuracies": [0.5, 0.75]})
    ([0.5], [0.5, 0.75])
    """
    found = report.get("test_accuracies") or [report.get("test_accuracy")]
    return [value for value in found if value is not None and math.isfinite(value)]


def _overview(report: Mapping[str, Any], history: History, evaluation: Evaluation) -> Context:
    data, settings = report["data"], report["settings"]
    tiles = [
        (
            f"{evaluation.accuracy:.3f}",
            f"test accuracy: {evaluation.n_correct:,} of {len(evaluation.labels):,}",
        ),
        (number(report.get("test_loss")), "test loss"),
        (f"{len(data['class_names'])}", "classes"),
    ]
    for part in ("train", "validation"):
        if data.get(f"{part}_images"):
            name = "training" if part == "train" else part
            tiles.append((f"{data[f'{part}_images']:,}", f"{name} images"))
    seconds = report.get("seconds", {}).get("training")
    if seconds is not None:
        tiles.append((duration(seconds), "training"))
    epochs = len(history.get("loss", ()))
    facts = [
        f"{epochs} epoch{'' if epochs == 1 else 's'}",
        f"{len(report['groups'])} groups of layers",
    ]
    facts += [
        f"{name} {settings[name]}" for name in ("optimizer", "schedule") if settings.get(name)
    ]
    if report.get("kept_epoch", epochs) != epochs:
        facts.append(f"the model is that of epoch {report['kept_epoch']}")
    if evaluation.n_not_finite:
        facts.append(f"no finite probabilities for {evaluation.n_not_finite:,} test images")
    losses = [*history.get("loss", ()), *history.get("val_loss", ())]
    return {"tiles": tiles, "facts": facts, "diverged": not all(map(math.isfinite, losses))}


def _comparison(report: Mapping[str, Any], total: int) -> Context | None:
    other = report.get("compare") or {}
    ours, theirs = accuracies(report), accuracies(other)
    if not (ours and theirs):
        return None
    label, rates = other["label"], other.get("learning_rates")
    if rates:
        label += ", " + " to ".join(f"{rate:.2g}" for rate in sorted({min(rates), max(rates)}))
    several = len(ours) > 1 or len(theirs) > 1
    sides: list[Context] = []
    for name, values in ((report.get("label") or "this run", ours), (label, theirs)):
        mean = sum(values) / len(values)
        # With one seed, only the choice of the test images can be accounted for.
        low, high = (min(values), max(values)) if several else _one_standard_error(mean, total)
        sides.append({"name": name, "accuracies": values, "mean": mean, "low": low, "high": high})
    left, right = min(side["low"] for side in sides), max(side["high"] for side in sides)

    def place(value: float) -> float:
        """Return where a value is on the line that both sides share, in percent."""
        return round(4 + 92 * (value - left) / (right - left) if right > left else 50.0, 1)

    for side in sides:
        side |= {
            "left": place(side["low"]),
            "width": round(place(side["high"]) - place(side["low"]), 1),
            "places": [place(value) for value in side["accuracies"]],
        }
    difference = sides[0]["mean"] - sides[1]["mean"]
    text = f"Difference: {difference:+.4f}, {abs(difference) * total:.0f} of {total} images. "
    text += (
        "A dot is one seed. The curves below are those of the first seed."
        if several
        else "Each was trained with one seed, and another seed gives another accuracy. The bar "
        f"shows only what the choice of {total} test images adds."
    )
    spread = "lowest to highest" if several else "± one standard error"
    columns = ["trained with", "mean" if several else "accuracy", spread, "seeds", ""]
    return {"columns": columns, "sides": sides, "text": text}


def _one_standard_error(accuracy: float, total: int) -> tuple[float, float]:
    """Return the accuracy minus and plus one standard error of a binomial distribution."""
    error = math.sqrt(accuracy * (1 - accuracy) / total)
    return max(accuracy - error, 0.0), min(accuracy + error, 1.0)


def _curves(
    report: Mapping[str, Any], history: History, steps: Mapping[str, Sequence[float]] | None
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    if not len(history.get("loss", ())):
        return []
    runs = [(report.get("label") or "this run", history)]
    other = report.get("compare") or {}
    if other.get("history"):
        theirs = {key: _floats(values) for key, values in other["history"].items()}
        runs.append((other["label"], theirs))
    frozen = report["settings"].get("frozen_epochs") or 0
    # Without validation images, the test images are scored after each epoch.
    after_epoch = "test" if report["data"].get("validation_images") == 0 else "validation"
    figures = [
        (metric.capitalize(), plotting.history_panel(runs, metric, frozen, after_epoch))
        for metric in ("loss", "accuracy")
        if metric in history
    ]
    names = [group["name"] for group in report["groups"]]
    if steps and all(name in steps for name in names):
        rates = {name: steps[name] for name in names}
        figures.append(("Learning rates", plotting.rates_panel(steps["iterations"], rates)))
    elif all(f"{RATE}{name}" in history for name in names):
        rates = {name: history[f"{RATE}{name}"] for name in names}
        epochs = range(1, len(history["loss"]) + 1)
        heading = "Learning rates at the end of each epoch"
        figures.append((heading, plotting.rates_panel(epochs, rates, "epoch")))
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


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _group(group: Mapping[str, Any]) -> Context:
    ends = list(dict.fromkeys((group["layers"][0], group["layers"][-1])))
    paths = " … ".join(ends)
    if len(paths) > 50:  # the last names say enough
        ends = [path.rsplit("/", 1)[-1] for path in ends]
    return {
        "parameters": None,
        **group,
        "paths": paths,
        "ends": " … ".join(ends),
        "n_layers": len(group["layers"]),
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


def _errors(evaluation: Evaluation, images: Mapping[int, np.ndarray]) -> Context:
    errors = [
        {
            **vars(error),
            "uri": picture_uri(images[error.index]) if error.index in images else None,
            # Smooth enlarging would blur a picture of few pixels.
            "is_small": error.index in images and max(images[error.index].shape[:2]) < 64,
        }
        for error in evaluation.most_confident_errors()
    ]
    text = "Every test image is classified correctly."
    if evaluation.n_not_finite:
        text = f"No prediction for {evaluation.n_not_finite:,} test images; all others are correct."
    return {"pictures": errors, "none": text}


def _settings(report: Mapping[str, Any]) -> dict[str, str]:
    given = report["settings"]
    settings = {
        name.replace("_", " "): _words(value)
        for name, value in given.items()
        if value not in (None, [], ()) and name != "command" and _has_effect(name, given)
    }
    accuracy = report.get("pretraining_accuracy")
    if accuracy is not None:
        settings["accuracy of the pretraining"] = number(accuracy)
    return settings


def _has_effect(name: str, settings: Mapping[str, Any]) -> bool:
    other, value = _ONLY_WITH.get(name, (name, settings[name]))
    return bool(settings.get(other) == value)


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    return ("yes" if value else "no") if isinstance(value, bool) else printable_name(str(value))
