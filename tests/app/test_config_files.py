"""Files with options."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.config import RunConfig
from dlr_tf.app.terminal import UsageError

YAML = """
data: photos
epochs: 3
learning-rate: 1e-4:1e-3
augment: [flip, mixup]
keep_head: false
class-weights: balanced
groups: 2
warmup: 0.1
"""


def test_the_command_line_wins() -> None:
    Path("options.yaml").write_text(YAML)
    found = parse_arguments(["finetune", "--config", "options.yaml", "--epochs", "5"])
    assert (found.data, found.epochs, found.learning_rate) == ("photos", 5, "1e-4:1e-3")
    assert (found.augment, found.class_weights, found.groups) == ("flip,mixup", "balanced", 2)
    assert found.warmup == 0.1
    found = parse_arguments(["find-lr", "other", "--config", "options.yaml", "--boundaries", "a"])
    assert (found.data, found.boundaries, found.groups) == ("other", "a", None)


@pytest.mark.parametrize(
    "typed",
    [
        [],
        ["--no-compare", "--seed", "4"],
        ["photos", "--compare", "--keep", "best", "--groups", "4", "--learning-rate=-,1e-3"],
        ["photos", "--schedule", "sgdr", "--t-mul", "3", "--label-smoothing", "0.1"],
    ],
    ids=" ".join,
)
def test_the_settings_of_a_run(typed: list[str]) -> None:
    expected = RunConfig.of(parse_arguments(["finetune", *typed]).as_dict())
    content = {"folder": str(Path.cwd()), "settings": expected.as_dict(), "class_names": []}
    Path("settings.json").write_text(json.dumps(content))
    found = parse_arguments(["finetune", "--config", "settings.json"])
    assert RunConfig.of(found.as_dict()) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "epoch: 3", r"'a.yaml' has options that dlr-tf finetune does not know: "),
        ("a.yml", "epoch: 3", r"\['epoch'\]\. Did you mean 'epochs'\?"),
        ("a.json", '{"resume": "run"}', r"does not know: \['resume'\]"),
        (
            "a.json",
            '{"epochs": "many"}',
            "In the file 'a.json': argument --epochs: expected an int",
        ),
        ("a.json", '{"t_mul": 3}', "--t-mul is for cycles"),
        ("a.json", "{", "'a.json' cannot be read: Expecting"),
        ("a.yaml", "a: [", "'a.yaml' cannot be read: while parsing"),
        ("a.yaml", "epochs", "should hold options by name, such as epochs: 3"),
        ("a.toml", "", "should end in .json, .yaml, .yml"),
    ],
)
def test_mistakes(name: str, text: str, message: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(UsageError, match=message):
        parse_arguments(["finetune", "--config", name])


def test_files_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'no.json' cannot be read: .*No such file"):
        parse_arguments(["finetune", "--config", "no.json"])
    with pytest.raises(UsageError, match="--config is for a new run"):
        parse_arguments(["finetune", "--config", "no.json", "--resume", "run"])
    Path("a.yaml").write_text("epochs: 3")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UsageError, match="YAML files need PyYAML, which is not installed"):
        parse_arguments(["finetune", "--config", "a.yaml"])
