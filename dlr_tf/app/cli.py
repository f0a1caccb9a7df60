"""The command `dlr-tf`: fine-tune a model, find a learning rate, use the result, and more.

Results go to stdout, everything else to stderr. A mistake of the user ends with exit code 2 and one
line that says what to do, before anything is written. Help and many mistakes are answered without
TensorFlow, which takes seconds to load.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from dlr_tf.app.arguments import make_parser, parse_arguments
from dlr_tf.app.meeting import told_to_workers
from dlr_tf.app.paths import check_paths
from dlr_tf.app.startup import load_tensorflow, stop_at_once
from dlr_tf.app.terminal import (
    CommandError,
    notes,
    one_line,
    print_stderr,
    silence_stdout,
    usage_errors,
    warnings_in_one_line,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments after the name of the command. Defaults to those of the process.

    Returns:
        The exit code: 0; 1 if a range test has no suggestion, an image cannot be read, a file
        cannot be written, or an exported model is not the same; 2 for a mistake of the user; 75 if
        another worker has ended, and the same command can be tried again; 130 for Ctrl-C; 143 for
        SIGTERM.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what can be typed next
        importlib.import_module("argcomplete").autocomplete(make_parser())
    typed = sys.argv if argv is None else argv
    verbose = "--verbose" in typed
    try:
        with stop_at_once():
            with told_to_workers("multi-worker" in typed or "--resume" in typed):
                config = parse_arguments(argv)
                with usage_errors():
                    check_paths(config)
            load_tensorflow(verbose=verbose)
            command = importlib.import_module(
                f"dlr_tf.app.commands.{config.command.replace('-', '_')}"
            )
        with warnings_in_one_line(), notes(shown="--quiet" not in typed):
            return int(command.run(config))
    except SystemExit as error:  # `--help` and `--version`
        return int(error.code or 0)
    except BrokenPipeError:  # the reader of the results, such as `head`, has enough
        silence_stdout()
        return 0
    except KeyboardInterrupt:
        print_stderr("dlr-tf: stopped")
        return 130
    except Exception as error:
        reason, exit_code = _reason(error), getattr(error, "exit_code", 1)
        if reason is None:
            raise
        if verbose:
            traceback.print_exc()
        print_stderr(f"dlr-tf: error: {one_line(reason)}")
        return exit_code


def _reason(error: Exception) -> str | None:
    """Return why the command ends early, `None` for a defect of the command."""
    if isinstance(error, CommandError):
        return str(error)
    if "tensorflow" not in sys.modules:
        return None
    import tensorflow as tf

    from dlr_tf.app.data import failed_image

    if isinstance(error, tf.errors.InvalidArgumentError):
        return failed_image(error)
    return None
