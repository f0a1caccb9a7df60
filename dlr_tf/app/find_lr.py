"""The command `find-lr`."""

from __future__ import annotations

import argparse
from pathlib import Path

import dlr_tf
from dlr_tf.app.arguments import DIGIT_DEFAULTS, IMAGE_DEFAULTS
from dlr_tf.app.messages import messages_to_stderr, mistakes, progress_bar, say
from dlr_tf.app.output import check_new_file
from dlr_tf.app.tasks import load_task, rates_of, template_of
from dlr_tf.training import fine_tuning, plotting
from dlr_tf.training.lr_finder import SUGGESTIONS, find_learning_rate


def run(args: argparse.Namespace) -> int:
    defaults = DIGIT_DEFAULTS if args.data is None else IMAGE_DEFAULTS
    for name in ("learning_rate", "batch_size"):
        if getattr(args, name) is None:
            setattr(args, name, defaults[name])
    with messages_to_stderr(), mistakes():
        output = Path(args.output)
        check_new_file(output)
        plotting.require_matplotlib()
        if not 0 < args.start < args.end:
            raise ValueError(
                "--start should be above 0 and below --end. "
                f"Received: --start {args.start:g} --end {args.end:g}"
            )
        data, model, groups, _ = load_task(args)
        rates = rates_of(args.learning_rate, len(groups))
        fine_tuning.compile_groups(model, groups, rates, data.train, optimizer=template_of(args))
    with messages_to_stderr():
        if args.batch_norm == "frozen":
            dlr_tf.freeze_batch_norm(model)
        sweep = find_learning_rate(
            model,
            data.train,
            start=args.start,
            end=args.end,
            steps=args.steps,
            verbose=progress_bar(),
        )
        sweep.plot(output)
    found = False
    for method in SUGGESTIONS:
        try:
            print(f"{method:8s} {sweep.suggestion(method):.2e}")
            found = True
        except ValueError as error:
            say(f"{method}: {' '.join(str(error).split())}")
    print(f"written to {output}")
    return 0 if found else 1
