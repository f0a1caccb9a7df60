"""The command `dlr-tf`: fine-tune a model, find a learning rate, use the result, and more.

Results go to stdout, everything else to stderr. A mistake of the user ends with exit code 2 and one
line that says what to do, before anything is written.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import tensorflow as tf

from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.commands import evaluate, export, find_lr, finetune, layers, predict, schedule
from dlr_tf.app.data.images import failed_image
from dlr_tf.app.results.files import WriteError
from dlr_tf.app.terminal.messages import (
    MistakeError,
    one_line,
    say,
    silence_stdout,
    warnings_in_one_line,
)

COMMANDS = {
    "finetune": finetune.run,
    "find-lr": find_lr.run,
    "layers": layers.run,
    "predict": predict.run,
    "evaluate": evaluate.run,
    "export": export.run,
    "schedule": schedule.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments after the name of the command. Defaults to those of the process.

    Returns:
        The exit code: 0; 1 if a range test has no suggestion, an image cannot be read, a file
        cannot be written, an exported model is not the same, or another worker stopped; 2 for a
        mistake of the user; 130 for Ctrl-C; 143 for SIGTERM.
    """
    verbose = False
    try:
        args = parse_arguments(argv)
        verbose = getattr(args, "verbose", False)
        with warnings_in_one_line():
            return COMMANDS[args.command](args)
    except SystemExit as error:  # `--help` and `--version`
        return int(error.code or 0)
    except MistakeError as error:
        if verbose:
            traceback.print_exc()
        say(f"dlr-tf: error: {one_line(error)}")
        return 2
    except BrokenPipeError:  # the reader of the results, such as `head`, has enough
        silence_stdout()
        return 0
    except WriteError as error:
        if verbose:
            traceback.print_exc()
        say(f"dlr-tf: error: {one_line(error)}")
        return 1
    except KeyboardInterrupt:
        say("dlr-tf: stopped")
        return 130
    except tf.errors.InvalidArgumentError as error:
        message = failed_image(error)
        if message is None:
            raise
        if verbose:
            traceback.print_exc()
        say(f"dlr-tf: error: {message}")
        return 1
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if verbose:
            traceback.print_exc()
        reason = str(error.message).splitlines()[0]
        say(
            "dlr-tf: error: another worker cannot be reached any more. Start all of them again. "
            f"Received: {reason}"
        )
        return 1
