"""Values that are typed as text, and sentences about a wrong one.

This module imports no TensorFlow, so that the help of the command can be printed at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Of `fine_tune` and of the command.
AUTO = "auto"  # learning rates that are chosen
BATCH_NORM = ("frozen", "train")
SCHEDULES = ("sgdr", "onecycle", "linear", "cosine", "constant")
# Of `make_strategy`.
STRATEGIES = ("mirrored", "multi-worker")
WAIT = 300.0  # seconds that workers wait for each other

MAX_NAMES = 10


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known name, or an empty string.

    A name whose words begin with the letters that were given is near too.

    The sentence begins with a space, so that it can follow another one.

    >>> did_you_mean("blok_6", ["block_6", "head"])
    " Did you mean 'block_6'?"
    >>> did_you_mean("--lr", ["--limit", "--learning-rate"])
    " Did you mean '--learning-rate'?"
    """
    known = list(known)
    letters = name.lower().strip("-")
    for text in known:
        if len(letters) > 1 and letters == "".join(word[0] for word in re.findall("[a-z]+", text)):
            return f" Did you mean {text!r}?"
    lowered = {text.lower(): text for text in reversed(known)}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return f" Did you mean {lowered[near[0]]!r}?" if near else ""


def some_of(names: Sequence[Any], limit: int = MAX_NAMES) -> str:
    """Return the first names of a list, for a message, and how many more there are.

    >>> some_of(["a", "b", "c"], limit=2)
    "['a', 'b', and 1 more]"
    """
    shown = ", ".join(map(repr, names[:limit]))
    return f"[{shown}{f', and {len(names) - limit} more' if len(names) > limit else ''}]"
