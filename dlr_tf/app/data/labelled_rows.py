"""The rows of a table, each with what is learned of it: of images as of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlr_tf._names import some_of
from dlr_tf.app.data.splits import TO_SCORE, split_named
from dlr_tf.app.data.tables import Row
from dlr_tf.app.data.targets import CLASS, Columns, Targets, class_name, kind_wanted, read_targets
from dlr_tf.app.terminal import print_stderr


class Example(NamedTuple):
    """An image or a text that a person names.

    Its split, where it is named, its path or its texts, and the name of its class, or a row of
    numbers.
    """

    split: str
    place: str
    content: tuple[str, ...]
    target: Any


def labelled_rows(
    path: Path,
    columns: Columns,
    names: Sequence[str],
    rows: Sequence[Row],
    found: Mapping[str, Sequence[str]],
    content_of: Callable[[Row], tuple[str, tuple[str, ...]]],
) -> tuple[Targets | None, list[Example], dict[str, str]]:
    """Return what is learned of the rows of a table, those that can be used, and the others.

    Args:
        path: The table.
        columns: What was asked for.
        names: The names of its columns, as it spells them.
        rows: Its rows.
        found: The columns for "label" and "split", the last one perhaps none, in lower case.
        content_of: A function from a row to what is wrong with it, empty if nothing, and its path
            or its texts.

    Returns:
        The labels or the numbers, `None` for one class of each example; the examples; and the place
        of each row that cannot be used, and why.

    Raises:
        ValueError: If the labels cannot be read.
    """
    labels = found["label"]
    cells = [
        ["" if row.problem else row.cells.get(label, "").strip() for label in labels]
        for row in rows
    ]
    kind, targets = kind_wanted(columns.target, cells), None
    if kind != CLASS:
        spelled = {name.lower(): name for name in names}
        targets = read_targets(kind, [spelled[label] for label in labels], cells)
    elif len(labels) > 1:
        raise ValueError(
            f"--target class needs one label column. Received: --label-column {','.join(labels)}"
        )
    examples, broken = [], {}
    for index, row in enumerate(rows):
        problem, content = content_of(row)
        split: str | None = "train"
        for name in found["split"]:
            split = split_named(row.cells.get(name, "").strip())
            if split is None:
                problem = problem or (
                    f"its split is {row.cells.get(name, '')!r}; expected: train, test or val"
                )
        if targets:
            problem = problem or targets.broken.get(index, "")
        else:
            problem = problem or _problem_of_class(cells[index][0], labels[0])
        place = f"{path}:{row.line}"
        if problem or split is None:
            broken[place] = problem
        else:
            target = targets.values[index] if targets else class_name(cells[index][0])
            examples.append(Example(split, place, content, target))
    return targets, examples, broken


def _problem_of_class(name: str, column: str) -> str:
    if not name:
        return f"it has no {column}"
    return problem_of_line(name, column)


def problem_of_line(text: str, what: str) -> str:
    """Return what is wrong with a text that should be one line, empty if nothing."""
    if "\n" in text or "\r" in text:
        return f"its {what} has several lines; perhaps a quotation mark is missing: {text[:80]!r}"
    return f"its {what} has a null character; save the file as UTF-8" if "\0" in text else ""


def check_rows(name: str, broken: Mapping[str, str], noun: str, *, skip: bool = False) -> None:
    """Print what is wrong with rows, and raise a `ValueError` if these are not to be skipped."""
    for place, reason in broken.items():
        print_stderr(f"{place}: {reason}")
    if broken and not skip:
        count = f"1 {noun}" if len(broken) == 1 else f"{len(broken)} {noun}s"
        raise ValueError(
            f"{count} of the data {name!r} cannot be used, for the reasons above: "
            f"{some_of(list(broken), 3)}. Correct them, or give --skip-broken to go on without."
        )


def examples_to_use(
    name: str, examples: Sequence[Example], noun: str, *, to_score: bool
) -> list[Example]:
    """Return the examples to train and to test on; or those that a model is scored on, as "test".

    Raises:
        ValueError: If there are none, or none to train on.
    """
    if not examples:
        raise ValueError(f"The data {name!r} hold no {noun}s that can be used.")
    splits = {example.split for example in examples}
    if to_score:
        scored = next(split for split in TO_SCORE if split in splits)
        return [one._replace(split="test") for one in examples if one.split == scored]
    if "train" not in splits:
        raise ValueError(
            f"The splits of {name!r} should be train, and test or validation. Received: "
            f"{some_of(sorted(splits))}."
        )
    return list(examples)
