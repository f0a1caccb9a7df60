"""The page of a run: what it says, that it is valid, and that it needs nothing else."""

from __future__ import annotations

import copy
import html.parser
import math
import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


from dlr_tf.app.results import Evaluation, OneClass, page

VOID = frozenset({"br", "img", "meta"})  # elements without an end tag
NAUGHTY = "<b>&\"'</td>"
NAN = math.nan
HISTORY = {
    "loss": [2.0, 1.0, 0.5],
    "accuracy": [0.3, 0.6, 0.8],
    "val_loss": [1.8, 1.1, 0.9],
    "val_accuracy": [0.35, 0.5, 0.7],
    "learning_rate/group_0": [NAN, 1e-4, 1e-5],
    "learning_rate/head": [1e-2, 1e-2, 1e-3],
}
STEPS = {"iterations": [1, 2, 3], "group_0": [NAN, 1e-4, 1e-5], "head": [1e-2, 1e-2, 1e-3]}
REPORT: dict[str, Any] = {
    "label": "this run",
    "data": {
        "name": f"my {NAUGHTY} photos", "class_names": ["ant", NAUGHTY, "cat"],
        "train_images": 12345, "test_images": 8, "validation_images": 7,
    },
    "settings": {
        "model": "VGG16", "frozen_epochs": 1, "optimizer": "adam", "schedule": "onecycle",
        "boundaries": None,
    },
    "groups": [
        {"name": "group_0", "layers": ["vgg/a", "vgg/b"], "learning_rate": 1e-4,
         "parameters": 1234},
        {"name": "head", "layers": ["probabilities"], "learning_rate": 1e-2, "parameters": 30},
    ],
    "test_accuracies": [0.75],
    "test_loss": 0.9,
    "kept_epoch": 3,
    "pretraining_accuracy": None,
    "seconds": {"training": 125.0},
    "versions": {"dlr_tf": "0.1.0", "keras": "3.15.1"},
    "command": ["dlr-tf", "finetune", "my photos", "--seed", "3"],
    "compare": {
        "label": "one rate for all layers", "test_accuracies": [0.5],
        "learning_rates": [0.001], "history": {"loss": [9.0, NAN, NAN]},
    },
}  # fmt: skip


def evaluation_of(
    predictions: list[int], labels: list[int], names: tuple[str, ...] = ("ant", NAUGHTY, "cat")
) -> Evaluation:
    probabilities = np.full((len(labels), len(names)), 0.1, np.float32)
    probabilities[np.arange(len(labels)), predictions] = 0.8
    paths = [f"photos/{number}.jpg" for number in range(len(labels))]
    return OneClass(names).evaluate(np.array(labels), probabilities, paths)


EVALUATION = evaluation_of([0, 0, 0, 1, 1, 1, 2, 0], [0, 0, 1, 1, 1, 1, 2, 2])


