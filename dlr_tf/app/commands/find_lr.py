"""The command `find-lr`: a learning-rate range test, its plot and its suggestions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dlr_tf._names import AUTO
from dlr_tf.app.config import FindLrConfig, TaskConfig
from dlr_tf.app.results import check_new_file
from dlr_tf.app.run import load_task, optimizer_argument, parse_rates, range_test, suited
from dlr_tf.app.terminal import (
    messages_to_stderr,
    model_on_data,
    next_line,
    one_line,
    print_note,
    print_result,
    print_stderr,
    table,
    usage_errors,
    written_line,
)
from dlr_tf.training import plotting
from dlr_tf.training.auto_rates import SWEEP, SweepSettings
from dlr_tf.training.compiling import make_optimizer
from dlr_tf.training.lr_finder import SUGGESTIONS
from dlr_tf.training.lr_suggestions import MEANINGS
from dlr_tf.training.rate_choice import MAX_FACTOR, RATIO, rates_from_sweep

RECOMMENDED = "recommended"


def run(config: FindLrConfig) -> int:
    """Sweep the rate of the head, print the rate that `finetune` takes, and write the plot.

    Returns:
        The exit code: 0, or 1 if no rate can be recommended.

    Raises:
        UsageError: If something is wrong with the arguments, before anything is written.
    """
    with messages_to_stderr(), usage_errors():
        output = Path(config.output)
        check_new_file(output)
        plotting.require_matplotlib()
        task = load_task(suited(config))
        rates = task.rates or task.ratios
        if not rates[-1] > 0:
            raise ValueError(
                "--learning-rate should be above 0 for the head: the other groups keep their ratio "
                f"to it. Received: --learning-rate {config.learning_rate}"
            )
        # Refuses an optimizer that does not fit the groups.
        make_optimizer(task.model, task.groups, rates, optimizer_argument(config))
    with messages_to_stderr():
        ratios = [rate / rates[-1] for rate in rates]
        settings = SweepSettings(steps=config.steps, start=config.start, end=config.end)
        sweep = range_test(task, config, ratios, settings=settings)
    if len(sweep.losses) < config.steps:
        print_stderr(why_it_stopped(sweep.learning_rates, sweep.losses, config.steps))
    suggestions: dict[str, float] = {}
    try:
        choice = rates_from_sweep(sweep, ratios, task.typical_rate)
        suggestions[RECOMMENDED] = choice.rates[-1]
        if choice.suggestion is None:
            print_note(choice.line())
    except ValueError as error:
        print_stderr(f"no rate can be recommended. {one_line(error.__cause__ or error)}")
    for method in SUGGESTIONS:
        with contextlib.suppress(ValueError):
            suggestions[method] = sweep.suggest(method)
    names = model_on_data(task.source.get("model"), task.data.name)
    with messages_to_stderr():
        plotting.plot_sweep(
            sweep.learning_rates,
            sweep.losses,
            suggestions,
            output,
            title=f"{names}: learning-rate range test",
        )
    if suggestions:
        print_result(rate_table(suggestions))
    print_result(written_line(output))
    if RECOMMENDED not in suggestions:
        return 1
    learning_rate = rates_with_head(config.learning_rate, suggestions[RECOMMENDED], ratios[0])
    task_config = TaskConfig.of({**config.as_dict(), "learning_rate": learning_rate})
    print_result(next_line(["finetune", *task_config.as_typed()]))
    return 0


def rate_table(suggestions: Mapping[str, float]) -> str:
    """Return one line per suggestion: name, rate and meaning.

    >>> print(rate_table({"recommended": 0.001, "minimum": 0.01}))
    recommended  1.00e-03  taken without a head start: at most 3 times from minimum
    minimum      1.00e-02  a tenth of the rate with the lowest loss
    """
    source = f"at most {MAX_FACTOR:g} times from minimum"
    if "minimum" not in suggestions:
        source = "usual for Adam"
    meanings = {RECOMMENDED: f"taken without a head start: {source}", **MEANINGS}
    rows = [(name, f"{rate:.2e}", meanings[name]) for name, rate in suggestions.items()]
    return table(("", "", ""), rows)


def why_it_stopped(learning_rates: np.ndarray, losses: np.ndarray, steps: int) -> str:
    """Return a sentence about a sweep of smoothed losses that ended before its last step.

    >>> why_it_stopped(np.array([0.1, 1.0]), np.array([2.0, 9.0]), 100)
    'stopped after 2 of 100 steps, at the rate 1.00e+00: the loss is more than 4 times its lowest'
    """
    reason = (
        f"the loss is more than {SWEEP.stop_factor:g} times its lowest"
        if np.isfinite(losses[-1])
        else "the loss is not finite"
    )
    return (
        f"stopped after {len(losses)} of {steps} steps, at the rate {learning_rates[-1]:.2e}: "
        f"{reason}"
    )


def rates_with_head(text: str, head: float, first: float = 1.0 / RATIO) -> str:
    """Return a value of --learning-rate with another rate of the head, and the same ratios to it.

    The rate of the head in `text` is above 0. For auto, `first` is the ratio of the first group.

    >>> [rates_with_head(text, 0.02) for text in ("1e-5:1e-3", ":1e-3", "1e-4,1e-3", "auto")]
    ['2.0e-04:2.0e-02', ':2.0e-02', '2.0e-03,2.0e-02', '2.0e-03:2.0e-02']
    """
    rates = parse_rates(text)
    if rates == AUTO:
        rates = slice(first, 1.0)
    if isinstance(rates, slice):
        low = "" if rates.start is None else f"{rates.start * head / rates.stop:.1e}"
        return f"{low}:{head:.1e}"
    every = rates if isinstance(rates, list) else [rates]
    return ",".join(f"{rate * head / every[-1]:.1e}" for rate in every)
