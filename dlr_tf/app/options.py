"""A dataclass becomes the options of a command: its types, defaults and docstring say how.

A field that the docstring describes can be typed. `name (N): text.` gives the name of its value and
the help, to which the default is added if the text does not tell it.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import math
import re
import sys
import typing
from collections.abc import Callable
from typing import Annotated, Any

from dlr_tf._names import did_you_mean
from dlr_tf.app.terminal import UsageError

MAX_SEED = 2**32 - 1  # of NumPy


class Typed:
    """How a value is typed, in an `Annotated` type: more arguments for `add_argument`."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `UsageError`, and takes negative numbers as values.

    Options cannot be shortened. What is not given is not in the result.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        # By default, argparse takes -1e-3 and -,1e-3 for options, and its message does not name
        # the rate.
        self._negative_number_matcher = re.compile(r"^-(\.?\d|,)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Read the arguments. An unknown option is an error of the command that it was given to."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = re.findall(r"--[a-z-]+", self.format_help())
            hint = did_you_mean(unknown[0], known) if unknown[0].startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
        return found, unknown

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Add the options that are described by a dataclass.

    Its class attribute `positional` names the fields that are typed without their name, and
    `exclusive` those of which only one can be given.
    """
    hints = typing.get_type_hints(config, include_extras=True)
    texts = described(config)
    alone = getattr(config, "exclusive", ())
    exclusive = parser.add_mutually_exclusive_group() if alone else parser
    for field in dataclasses.fields(config):
        if field.name not in texts:
            continue
        metavar, text = texts[field.name]
        arguments = _arguments(hints[field.name])
        if "action" not in arguments and "choices" not in arguments:
            arguments["metavar"] = metavar
        name = option_name(field.name)
        if field.name in getattr(config, "positional", ()):
            name = field.name
            arguments = {"nargs": "?", **arguments} if _has_default(field) else arguments
        if _has_default(field) and "(default: " not in text:
            text = f"{text} (default: {in_words(field.default)})"
        target = exclusive if field.name in alone else parser
        # Some versions of argparse add a default of their own to a help that they are given.
        target.add_argument(name, **arguments).help = text


def option_name(name: str) -> str:
    """Return the option of a field."""
    return f"--{name.replace('_', '-')}"


def summary(config: type) -> str:
    """Return what the docstring of a dataclass says before its fields."""
    return _docstring(config).partition("\n\nArgs:")[0]


def _docstring(described: type) -> str:
    """Return the docstring of a class. `python -OO` drops it, so there the source is read."""
    if sys.flags.optimize < 2 or described is object:
        return inspect.getdoc(described) or ""
    source = inspect.getsource(sys.modules[described.__module__])
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    named = {node.name: ast.get_docstring(node) for node in classes}
    return named.get(described.__name__) or ""


def described(config: type) -> dict[str, tuple[str | None, str]]:
    """Return the fields that the docstrings of a dataclass and of its bases describe.

    Returns:
        For each field the name of its value, and what it means.

    >>> class Some:
    ...     '''Do something.
    ...
    ...     Args:
    ...         top (N): Number of
    ...             classes.
    ...     '''
    >>> described(Some)
    {'top': ('N', 'number of classes')}
    """
    found = {}
    for base in reversed(config.__mro__):
        _, _, text = _docstring(base).partition("Args:\n")
        for name, metavar, words in re.findall(
            r"^    (\w+)(?: \(([^)]+)\))?: (.+(?:\n {6,}.+)*)", text, re.MULTILINE
        ):
            words = " ".join(words.split()).removesuffix(".")
            found[name] = metavar or None, words[0].lower() + words[1:]
    return found


def _arguments(hint: Any) -> dict[str, Any]:
    """Return the arguments of `add_argument` for a value of this type."""
    if type(None) in typing.get_args(hint):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is Annotated:
        return dict(hint.__metadata__[0].arguments)
    return {"action": "store_true"} if hint is bool else {"type": hint}


def _has_default(field: Any) -> bool:
    return field.default is not dataclasses.MISSING


def in_words(value: Any) -> str:
    """Return the value of an option for a message.

    >>> in_words(True), in_words(None), in_words(1e-5)
    ('on', 'none', '1e-05')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _number(
    kind: Callable[[str], Any], expected: str, is_right: Callable[[Any], bool]
) -> Callable[[str], Any]:
    """Return a function that reads a number of a kind."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not is_right(value):  # as no comparison with NaN is
            raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
        return value

    return parse


def _at_least(minimum: int) -> Typed:
    return Typed(type=_number(int, f"an integer of at least {minimum}", lambda x: x >= minimum))


def _int_or_float(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)


Count = Annotated[int, _at_least(1)]
FromZero = Annotated[int, _at_least(0)]
Seed = Annotated[
    int,
    Typed(type=_number(int, f"an integer from 0 to {MAX_SEED}", lambda x: 0 <= x <= MAX_SEED)),
]
Positive = Annotated[
    float, Typed(type=_number(float, "a number above 0", lambda x: 0 < x < math.inf))
]
NotNegative = Annotated[
    float, Typed(type=_number(float, "a number, 0 or more", lambda x: 0 <= x < math.inf))
]
Share = Annotated[
    float,
    Typed(type=_number(float, "a number from 0 to below 1", lambda x: 0 <= x < 1)),
]
_STEPS_OR_SHARE = "a number of steps, or a share of all steps below 1"
StepsOrShare = Annotated[
    float,
    Typed(type=_number(_int_or_float, _STEPS_OR_SHARE, lambda x: isinstance(x, int) or 0 < x < 1)),
]


def some_names(known: tuple[str, ...], usual: str) -> Typed:
    """Names of these, separated by commas, or `none`. The option alone means the usual ones."""

    def parse(text: str) -> str:
        names = [name.strip().lower() for name in text.split(",")]
        if names != ["none"] and not set(names) <= set(known):
            raise argparse.ArgumentTypeError(
                f"expected names of {', '.join(known)}, separated by commas, received {text!r}"
            )
        return ",".join(name for name in known if name in names) or "none"

    return Typed(type=parse, nargs="?", const=usual)
