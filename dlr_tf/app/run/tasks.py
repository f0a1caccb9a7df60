"""The task that two commands share: images, model, groups and rates."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

import keras

from dlr_tf._names import AUTO, some_of
from dlr_tf.app import data as image_data
from dlr_tf.app import models
from dlr_tf.app.arguments import parse_augmentations
from dlr_tf.app.terminal import print_stderr
from dlr_tf.app.terminal.progress import Progress
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers
from dlr_tf.core.learning_rates import resolve_learning_rates
from dlr_tf.training.rate_choice import relative_rates

# The argument `optimizer` of `MultiGroupOptimizer`, by the name in the command.
OPTIMIZERS: dict[str, Any] = {
    **{name: name for name in ("adamw", "lion", "muon", "nadam", "rmsprop")},
    "adam": "fusedadam",
    "sgd": {"class_name": "SGD", "config": {"momentum": 0.9}},
}


@dataclasses.dataclass(frozen=True)
class Task:
    """The data, the model, its groups and their rates.

    Args:
        data: The images.
        model: The classifier, not compiled.
        groups: Its groups. The last one is the head, alone.
        rates: The peak rate of each group; with `auto`, its ratio to that of the head.
        auto: Whether a range test chooses the rates. Defaults to `False`.
        pretraining_accuracy: The accuracy of the embedded network's pretraining. `None` for a model
            of `keras.applications`.
    """

    data: image_data.ImageData
    model: keras.Model
    groups: Sequence[LayerGroup]
    rates: list[Any]
    auto: bool = False
    pretraining_accuracy: float | None = None


def load_task(args: argparse.Namespace) -> Task:
    """Read the images, build the model, and split it into groups with their rates.

    Args:
        args: The arguments that `finetune` and `find-lr` share.

    Raises:
        ValueError: If the images, the model, the groups or the rates are not usable.
        ImportError: If the source of the images needs a package that is not installed.
    """
    keras.utils.set_random_seed(args.seed)
    boundaries = args.boundaries.split(",") if args.boundaries else None
    rates = parse_rates(args.learning_rate)
    if args.data is None:
        return _digits_task(args, boundaries, rates)
    return _image_task(args, boundaries, rates)


def _digits_task(args: argparse.Namespace, boundaries: list[str] | None, rates: Any) -> Task:
    pretraining, data = image_data.load_digits(
        batch_size=args.batch_size,
        seed=args.seed,
        validation_fraction=args.validation_fraction,
    )
    print_stderr(f"pretraining on {pretraining.name}")
    with Progress() as progress:
        backbone, accuracy = models.pretrain_on_digits(
            pretraining, callbacks=[progress] if args.verbose else [], verbose=0
        )
    print_stderr(f"test accuracy {accuracy:.4f} on {pretraining.name}")
    model = models.classifier(backbone, len(data.class_names))
    groups = split_task(model, args.groups, boundaries, shown_by="dlr-tf layers")
    _say_what_was_found(data)
    return Task(data, model, groups, rates_of_groups(rates, groups), rates == AUTO, accuracy)


def _image_task(args: argparse.Namespace, boundaries: list[str] | None, rates: Any) -> Task:
    source = models.open_source(
        args.model,
        weights=args.weights,
        image_size=args.image_size,
        keep_head=args.keep_head,
    )
    # Stored, so that the report names them.
    args.model, args.weights, args.image_size = source.name, source.weights, source.image_size
    # Model, groups and rates come before the images, which can take minutes to read.
    found = image_data.find(args.data, skip_broken=args.skip_broken)
    model = source.build(found.class_names)
    if source.note:
        print_stderr(source.note)
    groups = split_task(model, args.groups, boundaries, shown_by=layers_command(args))
    group_rates = rates_of_groups(rates, groups)
    data = image_data.load(
        found,
        image_size=args.image_size,
        batch_size=args.batch_size,
        seed=args.seed,
        validation_fraction=args.validation_fraction,
        augmentations=parse_augmentations(args.augment),
    )
    _say_what_was_found(data)
    return Task(data, model, groups, group_rates, rates == AUTO)


def _say_what_was_found(data: image_data.ImageData) -> None:
    validation = sum(data.class_counts.get("validation", ()))
    parts = {"training": data.train_images, "validation": validation, "test": data.test_images}
    images = ", ".join(f"{count} {part} images" for part, count in parts.items() if count)
    print_stderr(f"{data.name}: {images}, {len(data.class_names)} classes")
    for line in image_data.class_table(data.class_names, data.class_counts):
        print_stderr(line)


def layers_command(args: argparse.Namespace) -> str:
    """Return the command that lists the layers of the model of a task.

    >>> layers_command(argparse.Namespace(model="VGG16", image_size=64, keep_head=False))
    'dlr-tf layers VGG16 --image-size 64'
    """
    keep_head = ["--keep-head"] if args.keep_head else []
    size = ["--image-size", str(args.image_size)] if args.image_size else []
    return shlex.join(["dlr-tf", "layers", args.model, *size, *keep_head])


def split_task(
    model: keras.Model,
    n_groups: int | None,
    boundaries: Sequence[str] | None = None,
    *,
    shown_by: str = "",
) -> Sequence[LayerGroup]:
    """Split a classifier into groups, with the head in a group of its own.

    Args:
        model: A classifier with one output.
        n_groups: Number of groups of about equal size, if there are no boundaries. `None` for
            three, or as many as there can be.
        boundaries: Names or paths of the first layers of the groups. Defaults to `None`.
        shown_by: The command that lists the layers, to be named in an error. Defaults to none.

    Returns:
        The groups, one more than asked for where the last one held more than the head. A line on
        stderr says so.

    Raises:
        ValueError: If the model cannot be split like this.
    """
    try:
        if boundaries is not None:
            groups = split_layers(model, boundaries)
        elif n_groups is not None:
            groups = split_evenly(model, n_groups)
        else:
            groups = _default_split(model)
    except ValueError as error:
        # The option has another name than the argument.
        reason = str(error).replace("n_groups=", "--groups ")
        hint = f" See the layers with: {shown_by}" if shown_by else ""
        raise ValueError(f"{reason}{hint}") from error
    (head,) = models.head_paths(model)
    # Layers without weights may stand before the head: they have nothing to train.
    last = len(groups) - 1
    trained = {v.path for v in assign_variables(model, groups) if v.group == last}
    if all(path.startswith(f"{head}/") for path in trained):
        return groups
    groups = split_layers(model, [*(boundaries or ()), head])
    names = some_of([group.name for group in groups])
    print_stderr(
        f"the head, layer {head!r}, becomes a group of its own, which makes "
        f"{len(groups)} groups: {names}"
    )
    return groups


def _default_split(model: keras.Model) -> tuple[LayerGroup, ...]:
    """Return three groups, or as many as there can be."""
    for n_groups in (3, 2):
        with contextlib.suppress(ValueError):
            return split_evenly(model, n_groups)
    return split_evenly(model, 1)


def parse_rates(text: str) -> Any:
    """Return the argument `learning_rate` that a text means.

    Args:
        text: `auto`, `LO:HI`, `:HI`, one number, or one number per group separated by commas.

    Raises:
        ValueError: If it is none of these, or a rate is negative or not finite.

    >>> parse_rates("1e-5:1e-3"), parse_rates("0.1,0.2"), parse_rates("auto")
    (slice(1e-05, 0.001, None), [0.1, 0.2], 'auto')
    """

    if text == AUTO:
        return AUTO

    def number(part: str) -> float:
        try:
            return float(part)
        except ValueError:
            raise ValueError(
                "--learning-rate should be auto, LO:HI, :HI, one number, or one number per group "
                f"separated by commas. Received: --learning-rate {text}"
            ) from None

    rates: Any
    if ":" in text:
        low, _, high = text.partition(":")
        rates = slice(number(low) if low else None, number(high))
    elif "," in text:
        rates = [number(part) for part in text.split(",")]
    else:
        rates = number(text)
    # Refuses a wrong rate now. The number of groups is known only after the model is built.
    resolve_learning_rates(rates, len(rates) if isinstance(rates, list) else 2)
    return rates


def rates_of_groups(rates: Any, groups: Sequence[LayerGroup]) -> list[Any]:
    """Return the peak rate of each group, or for `"auto"` its ratio to that of the head.

    Args:
        rates: What `parse_rates` returns.
        groups: The groups.

    Raises:
        ValueError: If a list has not one rate per group.
    """
    if rates == AUTO:
        return list(relative_rates(len(groups)))
    if isinstance(rates, list) and len(rates) != len(groups):
        raise ValueError(
            f"--learning-rate should hold one rate per group. There are {len(groups)} groups: "
            f"{some_of([group.name for group in groups])}. "
            f"Received: {len(rates)} rates, {some_of(rates)}"
        )
    return resolve_learning_rates(rates, len(groups))
