"""The task that two commands share: images, model, groups and rates."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

from dlr_tf._names import AUTO, some_of
from dlr_tf.app import data as image_data
from dlr_tf.app import models
from dlr_tf.app.config import FOR_TEXTS, USUAL_STEPS, RunConfig, TaskConfig, Usual
from dlr_tf.app.data import Columns, are_texts
from dlr_tf.app.results import Target, target_of
from dlr_tf.app.run.agreement import all_make
from dlr_tf.app.run.pretraining import pretrain_on_digits
from dlr_tf.app.run.worker_data import own_parts
from dlr_tf.app.terminal import print_note
from dlr_tf.app.terminal.progress import on_terminal
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers, split_layerwise
from dlr_tf.core.inner_optimizers import optimizer_from
from dlr_tf.core.learning_rates import layerwise_rates, resolve_learning_rates
from dlr_tf.training.auto_rates import auto_sweep
from dlr_tf.training.lr_finder import LearningRateSweep
from dlr_tf.training.rate_choice import TYPICAL_ADAM_RATE, relative_rates
from dlr_tf.training.workers import Workers

# For texts: docs/choosing-rates.md says why.
TEXT_HEAD_RATE, TEXT_DECAY = 3e-4, 0.8
Config = TypeVar("Config", bound=TaskConfig)

SGD = {"class_name": "SGD", "config": {"momentum": 0.9}}


def optimizer_argument(config: TaskConfig) -> Any:
    """Return the argument `optimizer` of `MultiGroupOptimizer`."""
    optimizer: Any = SGD if config.optimizer == "sgd" else config.optimizer
    if config.weight_decay is None:
        return optimizer
    made = optimizer_from(optimizer)
    made.weight_decay = config.weight_decay
    return keras.optimizers.serialize(made)


@dataclasses.dataclass(frozen=True)
class Task:
    """The data, the model, its groups and their rates.

    Args:
        data: The images.
        target: What the model is trained for.
        model: The model, compiled with the loss and the metrics of the target.
        groups: Its groups. The last one is the head, alone.
        rates: The peak rate of each group. `None`: a range test chooses them.
        source: The options `model`, `weights` and `image_size`, with what they stand for where they
            were not given. Defaults to none.
        pretraining_accuracy: The accuracy of the embedded network's pretraining. `None` for a model
            of `keras.applications`.
        by_block: Whether the groups are the blocks of a network for texts. Defaults to `False`.
    """

    data: image_data.ImageData
    target: Target
    model: keras.Model
    groups: Sequence[LayerGroup]
    rates: list[float] | None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pretraining_accuracy: float | None = None
    by_block: bool = False

    @property
    def ratios(self) -> list[float]:
        """The ratio of the rate of each group to that of the head, if a range test chooses."""
        if self.by_block:
            return layerwise_rates(self.groups, head=1.0, decay=TEXT_DECAY)
        return relative_rates(len(self.groups))

    @property
    def typical_rate(self) -> float:
        """The usual rate of Adam for this task, on average over the groups."""
        if self.data.unit == "image":
            return TYPICAL_ADAM_RATE
        return TEXT_HEAD_RATE * statistics.geometric_mean(self.ratios)


def range_test(
    task: Task, config: TaskConfig, ratios: Sequence[float], **options: Any
) -> LearningRateSweep:
    """Make the range test of `--learning-rate auto`. All workers of a run call it.

    Args:
        task: The data and the model.
        config: How it is trained.
        ratios: The ratio of the rate of each group to that of the head.
        **options: `settings` and `head_only`, as for `sweep_groups`.

    Raises:
        ValueError: As `auto_sweep`.
    """
    keras.utils.set_random_seed(config.seed)
    model, data = task.model, task.data
    weights = data.class_weights(config.class_weights)
    with own_parts(model.distribute_strategy, data, seed=config.seed, class_weight=weights):
        return auto_sweep(
            model,
            task.groups,
            ratios,
            data.train_from(0, config.seed),
            batch_norm=config.batch_norm,
            fit={"class_weight": weights},
            verbose=1 if on_terminal() else 0,
            optimizer=optimizer_argument(config),
            **options,
        )


def suited(config: Config) -> Config:
    """Return the options with the defaults for texts, if the data are texts."""
    if config.data is None or not are_texts(config.data, Columns.of(config.as_dict())):
        return config
    usual = {n: v for n, v in FOR_TEXTS.items() if isinstance(getattr(config, n, None), Usual)}
    return dataclasses.replace(config, **usual)


def with_usual_epochs(config: RunConfig, data: image_data.ImageData) -> RunConfig:
    """Return the options with a default number of epochs that gives enough steps for the data."""
    epochs = int(config.epochs)
    if isinstance(config.epochs, Usual) and config.limit is None:  # with --limit, it is a quick try
        epochs = usual_epochs(epochs, data.steps_per_epoch, USUAL_STEPS[data.unit])
    if epochs > config.epochs:
        steps = config.epochs * data.steps_per_epoch
        print_note(
            f"training for {epochs} epochs: {config.epochs} would be only {steps} steps (--epochs "
            "gives another number)"
        )
    config = dataclasses.replace(config, epochs=epochs)
    config.check_frozen_epochs()
    return config


def usual_epochs(least: int, steps_per_epoch: int, steps: int) -> int:
    """Return a number of epochs from `least` to three times as many that gives so many steps.

    >>> usual_epochs(7, 13, 270), usual_epochs(7, 30, 270), usual_epochs(7, 1000, 270)
    (21, 9, 7)
    """
    return min(3 * least, max(least, math.ceil(steps / steps_per_epoch)))


def load_task(
    config: TaskConfig, workers: Workers | None = None, *, pretrains: bool = True
) -> Task:
    """Read the images, build the model, and split it into groups with their rates.

    Args:
        config: What the task is.
        workers: The processes that train the model together. Defaults to this one alone.
        pretrains: Whether the embedded network is pretrained. It is not where a checkpoint holds
            its weights. Defaults to `True`.

    Raises:
        ValueError: If the images, the model, the groups or the rates are not usable.
        ImportError: If the source of the images needs a package that is not installed.
    """
    keras.utils.set_random_seed(config.seed)
    boundaries = config.boundaries.split(",") if config.boundaries else None
    rates = parse_rates(config.learning_rate)
    with _precision(config.precision):
        if config.data is None:
            task = _digits_task(config, boundaries, rates, pretrains)
        else:
            workers = workers or Workers(tf.distribute.get_strategy())
            task = _image_task(config, config.data, boundaries, rates, workers)
    task.model.compile(loss=task.target.loss, metrics=[*task.target.metrics])
    return task


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Build the layers of this block with a policy of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _digits_task(
    config: TaskConfig, boundaries: list[str] | None, rates: Any, pretrains: bool
) -> Task:
    pretraining, data = image_data.load_digits(
        batch_size=config.batch_size,
        seed=config.seed,
        validation_fraction=config.validation_fraction,
    )

    def split(backbone: keras.Model, **options: Any) -> tuple[keras.Model, Any, Any]:
        model = models.classifier(backbone, len(data.class_names))
        groups = split_task(model, config.groups, boundaries, shown_by="dlr-tf layers", **options)
        return model, groups, rates_of_groups(rates, groups)

    # The groups of a network that is not pretrained yet are the same, and so are the mistakes.
    split(models.digits_backbone(), quiet=True)
    keras.utils.set_random_seed(config.seed)
    if pretrains:
        print_note(f"pretraining on {pretraining.name}")
        backbone, accuracy = pretrain_on_digits(pretraining, verbose=0)
        print_note(f"test accuracy {accuracy:.4f} on {pretraining.name}")
    else:
        backbone, accuracy = models.digits_backbone(), None
    model, groups, group_rates = split(backbone)
    _say_what_was_found(data)
    target = _target(config, data)
    return Task(data, target, model, groups, group_rates, pretraining_accuracy=accuracy)


def _image_task(
    config: TaskConfig, images: str, boundaries: list[str] | None, rates: Any, workers: Workers
) -> Task:
    source = all_make(
        workers,
        "a model",
        lambda: models.open_source(
            str(config.model),
            weights=config.weights,
            image_size=config.image_size,
            keep_head=config.keep_head,
        ),
    )
    if config.precision != "float32" and models.model_file(str(config.model)) is not None:
        raise ValueError(
            f"--precision is for a network that is built here, and the file {source.name!r} has a "
            "precision of its own: leave it out."
        )
    # Model, groups and rates come before the images, which can take minutes to read.
    columns = image_data.Columns.of(config.as_dict())
    found = all_make(
        workers,
        "data",
        lambda: image_data.find(images, skip_broken=config.skip_broken, columns=columns),
        lambda found: {"target": found.kind, "classes": list(found.class_names)},
    )
    _check_kinds(config, source, found)
    if source.texts is not None:
        length = source.texts.fit(found.training_texts, config.sequence_length)
        if length:
            print_note(length)
    kind = found.kind
    if kind != "class" and config.class_weights != "none":
        why = "of which rare ones get a lower threshold" if kind == "labels" else "without classes"
        raise ValueError(
            f"--class-weights {config.class_weights} is for one class of each example. The data "
            f"{images!r} hold {'several labels' if kind == 'labels' else 'numbers'}, {why}: leave "
            "it out."
        )
    if kind == "number" and config.label_smoothing:
        raise ValueError(
            "--label-smoothing is for classes and labels, and the data "
            f"{images!r} hold numbers: leave it out."
        )
    model = source.build(found.class_names, kind)
    if source.note:
        print_note(source.note)
    command = layers_command(source.name, source.image_size, config.keep_head)
    groups = split_task(model, config.groups, boundaries, shown_by=command)
    group_rates = rates_of_groups(rates, groups)
    data = all_make(
        workers,
        "data",
        lambda: image_data.load(
            found,
            image_size=source.image_size or 0,
            batch_size=config.batch_size,
            seed=config.seed,
            validation_fraction=config.validation_fraction,
            augmentations=config.augmentations,
            limit=config.limit,
        ),
        lambda data: {
            "training images": data.train_images,
            "test images": data.test_images,
            "fingerprint of the files": data.fingerprint,
        },
    )
    _say_what_was_found(data, config.limit)
    resolved: dict[str, Any] = {
        "model": source.name,
        "weights": source.weights,
        "image_size": source.image_size,
    }
    if source.texts is not None:
        resolved["sequence_length"] = source.texts.length
    if data.kind == "number" and not config.keep_head:
        models.set_scaling(model, *data.scaling)
    target = _target(config, data)
    by_block = source.texts is not None and config.groups is None and boundaries is None
    return Task(data, target, model, groups, group_rates, resolved, by_block=by_block)


def _target(config: TaskConfig, data: image_data.ImageData) -> Target:
    means, deviations = data.scaling
    return target_of(
        data.kind,
        class_names=data.class_names,
        means=tuple(means),
        deviations=tuple(deviations),
        label_smoothing=config.label_smoothing,
        mixes="mixup" in config.augmentations,
    )


def _check_kinds(config: TaskConfig, source: models.Source, found: Any) -> None:
    """Raise a `ValueError` if the model is not made for the data, or an option is not for them."""
    has_texts = isinstance(found, image_data.LabelledTexts)
    if has_texts and source.texts is None:
        raise ValueError(
            f"The data {found.name!r} are texts, and the model {source.name!r} takes images. Give "
            "--model hub:NAME, a preset of KerasHub for texts such as hub:bert_small_en_uncased, "
            "hub: and the folder of one, or the folder of a run on texts."
        )
    if not has_texts and source.texts is not None:
        raise ValueError(
            f"The model {source.name!r} takes texts, and the data {found.name!r} are images. Give "
            "a table with the columns text and label, or another --model."
        )
    if has_texts and config.augmentations:
        raise ValueError("--augment is for images. Leave it out.")
    if not has_texts and config.sequence_length is not None:
        raise ValueError("--sequence-length is for texts. Leave it out.")


def _say_what_was_found(data: image_data.ImageData, limit: int | None = None) -> None:
    splits = {"training": "train", "validation": "validation", "test": "test"}
    sizes = {part: data.size(split) for part, split in splits.items()}
    examples = ", ".join(f"{count} {part} {data.unit}s" for part, count in sizes.items() if count)
    print_note(f"{data.name}: {examples}, {data.found}")
    if limit is not None:
        of_each = {"class": " of each class", "labels": " of each label"}.get(data.kind, "")
        print_note(f"a quick try on at most {limit} {data.unit}s{of_each} in each split (--limit)")
    if data.kind != "number":
        print_note(image_data.class_table(data.class_names, data.class_counts, data.kind))


def layers_command(model: str, image_size: int | None, keep_head: bool) -> str:
    """Return the command that lists the layers of a model.

    >>> layers_command("VGG16", 64, False)
    'dlr-tf layers VGG16 --image-size 64'
    """
    size = ["--image-size", str(image_size)] if image_size else []
    keep = ["--keep-head"] if keep_head else []
    return shlex.join(["dlr-tf", "layers", model, *size, *keep])


def split_task(
    model: keras.Model,
    n_groups: int | None,
    boundaries: Sequence[str] | None = None,
    *,
    shown_by: str = "",
    quiet: bool = False,
) -> Sequence[LayerGroup]:
    """Split a classifier into groups, with the head in a group of its own.

    Where the last group would hold more than the head, there is one group more, and a line on
    stderr says so, unless it should be quiet.

    Args:
        model: A classifier with one output.
        n_groups: Number of groups of about equal size, if there are no boundaries. `None` for
            three, or as many as there can be.
        boundaries: Names or paths of the first layers of the groups.
        shown_by: The command that lists the layers, to be named in an error.
        quiet: Whether to print nothing.

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
        raise ValueError(f"{reason.rstrip('.')}.{hint}") from error
    (head,) = models.head_paths(model)
    # Layers without weights may stand before the head: they have nothing to train.
    last = len(groups) - 1
    trained = {v.path for v in assign_variables(model, groups) if v.group == last}
    if all(path.startswith(f"{head}/") for path in trained):
        return groups
    groups = split_layers(model, [*(boundaries or ()), head])
    names = some_of([group.name for group in groups])
    if not quiet:
        print_note(
            f"the head, layer {head!r}, becomes a group of its own, which makes "
            f"{len(groups)} groups: {names}"
        )
    return groups


