"""The task that two commands share: images, model, groups and rates."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from dlr_tf.app import applications, digits
from dlr_tf.app import data as image_data
from dlr_tf.app.messages import progress_bar, say
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers
from dlr_tf.core.learning_rates import resolve_learning_rates
from dlr_tf.training.distribution import make_strategy

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer | None]] = {
    "adam": lambda: None,  # FusedAdam, one per group
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": lambda: keras.optimizers.SGD(momentum=0.9),
}


def strategy_of(args: argparse.Namespace) -> tf.distribute.Strategy:
    if args.strategy is None:
        return tf.distribute.get_strategy()
    strategy = make_strategy(args.strategy, wait=args.wait)
    devices = strategy.num_replicas_in_sync
    say(f"training on {devices} device{'s' if devices > 1 else ''}")
    if args.batch_size % devices:
        raise ValueError(
            f"--batch-size {args.batch_size} cannot be split evenly over {devices} devices. Give "
            f"a multiple of {devices}, such as {math.ceil(args.batch_size / devices) * devices}."
        )
    return strategy


def load_task(
    args: argparse.Namespace,
) -> tuple[image_data.ImageData, keras.Model, Sequence[LayerGroup], float | None]:
    """Images, model, groups, and the accuracy of the embedded default's pretraining."""
    keras.utils.set_random_seed(args.seed)
    boundaries = args.boundaries.split(",") if args.boundaries else None
    # Told before images are read and weights loaded, which takes long.
    rates_of(args.learning_rate, args.groups if boundaries is None else len(boundaries) + 1)
    if args.data is None:
        for name in ("model", "weights", "image_size"):
            if getattr(args, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} needs DATA: give a folder of images or tfds:NAME. "
                    "Without DATA a small network is trained on scikit-learn's digits."
                )
        pretraining, data = digits.load_digits(batch_size=args.batch_size, seed=args.seed)
        say(f"pretraining on {pretraining.name}")
        backbone, accuracy = digits.pretrain_on_digits(
            pretraining, verbose=progress_bar() if args.verbose else 0
        )
        say(f"test accuracy {accuracy:.4f} on {pretraining.name}")
        model = applications.classifier(backbone, len(data.class_names))
        return data, model, split_groups(model, args.groups, boundaries), accuracy
    args.model = args.model or "MobileNetV2"
    args.weights = args.weights or "imagenet"
    args.image_size = args.image_size or applications.default_image_size(args.model)
    applications.check_weights(args.weights)
    settings = {"image_size": args.image_size, "batch_size": args.batch_size, "seed": args.seed}
    source, separator, dataset = args.data.partition(":")
    if separator and source == "tfds":
        data = image_data.load_tfds(dataset, **settings)
    else:
        data = image_data.load_folder(args.data, **settings)
    say(
        f"{data.name}: {data.train_images} images to train on, {data.test_images} to test on, "
        f"{len(data.class_names)} classes"
    )
    model = applications.application_model(
        args.model, len(data.class_names), weights=args.weights, image_size=args.image_size
    )
    return data, model, split_groups(model, args.groups, boundaries), None


def split_groups(
    model: keras.Model, n_groups: int, boundaries: Sequence[str] | None
) -> Sequence[LayerGroup]:
    return split_evenly(model, n_groups) if boundaries is None else split_layers(model, boundaries)


def template_of(args: argparse.Namespace) -> keras.optimizers.Optimizer | None:
    return OPTIMIZERS[args.optimizer]()


def rates_of(text: str, n_groups: int) -> list[Any]:
    """The peak rate of every group: from `LO:HI`, `:HI`, one number, or one per group."""

    def number(part: str) -> float:
        try:
            return float(part)
        except ValueError:
            raise ValueError(
                "--learning-rate should be LO:HI, :HI, one number, or one number per group "
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
    return resolve_learning_rates(rates, n_groups)
