"""The command `find-lr`: a learning-rate range test, its plot and its suggestions."""

from __future__ import annotations

import argparse
from pathlib import Path

from dlr_tf import find_learning_rate, freeze_batch_norm
from dlr_tf.app.messages import messages_to_stderr, mistakes, one_line, progress_bar, say
from dlr_tf.app.output import check_new_file
from dlr_tf.app.tasks import OPTIMIZERS, load_task
from dlr_tf.training import fine_tuning, plotting
from dlr_tf.training.lr_finder import SUGGESTIONS


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
            task.data.train,
            start=args.start,
            end=args.end,
            steps=args.steps,
            class_weight=task.data.class_weights(args.class_weights),
            verbose=progress_bar(),
        )
        sweep.plot(output)
    found = False
    for method in SUGGESTIONS:
        try:
            print(f"{method:8s} {sweep.suggest(method):.2e}")
            found = True
        except ValueError as error:
            say(f"{method}: {one_line(error)}")
    print(f"written to {output}")
    return 0 if found else 1
