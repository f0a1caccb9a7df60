"""What is printed while a command runs, and how: messages, names, tables, the closing lines.

May import `training` and `core`. Other rooms use the names below, and `Progress` from `progress`,
which loads Keras.
"""

from dlr_tf.app.terminal.closing_lines import (
    model_on_data,
    next_line,
    written_line,
)
from dlr_tf.app.terminal.messages import (
    CommandError,
    UsageError,
    messages_to_stderr,
    one_line,
    print_result,
    print_stderr,
    silence_stdout,
    usage_errors,
    warnings_in_one_line,
)
from dlr_tf.app.terminal.names import printable_name
from dlr_tf.app.terminal.tables import table

__all__ = [
    "CommandError",
    "UsageError",
    "messages_to_stderr",
    "model_on_data",
    "next_line",
    "one_line",
    "print_result",
    "print_stderr",
    "printable_name",
    "silence_stdout",
    "table",
    "usage_errors",
    "warnings_in_one_line",
    "written_line",
]
