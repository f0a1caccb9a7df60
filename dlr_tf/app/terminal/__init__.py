"""What is printed while a command runs, and how: messages, names, tables, the closing lines.

May import `training` and `core`. Other rooms import what is below, and `progress`, which
loads Keras.
"""

from dlr_tf.app.terminal.closing_lines import model_on_data, next_line, written_line
from dlr_tf.app.terminal.messages import (
    MISTAKES,
    CommandError,
    UsageError,
    messages_to_stderr,
    notes,
    one_line,
    print_note,
    print_result,
    print_stderr,
    silence_stdout,
    usage_errors,
    warnings_in_one_line,
)
from dlr_tf.app.terminal.names import printable_name
from dlr_tf.app.terminal.tables import table