def _default_split(model: keras.Model) -> tuple[LayerGroup, ...]:
    """Return three groups, or as many as there can be; for texts one per transformer block."""
    if models.takes_texts(model):
        return split_layerwise(model)
    for n_groups in (3, 2):
        with contextlib.suppress(ValueError):
            return split_evenly(model, n_groups)
    return split_evenly(model, 1)


def parse_rates(text: str) -> Any:
    """Return the argument `learning_rate` that a text means, as `--learning-rate` describes it.

    Raises:
        ValueError: If it means none, all rates are 0, or a rate is negative or not finite.

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
    # Raises if a rate is wrong. The number of groups is known only after the model is built.
    if not any(resolve_learning_rates(rates, len(rates) if isinstance(rates, list) else 2)):
        raise ValueError(
            "--learning-rate should give at least one group a rate above 0: nothing learns at 0. "
            f"Received: --learning-rate {text}"
        )
    return rates


def rates_of_groups(rates: Any, groups: Sequence[LayerGroup]) -> list[float] | None:
    """Return the peak rate of each group for what `parse_rates` returns; `None` for `"auto"`.

    Raises:
        ValueError: If a list has not one rate per group.
    """
    if rates == AUTO:
        return None
    if isinstance(rates, list) and len(rates) != len(groups):
        raise ValueError(
            f"--learning-rate should hold one rate per group. There are {len(groups)} groups: "
            f"{some_of([group.name for group in groups])}. "
            f"Received: {len(rates)} rates, {some_of(rates)}"
        )
    return resolve_learning_rates(rates, len(groups))
