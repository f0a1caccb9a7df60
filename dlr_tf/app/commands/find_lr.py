"""The command `find-lr`: a learning-rate range test, its plot and its suggestions."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dlr_tf import find_learning_rate, freeze_batch_norm
from dlr_tf._names import AUTO
from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.results.files import check_new_file
from dlr_tf.app.run.tasks import OPTIMIZERS, load_task, parse_rates
from dlr_tf.app.terminal.closing_lines import command_with, model_on_data, next_line, written_line
from dlr_tf.app.terminal.messages import messages_to_stderr, mistakes, one_line, print_result, say
from dlr_tf.app.terminal.progress import on_terminal
from dlr_tf.training import fine_tuning, plotting
from dlr_tf.training.lr_finder import SUGGESTIONS
from dlr_tf.training.lr_suggestions import LABELS, MEANINGS
from dlr_tf.training.rate_choice import RATIO

STOP_FACTOR = 4.0
# The first of these that a curve gives is the one to use.
PREFERRED = ("valley", "steep", "minimum", "slide")


def run(args: argparse.Namespace) -> int:
    """Sweep the rate of the head, print the suggestions, and write the plot.

    Args:
        args: What `parse_arguments` returns for `find-lr`.

    Returns:
        The exit code: 0, or 1 if no method suggests a rate.

    Raises:
        MistakeError: If something is wrong with the arguments, before anything is written.
    """
    with messages_to_stderr(), mistakes():
        output = Path(args.output)
        check_new_file(output)
        plotting.require_matplotlib()
        # Before `load_task`, which completes the arguments.
        defaults = vars(parse_arguments(["finetune"] if args.data is None else ["finetune", "x"]))
        given = argparse.Namespace(**vars(args))
        task = load_task(args)
        if not task.rates[-1] > 0:
            raise ValueError(
                "--learning-rate should be above 0 for the head: the other groups keep their ratio "
                f"to it. Received: --learning-rate {args.learning_rate}"
            )
        fine_tuning.compile_groups(
            task.model,
            task.groups,
            task.rates,
            task.data.train,
            optimizer=OPTIMIZERS[args.optimizer],
        )
    with messages_to_stderr():
        if args.batch_norm == "frozen":
            freeze_batch_norm(task.model)
        sweep = find_learning_rate(
            task.model,
            task.data.train_from(0),
            start=args.start,
            end=args.end,
            steps=args.steps,
            class_weight=task.data.class_weights(args.class_weights),
            stop_factor=STOP_FACTOR,
            verbose=1 if on_terminal() else 0,
        )
        title = f"{model_on_data(args, task.data.name)}: learning-rate range test"
        sweep.plot(output, title=title)
    if len(sweep.losses) < args.steps:
        say(why_it_stopped(sweep.learning_rates, sweep.losses, args.steps))
    suggestions: dict[str, float] = {}
    for method in SUGGESTIONS:
        try:
            suggestions[method] = sweep.suggest(method)
        except ValueError as error:
            say(f"{method}: {one_line(error)}")
    for line in table(suggestions):
        print_result(line)
    print_result(written_line(output))
    if not suggestions:
        return 1
    rate = suggestions[preferred(suggestions)]
    changes = {"learning_rate": rates_with_head(args.learning_rate, rate)}
    print_result(next_line(command_with("finetune", given, defaults, changes)))
    return 0


def preferred(suggestions: Mapping[str, float]) -> str:
    """Return the method whose suggestion to use.

    >>> preferred({"minimum": 1e-2, "slide": 1e-1})
    'minimum'
    """
    return next(method for method in PREFERRED if method in suggestions)


def table(suggestions: Mapping[str, float]) -> list[str]:
    """Return one line per suggestion: name, rate, meaning, and which one to use.

    >>> print(*table({"valley": 0.002, "minimum": 0.01}), sep="\\n")
    valley      2.00e-03  the middle of the longest fall of the loss; use this one
    minimum/10  1.00e-02  a tenth of the rate with the lowest loss
    """
    return [
        f"{LABELS.get(method, method):10s}  {rate:.2e}  {MEANINGS[method]}"
        + ("; use this one" if method == preferred(suggestions) else "")
        for method, rate in suggestions.items()
    ]


def why_it_stopped(learning_rates: np.ndarray, losses: np.ndarray, steps: int) -> str:
    """Return a sentence about a sweep that ended before its last step.

    Args:
        learning_rates: The rates of the steps that were made.
        losses: The smoothed losses.
        steps: Number of steps that were asked for.

    >>> why_it_stopped(np.array([0.1, 1.0]), np.array([2.0, 9.0]), 100)
    'stopped after 2 of 100 steps, at the rate 1.00e+00: the loss is more than 4 times its lowest'
    """
    reason = (
        f"the loss is more than {STOP_FACTOR:g} times its lowest"
        if np.isfinite(losses[-1])
        else "the loss is not finite"
    )
    return (
        f"stopped after {len(losses)} of {steps} steps, at the rate {learning_rates[-1]:.2e}: "
        f"{reason}"
    )


def rates_with_head(text: str, head: float) -> str:
    """Return a value of --learning-rate with another rate of the head, and the same ratios to it.

    Args:
        text: A value of --learning-rate. The rate of its head is above 0.
        head: The new rate of the head.

    >>> [rates_with_head(text, 0.02) for text in ("1e-5:1e-3", ":1e-3", "1e-4,1e-3", "auto")]
    ['2.0e-04:2.0e-02', ':2.0e-02', '2.0e-03,2.0e-02', '2.0e-03:2.0e-02']
    """
    rates = parse_rates(text)
    if rates == AUTO:
        rates = slice(1.0 / RATIO, 1.0)
    if isinstance(rates, slice):
        low = "" if rates.start is None else f"{rates.start * head / rates.stop:.1e}"
        return f"{low}:{head:.1e}"
    every = rates if isinstance(rates, list) else [rates]
    return ",".join(f"{rate * head / every[-1]:.1e}" for rate in every)