class Page(html.parser.HTMLParser):
    """A page of HTML, checked: elements end, ids are unique, and nothing is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        assert text.startswith("<!doctype html>\n<html lang=")
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        for address in self.addresses:
            assert address.startswith("data:image/png;base64,") or address[1:] in self.ids
        for tag in ("script", "link", "iframe", "object", "base"):
            assert tag not in self.tags
        assert not re.search(r"@import|url\((?!#)", text)
        names = re.findall(r"var\(([a-z0-9-]+)\)", text)
        assert set(names) <= set(re.findall(r"(--[a-z0-9-]+):", text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open  # HTML itself has no such elements
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def error(self, message: str) -> None:
        raise AssertionError(message)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


PICTURES = {index: np.full((8, 8, 1), index, np.uint8) for index in range(8)}


def make(report: Any = REPORT, evaluation: Any = EVALUATION, steps: Any = STEPS) -> Page:
    return Page(page.page_of(report, HISTORY, steps, evaluation, PICTURES))


def test_everything_is_on_the_page() -> None:
    made = make()
    for text in (
        f"VGG16 on my {NAUGHTY} photos",
        "0.750 test accuracy: 6 of 8",
        "12,345 training images",
        "2 min 5 s",
        "vgg/a … vgg/b 2 1,234 0.0001",
        "one rate for all layers, 0.001 0.5000 0.5000 to 0.5000 1",
        "Difference: +0.2500, 2 of 8 images.",
        "Loss",
        "Accuracy",
        "Learning rates",
        "step (optimizer updates)",
        "this run, validation",
        f"{NAUGHTY} ant 1 25.0%",  # the most frequent confusions
        "cat 2 1.000 0.500 0.667",  # precision, recall and F1
        f"predicted: ant (80%) true: {NAUGHTY} 2.jpg",
        "keras 3.15.1",
        "optimizer adam",
        "dlr-tf finetune 'my photos' --seed 3",
    ):
        assert text in made.text
    assert "boundaries" not in made.text  # an option that was not given
    assert made.tags.count("img") == 2
    assert made.tags.count("svg") == 3


def test_the_file() -> None:
    text = page.page_of(REPORT, HISTORY, STEPS, EVALUATION, PICTURES)
    assert "prefers-color-scheme: dark" in text
    assert 'charset="utf-8"' in text
    assert len(text) < 150_000


def test_what_is_missing_is_left_out() -> None:
    report = copy.deepcopy(REPORT)
    del report["compare"], report["test_accuracies"]
    del report["settings"]["model"]
    made = make(report, evaluation_of([0, 1], [0, 1], ("ant", "bee")))
    assert "Small network on" in made.text
    assert "Every test image is classified correctly." in made.text
    for text in ("Comparison", "Most frequent confusions", "accuracy of the pretraining"):
        assert text not in made.text
    assert (
        "accuracy of the pretraining 0.5000" in make({**REPORT, "pretraining_accuracy": 0.5}).text
    )


def test_a_model_without_finite_probabilities() -> None:
    broken = OneClass(EVALUATION.class_names).evaluate(EVALUATION.labels, np.full((8, 3), NAN))
    made = make({**REPORT, "test_loss": NAN}, broken)
    assert "nan test loss" in made.text
    assert "no finite probabilities for 8 test images" in made.text
    assert "No prediction for 8 test images; all others are correct." in made.text
    assert "Every test image" not in made.text


def test_settings_in_words() -> None:
    settings = {**REPORT["settings"], "skip_broken": True, "compare": False}
    made = make({**REPORT, "settings": settings, "kept_epoch": 2})
    assert "skip broken yes compare no dlr_tf" in made.text
    assert "the model is that of epoch 2" in made.text
    assert "the model is that" not in make().text


def test_settings_without_an_effect_are_left_out() -> None:
    settings = {**REPORT["settings"], "t_mul": 2.0, "wait": 600.0, "compare_seeds": 3}
    made = make({**REPORT, "settings": {**settings, "compare": False, "strategy": None}})
    for name in ("t mul", "wait", "compare seeds"):
        assert name not in made.text
    settings |= {"schedule": "sgdr", "compare": True, "strategy": "multi-worker"}
    made = make({**REPORT, "settings": settings})
    assert "schedule sgdr t mul 2.0 wait 600.0 compare seeds 3 compare yes" in made.text


@pytest.mark.parametrize(("count", "name"), [(0, "test"), (3, "validation")])
def test_test_images_are_not_called_validation_images(count: int, name: str) -> None:
    made = make({**REPORT, "data": {**REPORT["data"], "validation_images": count}})
    assert f"this run, {name}" in made.text
    assert ("this run, validation" in made.text) == (name == "validation")
    assert ("3 validation images" in made.text) == (count == 3)


def test_several_seeds() -> None:
    report = copy.deepcopy(REPORT)
    report["test_accuracies"] = [0.9, 0.8, 0.7]
    made = make(report)
    assert "this run 0.8000 0.7000 to 0.9000 3" in made.text
    assert "one rate for all layers, 0.001 0.5000 0.5000 to 0.5000 1" in made.text
    assert "A dot is one seed." in made.text


def test_the_head_alone_is_compared_too() -> None:
    report = copy.deepcopy(REPORT)
    report["compare"]["head_alone"] = [0.25, 0.35]
    assert "the head alone 0.3000 0.2500 to 0.3500 2" in make(report).text


def test_a_text_has_its_classes_below_it() -> None:
    texts = {index: f"text {index} & {NAUGHTY}" for index in range(8)}
    made = Page(page.page_of(REPORT, HISTORY, STEPS, EVALUATION, texts))
    assert f"text 2 & {NAUGHTY} predicted: ant (80%) true: {NAUGHTY} 2.jpg" in made.text


@pytest.mark.parametrize("n_classes", [2, 20, 21, 100, 101])
def test_matrix_of_many_classes(n_classes: int) -> None:
    names = tuple(f"class {number}" for number in range(n_classes))
    labels = list(range(n_classes))
    evaluation = evaluation_of([1, *labels[1:]], labels, names)
    text = page.page_of(REPORT, HISTORY, STEPS, evaluation, PICTURES)
    assert ('<table class="matrix' in text) == (n_classes <= 100)
    assert ('<table class="matrix small"' in text) == (20 < n_classes <= 100)
    made = Page(text)
    assert ("class 0 class 1 1 100.0%" in made.text) == (n_classes > 2)
    if n_classes <= 100:
        assert 'title="class 0: 1 of 1 as class 1"' in text
    assert len(text) < 250_000


def test_many_groups() -> None:
    report, steps = copy.deepcopy(REPORT), {"iterations": [1, 2]}
    report["groups"] = [
        {
            "name": f"g{n}",
            "layers": [f"{'long_name/' * 5}{n}", "b"],
            "learning_rate": 10.0**-n,
            "parameters": 2,
        }
        for n in range(40)
    ]
    steps |= {group["name"]: [group["learning_rate"]] * 2 for group in report["groups"]}
    made = make(report, steps=steps)
    assert "g39 39 … b 2 2 1e-39" in made.text
