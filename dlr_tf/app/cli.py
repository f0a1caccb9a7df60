"""The command `dlr-tf`: fine-tune a model, find a learning rate, draw a schedule.

Results go to stdout, everything else to stderr. A user's mistake ends with exit code 2 and one line
that says what to do, before anything is written.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import tensorflow as tf

from dlr_tf.app import find_lr, finetune, schedule
from dlr_tf.app.arguments import make_parser
from dlr_tf.app.messages import MistakeError

COMMANDS = {"finetune": finetune.run, "find-lr": find_lr.run, "schedule": schedule.run}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments after the command's name. Defaults to those of the process.

    Returns:
        The exit code: 0, 1 where a sweep has no suggestion or another worker died, 2 for a user's
        mistake, 130 for Ctrl-C.
    """
    verbose = False
    try:
        args = make_parser().parse_args(argv)
        verbose = getattr(args, "verbose", False)
        code: int = COMMANDS[args.command](args)
        return code
    except SystemExit as error:  # `--help` and `--version`
        return int(error.code or 0)
    except MistakeError as error:
        if verbose:
            traceback.print_exc()
        print(f"dlr-tf: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dlr-tf: stopped", file=sys.stderr)
        return 130
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if verbose:
            traceback.print_exc()
        reason = str(error.message).splitlines()[0]
        print(
            f"dlr-tf: error: another worker cannot be reached any more. Start all of them again. "
            f"Received: {reason}",
            file=sys.stderr,
        )
        return 1
