"""The model card of a run, README.md: what the model is, how good it is, what it is not for."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from dlr_tf.app.results.page import template
from dlr_tf.app.terminal import model_on_data

_OUTPUTS = {
    "class": ("classes", "the probability of each class; they sum to 1"),
    "labels": ("labels", "the probability of each label, and a threshold for it in classes.json"),
    "number": ("numbers", "numbers in the unit of the data"),
}
_NEVER = {
    "class": "What is of none of the classes: the model names one of them all the same.",
    "labels": "Labels that are not in the list: the model does not know them.",
    "number": "Numbers outside the range of the training data.",
}


def card_of(report: Mapping[str, Any], evaluation: Any) -> str:
    """Return the model card of a run as Markdown.

    Args:
        report: What report.json holds.
        evaluation: The scores on the test examples.
    """
    kind, unit = report["data"]["target"], evaluation.unit
    outputs, gives = _OUTPUTS[kind]
    takes = "texts, as strings"
    if unit == "image":
        channels = report["data"]["image_shape"][-1]
        colours = "RGB" if channels == 3 else "grey"
        takes = f"{colours} images of any size, with values from 0 to 255"
    return template("card.md.jinja").render(
        title=model_on_data(report["settings"].get("model"), report["data"]["name"]),
        report=report,
        date=datetime.date.today().isoformat(),
        unit=unit,
        takes=takes,
        outputs=outputs,
        gives=gives,
        never=_NEVER[kind],
        table=evaluation.text().partition("\nthe ")[0],
    )
