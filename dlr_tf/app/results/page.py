"""The page of a run, report.html: one file that needs no other file, no network and no script."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlr_tf.app.results.evaluation import Evaluation
from dlr_tf.app.results.markup import Content, Html, element, scrolling, table
from dlr_tf.app.results.page_style import STYLE
from dlr_tf.app.results.thumbnails import picture_uri
from dlr_tf.app.run.comparison import ONE_RATE
from dlr_tf.training import plotting
from dlr_tf.training.learning_rate_logger import RATE

# A matrix of more classes has squares without numbers, and one of still more is left out.
NUMBERS_UP_TO, MATRIX_UP_TO = 20, 100
MISTAKES = 10
MISSING = "-"

History = Mapping[str, Sequence[float]]


def write_page(
    path: Path,
    report: Mapping[str, Any],
    history: History,
    evaluation: Evaluation,
    *,
    image_of: Callable[[int], np.ndarray] | None = None,
    names: Sequence[str] = (),
    steps: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write the page of a run.

    Args:
        path: The file, `report.html`.
        report: What report.json holds. Only `"data"` with `"name"` and `"class_names"`,
            `"settings"`, `"groups"` and `"versions"` must be there. For several seeds, the report
            and its `"compare"` have a list `"test_accuracies"`. `"command"` holds the arguments of
            the command, and a group may have its number of `"parameters"`.
        history: The `history` of the `History` that `fit` returned.
        evaluation: The scores on the test images.
        image_of: A function from the index of a test image to the image, a uint8 array of shape
            `(height, width, channels)`. Defaults to `None`: no pictures.
        names: What each test image is called. Defaults to none.
        steps: `LearningRateLogger.history`, for the rates of every step. Defaults to `None`: the
            rates at the end of every epoch, which are in `history`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    page = page_of(report, history, evaluation, image_of=image_of, names=names, steps=steps)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def page_of(
    report: Mapping[str, Any],
    history: History,
    evaluation: Evaluation,
    *,
    image_of: Callable[[int], np.ndarray] | None = None,
    names: Sequence[str] = (),
    steps: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Return the page of a run. The arguments are those of `write_page`."""
    title = title_of(report)
    # `None` stands for NaN in JSON, as in a report that is read from its file.
    history = {name: _floats(values) for name, values in history.items()}
    sections = (
        _reached(report, history, evaluation),
        _comparison(report, len(evaluation.labels)),
        _curves(report, history, steps),
        _groups(report),
        _confusions(evaluation),
        _classes(evaluation),
        _mistakes(evaluation, image_of, names),
        _settings(report),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element("body", element("main", element("h1", title), sections))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def title_of(report: Mapping[str, Any]) -> str:
    """Return the names of the model and of the data.

    >>> title_of({"settings": {"model": "VGG16"}, "data": {"name": "photos"}})
    'VGG16 on photos'
    """
    model = report["settings"].get("model")
    return f"{Path(model).name if model else 'Small network'} on {report['data']['name']}"


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


def _section(heading: str, *content: Content) -> Html:
    return element("section", element("h2", heading), *content)


def _reached(report: Mapping[str, Any], history: History, evaluation: Evaluation) -> Content:
    total, data, settings = len(evaluation.labels), report["data"], report["settings"]
    loss = report.get("test_loss")
    tiles = [
        (f"{evaluation.accuracy:.3f}", f"test accuracy: {evaluation.right:,} of {total:,}"),
        (number(loss), "test loss"),
        (f"{len(data['class_names'])}", "classes"),
    ]
    if "train_images" in data:
        tiles.append((f"{data['train_images']:,}", "images to train on"))
    if data.get("validation_images"):
        tiles.append((f"{data['validation_images']:,}", "images to validate on"))
    seconds = report.get("seconds", {}).get("training")
    if seconds is not None:
        tiles.append((duration(seconds), "training"))
    epochs = len(history.get("loss", ()))
    facts = [
        f"{epochs} epoch{'' if epochs == 1 else 's'}",
        f"{len(report['groups'])} groups of layers",
        f"optimizer {settings['optimizer']}" if settings.get("optimizer") else "",
        f"schedule {settings['schedule']}" if settings.get("schedule") else "",
    ]
    if report.get("kept_epoch", epochs) != epochs:
        facts.append(f"the model is that of epoch {report['kept_epoch']}")
    if evaluation.not_finite:
        facts.append(f"no finite probabilities for {evaluation.not_finite:,} test images")
    losses = [*history.get("loss", ()), *history.get("val_loss", ())]
    diverged = [value for value in losses if not math.isfinite(value)]
    warning = element(
        "p",
        "A loss is not finite: the training diverged. Lower rates help; ",
        element("code", "dlr-tf find-lr"),
        " suggests some.",
        class_="warning",
    )
    return (
        element("p", ", ".join(filter(None, facts)), class_="quiet"),
        element(
            "div",
            [element("div", element("b", value), element("span", text), class_="tile")
             for value, text in tiles],
            class_="tiles",
        ),
        warning if diverged else None,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Write a time in the units that fit.

    >>> duration(4.26), duration(125), duration(7500)
    ('4.3 s', '2 min 5 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _comparison(report: Mapping[str, Any], total: int) -> Content:
    other = report.get("compare")
    if not other:
        return None
    ours, theirs = accuracies(report), accuracies(other)
    if not (ours and theirs):
        return None
    label = other.get("label") or ONE_RATE
    rates = other.get("learning_rates")
    if rates:
        label += ", " + " to ".join(f"{rate:.2g}" for rate in sorted({min(rates), max(rates)}))
    several = len(ours) > 1 or len(theirs) > 1
    # With one seed, only the choice of the test images can be accounted for.
    sides = [
        (sum(side) / len(side), *((min(side), max(side)) if several else _chance(side[0], total)))
        for side in (ours, theirs)
    ]
    low, high = min(side[1] for side in sides), max(side[2] for side in sides)
    rows = []
    for name, side, (mean, first, last), second in zip(
        (report.get("label") or "this run", label), (ours, theirs), sides, (False, True)
    ):
        picture = _strip(side, first, last, low, high, second)
        rows.append([name, f"{mean:.4f}", f"{first:.4f} to {last:.4f}", f"{len(side)}", picture])
    spread = "lowest to highest" if several else "± one standard error"
    columns = ["trained with", "mean" if several else "accuracy", spread, "seeds", ""]
    difference = sides[0][0] - sides[1][0]
    text = f"Difference: {difference:+.4f}, {abs(difference) * total:.0f} of {total} images. "
    text += (
        "A dot is one seed. The curves below are those of the first seed."
        if several
        else "Each was trained with one seed, and another seed gives another accuracy. The bar "
        f"shows only what the choice of {total} test images adds."
    )
    return _section(
        "Comparison", table(columns, rows, 4), element("p", text, class_="quiet")
    )  # fmt: skip


def accuracies(report: Mapping[str, Any]) -> list[float]:
    """Return the test accuracy of each seed.

    >>> accuracies({"test_accuracy": 0.5}), accuracies({"test_accuracies": [0.5, 0.75]})
    ([0.5], [0.5, 0.75])
    """
    found = report.get("test_accuracies") or [report.get("test_accuracy")]
    return [value for value in found if value is not None and math.isfinite(value)]


def _chance(accuracy: float, total: int) -> tuple[float, float]:
    """Return the accuracy minus and plus one standard error of a binomial distribution."""
    error = math.sqrt(accuracy * (1 - accuracy) / total)
    return max(accuracy - error, 0.0), min(accuracy + error, 1.0)


def _strip(
    values: Sequence[float], first: float, last: float, low: float, high: float, second: bool
) -> Html:
    """Draw dots and their range on a line from `low` to `high`."""

    def place(value: float) -> float:
        return 4 + 92 * (value - low) / (high - low) if high > low else 50.0

    return element(
        "span",
        element("b", style=f"left:{place(first):.1f}%;width:{place(last) - place(first):.1f}%"),
        [element("i", style=f"left:{place(value):.1f}%") for value in values],
        class_="strip second" if second else "strip",
    )


def _curves(
    report: Mapping[str, Any], history: History, steps: Mapping[str, Sequence[float]] | None
) -> Content:
    if not len(history.get("loss", ())):
        return None
    runs = [(report.get("label") or "this run", history)]
    other = (report.get("compare") or {}).get("history")
    if other:
        runs.append((ONE_RATE, {key: _floats(values) for key, values in other.items()}))
    frozen = report["settings"].get("frozen_epochs") or 0
    # Without validation images, the test images are scored after each epoch.
    after_epoch = "test" if report["data"].get("validation_images") == 0 else "validation"
    figures = []
    for metric in ("loss", "accuracy"):
        if metric in history:
            figure = plotting.history_panel(runs, metric, frozen, after_epoch)
            figures.append((metric.capitalize(), metric, figure))
    names = [group["name"] for group in report["groups"]]
    if steps and all(name in steps for name in names):
        rates = {name: steps[name] for name in names}
        figure = plotting.rates_panel(steps["iterations"], rates)
        figures.append(("Learning rates", "rates", figure))
    elif all(f"{RATE}{name}" in history for name in names):
        rates = {name: history[f"{RATE}{name}"] for name in names}
        epochs = range(1, len(history["loss"]) + 1)
        figure = plotting.rates_panel(epochs, rates, "epoch")
        figures.append(("Learning rates at the end of each epoch", "rates", figure))
    drawn = [
        element(
            "figure",
            element("figcaption", heading),
            Html(plotting.svg_for_page(figure, name, f"{heading} over the training")),
            _legend(plotting.legend_entries(figure)),
        )
        for heading, name, figure in figures
    ]
    return _section("Curves", element("div", drawn, class_="curves"))


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    styles = {"solid": "{}", "dashed": "{};border-top-style:dashed", "area": "{};border-width:.8em"}
    return element(
        "ul",
        [
            element(
                "li", element("i", style=f"border-color:{styles[kind].format(colour)}"), label
            )
            for label, colour, kind in entries
        ],
        class_="legend",
    )  # fmt: skip


def _groups(report: Mapping[str, Any]) -> Content:
    groups = report["groups"]
    if not groups:
        return None
    has_parameters = any(group.get("parameters") is not None for group in groups)
    rows = []
    for group in groups:
        ends = list(dict.fromkeys((group["layers"][0], group["layers"][-1])))
        paths = " … ".join(ends)
        if len(paths) > 50:  # the last names say enough
            ends = [path.rsplit("/", 1)[-1] for path in ends]
        layers = element("span", " … ".join(ends), title=paths)
        row: list[Content] = [group["name"], layers, f"{len(group['layers']):,}"]
        if has_parameters:
            parameters = group.get("parameters")
            row.append(MISSING if parameters is None else f"{parameters:,}")
        rows.append([*row, f"{group['learning_rate']:.3g}"])
    columns = ["group", "first and last layer", "layers"]
    columns += ["parameters"] if has_parameters else []
    columns += ["peak rate"]
    return _section("Groups of layers", table(columns, rows, len(columns) - 2))


def _confusions(evaluation: Evaluation) -> Content:
    names, matrix = evaluation.class_names, evaluation.confusion_matrix()
    content: list[Content] = []
    if len(names) <= MATRIX_UP_TO:
        text = "A row is a right class, a column what the model says. "
        text += "The colour is the share of the row."
        content = [element("div", element("p", text, class_="quiet"), _matrix(names, matrix))]
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES].tolist()
    rows: list[list[Content]] = []
    for right, said in (divmod(pair, len(names)) for pair in pairs):
        if wrong[right, said]:
            share = wrong[right, said] / matrix[right].sum()
            rows.append([names[right], names[said], f"{wrong[right, said]:,}", f"{share:.1%}"])
    if rows and len(names) > 2:
        columns = ["right class", "the model says", "images", "of the class"]
        heading = element("h3", "Most frequent confusions")
        content.append(element("div", heading, table(columns, rows, 2)))
    side_by_side = "columns" if len(names) <= 10 else None
    return (
        _section("Confusion matrix", element("div", content, class_=side_by_side))
        if content
        else None
    )


def _matrix(names: Sequence[str], matrix: np.ndarray) -> Html:
    with_numbers = len(names) <= NUMBERS_UP_TO
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    def cell(row: int, column: int) -> Html:
        count, share = int(matrix[row, column]), float(shares[row, column])
        if not count:
            return element("td")
        colour = "right" if row == column else "wrong"
        # One image should still be seen.
        seen = max(share, 0.15 if with_numbers else 0.4)
        style = f"background:rgb(var(--{colour}) / {seen:.2f})"
        text = f"{names[row]}: {count} of {matrix[row].sum()} as {names[column]}"
        full = "full" if share > 0.5 else None
        shown = f"{count:,}" if with_numbers else None
        return element("td", shown, style=style, class_=full, title=text)

    turned = "turned" if max(map(len, names)) > 4 or not with_numbers else None
    columns = [
        element("th", element("span", name, class_=turned), scope="col", title=name)
        for name in names
    ]
    rows = [
        element(
            "tr",
            element("th", name, scope="row", title=name),
            [cell(row, column) for column in range(len(names))],
        )
        for row, name in enumerate(names)
    ]
    return scrolling(
        element(
            "table",
            element("thead", element("tr", element("td", style="background:none"), columns)),
            element("tbody", rows),
            class_="matrix" if with_numbers else "matrix small",
        ),
        whole=True,
    )


def _classes(evaluation: Evaluation) -> Content:
    def with_bar(value: float) -> Content:
        if math.isnan(value):
            return MISSING
        bar = element("i", style=f"width:{value:.0%}")
        return [f"{value:.3f}", element("span", bar, class_="bar")]

    def text(value: float) -> str:
        return MISSING if math.isnan(value) else f"{value:.3f}"

    rows: list[list[Content]] = [
        [
            score.name,
            f"{score.support:,}",
            text(score.precision),
            text(score.recall),
            with_bar(score.f1),
        ]
        for score in evaluation.class_scores()
    ]
    return _section("Classes", table(["class", "images", "precision", "recall", "F1"], rows, 4))


def _mistakes(
    evaluation: Evaluation, image_of: Callable[[int], np.ndarray] | None, names: Sequence[str]
) -> Content:
    worst = evaluation.worst_mistakes(MISTAKES)
    if not worst:
        text = f"{evaluation.not_finite:,} test images have no prediction, and every other one"
        text = text if evaluation.not_finite else "Every test image"
        return _section("Mistakes", element("p", f"{text} is classified right."))
    pictures = []
    for index in worst:
        right = evaluation.class_names[evaluation.labels[index]]
        said = evaluation.class_names[evaluation.predictions[index]]
        share = float(evaluation.probabilities[index].max())
        name = names[index] if index < len(names) else f"image {index}"
        image = None
        if image_of is not None:
            pixels = image_of(index)
            image = element(
                "img",
                src=picture_uri(pixels),
                alt=f"{name}: {right}, but the model says {said}",
                # Smooth enlarging would blur a picture of few pixels.
                class_="pixels" if max(pixels.shape[:2]) < 64 else None,
            )
        caption = element(
            "figcaption",
            element("b", said),
            f" ({share:.0%})",
            element("br"),
            "right: ",
            element("b", right),
            element("br"),
            element("span", Path(name).name, title=name),
        )
        pictures.append(element("figure", image, caption))
    return _section(
        "The worst mistakes",
        element("p", "What the model is most sure of, although it is wrong.", class_="quiet"),
        element("div", pictures, class_="pictures"),
    )


def _settings(report: Mapping[str, Any]) -> Content:
    given = report["settings"]
    settings = {
        name.replace("_", " "): value
        for name, value in given.items()
        if value not in (None, [], ()) and name != "command" and _has_effect(name, given)
    }
    accuracy = report.get("pretraining_accuracy")
    if accuracy is not None:
        settings["accuracy of the pretraining"] = number(accuracy)
    command = report.get("command")
    return (
        _section(
            "Settings and versions",
            element("div", _pairs(settings), _pairs(report["versions"]), class_="columns"),
        ),
        _section("Command", element("pre", command_line(command))) if command else None,
    )


# Settings that have an effect only with this value of another one.
_ONLY_WITH: Mapping[str, tuple[str, Any]] = {
    "compare_seeds": ("compare", True),
    "t_mul": ("schedule", "sgdr"),
    "wait": ("strategy", "multi-worker"),
}


def _has_effect(name: str, settings: Mapping[str, Any]) -> bool:
    other, value = _ONLY_WITH.get(name, (name, settings[name]))
    return bool(settings.get(other) == value)


def _pairs(values: Mapping[str, Any]) -> Html:
    def text(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(map(text, value))
        return ("yes" if value else "no") if isinstance(value, bool) else str(value)

    return element(
        "dl",
        [[element("dt", name), element("dd", text(value))] for name, value in values.items()],
    )


def command_line(command: Sequence[str]) -> str:
    """Return a command as it is typed.

    Args:
        command: Its arguments, with or without the name of the command.

    >>> command_line(["finetune", "my photos"])
    "dlr-tf finetune 'my photos'"
    """
    words = list(command)
    return shlex.join(words if words[:1] == ["dlr-tf"] else ["dlr-tf", *words])
