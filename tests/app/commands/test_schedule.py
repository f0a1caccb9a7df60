"""The command `schedule`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dlr_tf import SGDR, OneCycle
from dlr_tf.app import cli
from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.commands.schedule import named_schedule, schedule_rates

KINDS = ["sgdr", "onecycle", "triangular"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main(["schedule", kind]) == 0
    assert capsys.readouterr() == (f"written to {kind}.png\n", "")
    assert Path(f"{kind}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "steps", "restarts"),
    [
        (["sgdr", "--warmup-steps", "5", "--first-decay-steps", "10"], 75, [5, 15, 35]),
        (["sgdr", "--steps", "12", "--first-decay-steps", "10"], 12, [0, 10]),
        (["onecycle", "--steps", "30"], 30, []),
        (["triangular", "--step-size", "7"], 42, []),
        (["triangular", "--steps", "9", "--mode", "exp_range"], 9, []),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_number_of_steps(argv: list[str], steps: int, restarts: list[int]) -> None:
    _, *found = named_schedule(parse_arguments(["schedule", *argv]))
    assert found == [steps, restarts]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sgdr", "--t-mul", "0.5"], "`t_mul`"),
        (["sgdr", "--learning-rate=-1"], "`initial_learning_rate`"),
        (["onecycle", "--pct-start", "2"], "`pct_start`"),
        (["onecycle", "--steps", "1"], "`total_steps`"),
        (["sgdr", "--steps", "1000001"], "--steps should be from 1 to 1000000"),
        (["sgdr", "--first-decay-steps", "1000000"], "7000000 steps in three cycles, the default"),
        (["sgdr", "--t-mul", "1e300"], "steps in three cycles, the default"),
        (["sgdr", "--learning-rate", "1e300"], "1e+300"),
        (["onecycle", "--learning-rate", "1e300"], "1e+300"),
        (["triangular", "--learning-rate", "1e300"], "1e+300"),
        (["sgdr", "--m-mul", "1e200"], "above the range of float32 at step 100"),
        (["sgdr", "--learning-rate", "nan"], "`initial_learning_rate`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(
    assert_mistake: Callable[[list[str], str], None], argv: list[str], message: str
) -> None:
    assert_mistake(["schedule", *argv], message)


def test_rates_above_float32() -> None:
    assert schedule_rates(SGDR(1e38, 2), 2).tolist() == pytest.approx([1e38, 5e37])
    message = r"at step 2\. .* Received: SGDR: initial_learning_rate=1, first_decay_steps=2, t_mul"
    with pytest.raises(ValueError, match=message):
        schedule_rates(SGDR(1.0, 2, m_mul=1e39), 4)
    assert schedule_rates(OneCycle(0.0, 10), 3).tolist() == [0.0, 0.0, 0.0]
