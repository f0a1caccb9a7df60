"""The options of every command: what each means, its default, and what may be typed.

A command is described by a frozen dataclass, which `arguments` makes once from what was typed.
`options` turns types and docstrings into the parser: what stands under `Args` can be typed.
docs/command.md describes the options in context.

This module imports no TensorFlow, and nothing of the rooms but the terminal.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from dlr_tf._names import AUTO, BATCH_NORM, SCHEDULES, STRATEGIES, WAIT
from dlr_tf.app.options import (
    Count,
    FromZero,
    NotNegative,
    Positive,
    Seed,
    Share,
    StepsOrShare,
    Typed,
    described,
    option_name,
    some_names,
)

OPTIMIZERS = ("adam", "adamw", "lion", "muon", "nadam", "rmsprop", "sgd")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
AUGMENTATIONS = ("flip", "crop", "colour", "rotation", "mixup")
USUAL_AUGMENTATIONS = "flip,crop,colour"
TARGETS = ("class", "labels", "number")
FORMATS = ("saved-model", "tflite", "onnx")
# A network pretrained on a million photographs needs fewer epochs than one on 720 digits.
WITHOUT_DATA: Mapping[str, Any] = {"epochs": 31, "compare": True, "model": None}


class Usual(int):
    """A default that depends on the data.

    The values here are those for images; `FOR_TEXTS` has those for texts. Where so many epochs are
    fewer steps than `USUAL_STEPS`, there are up to three times as many.
    """


BATCH_SIZE, EPOCHS = Usual(16), Usual(7)
FOR_TEXTS: Mapping[str, Any] = {"batch_size": 32, "epochs": Usual(4)}
USUAL_STEPS = {"image": 270, "text": 110}
Config = TypeVar("Config", bound="CommandConfig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """What all commands share."""

    command: ClassVar[str]
    positional: ClassVar[Sequence[str]] = ()
    exclusive: ClassVar[Sequence[str]] = ()

    @classmethod
    def of(cls: type[Config], options: Mapping[str, Any]) -> Config:
        """Return the configuration that these options describe. Other names are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in names})

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name, for JSON. `of` reads them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig(CommandConfig):
    """A network, and its groups.

    Args:
        model (MODEL): Model of keras.applications, in upper or lower case; or a .keras file, or a
            folder that finetune wrote: its head is replaced, and preprocessing is taken to be
            inside; or hub:NAME, a preset of KerasHub; its layers: dlr-tf layers MODEL.
        image_size (PIXELS): Height and width that images are resized to (default: the size that the
            model was made for).
        keep_head: Keep the head of a .keras file, which then needs one output per class (default: a
            new head).
        groups (N): Number of groups: the last is the head alone, the others have about equal sizes
            (default: 3, or as many as there can be).
        boundaries (A,B): Names or paths of the layers at which the second, third, ... group begin;
            the head becomes a group of its own (default: none, see --groups).
    """

    exclusive = ("groups", "boundaries")

    model: str | None = "MobileNetV2"
    image_size: Count | None = None
    keep_head: bool = False
    groups: Count | None = None
    boundaries: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(NetworkConfig):
    """Data, model, groups and rates: the options that `finetune` and `find-lr` share.

    Args:
        data (DATA): Folder with one sub-folder of images per class (or with train/ and test/ or
            val/ that hold such sub-folders), CSV file with the columns path, label and perhaps
            split, or tfds:NAME; for texts a .csv, .tsv or .jsonl file with the columns text, label
            and perhaps split, or a folder of .txt files (default: the digits of scikit-learn, which
            need no network).
        target: What a table tells of each image or text: one class, several labels, or numbers
            (default: what the values look like).
        label_column (A,B): Column with the class, the labels or the number; or one 0/1 column per
            label, or columns with numbers, separated by commas (default: label, labels, class,
            category or tags; of texts also sentiment, target, or the only column left).
        path_column (NAME): Column with the paths (default: path, file, filename, image, ...).
        split_column (NAME): Column that says train, val or test (default: split or subset).
        text_column (A,B): Column of a table with the texts, or the two of a pair (default: one with
            a usual name, such as text, sentence or review).
        sequence_length (N): Tokens of a text that are read; longer texts are cut (default: chosen
            from the data).
        limit (N): A quick try: use at most N examples of each class in each split, chosen by
            --seed; of several labels, N per rarest label; of numbers, N in all (default: all).
        weights (imagenet|none|PATH): Weights to start from; none: random; PATH: a file made with
            include_top=False (default: imagenet; for hub:NAME those of the preset; a .keras file
            has its own).
        augment (A,B): Change the training images at random: flip (left to right), crop (a part of
            0.7 to 1 of the sides), colour (brightness, contrast, saturation), rotation (up to 15
            degrees), mixup (with another image and its class, labels or numbers), or several
            separated by commas; --augment alone: flip, crop and colour.
        class_weights: Balanced: an image counts the more, the fewer its class has, so that all
            classes count the same.
        label_smoothing (X): Train on 1 - X for the true class and X shared by all classes, or on
            X / 2 and 1 - X / 2 for labels; from 0 to below 1.
        skip_broken: Go on without the image files that cannot be read (default: stop and name
            them).
        learning_rate (LO:HI): Auto: after a head start one low rate, else the first group has a
            tenth of the rate of the head, which a range test chooses; or rates from the first group
            to the head: LO:HI (geometric), :HI (the others HI/10), one for all, or one per group
            separated by commas.
        optimizer (NAME): The optimizer, in upper or lower case.
        weight_decay (X): Decoupled weight decay of all weights, at the rate of their group
            (default: that of the optimizer: 0.004 for adamw and muon, else none).
        batch_size (N): Examples in a batch, over all devices (default: 16; for texts 32).
        precision: Of the layers; the mixed ones compute in 16 bits and keep their weights in 32,
            which is faster on a GPU with tensor cores or a TPU, and slower on most CPUs.
        batch_norm: Frozen: batch normalization keeps its weights and statistics; train: it is
            trained with its group.
        seed (N): Seed of all random numbers.
    """

    positional = ("data",)

    data: str | None = None
    target: Annotated[str, Typed(choices=TARGETS)] | None = None
    label_column: str | None = None
    path_column: str | None = None
    split_column: str | None = None
    text_column: str | None = None
    sequence_length: Count | None = None
    limit: Count | None = None
    weights: str | None = None
    augment: Annotated[str, some_names(AUGMENTATIONS, USUAL_AUGMENTATIONS)] = "none"
    class_weights: Annotated[str, Typed(choices=("none", "balanced"))] = "none"
    label_smoothing: Share = 0.0
    skip_broken: bool = False
    learning_rate: str = AUTO
    optimizer: Annotated[str, Typed(type=str.lower, choices=OPTIMIZERS)] = "adam"
    weight_decay: NotNegative | None = None
    batch_size: Count = BATCH_SIZE
    precision: Annotated[str, Typed(choices=PRECISIONS)] = "float32"
    batch_norm: Annotated[str, Typed(choices=BATCH_NORM)] = "frozen"
    seed: Seed = 0
    validation_fraction: float = 0.0  # of the training images; follows from other options

    @property
    def augmentations(self) -> Sequence[str]:
        """The names of the random changes."""
        return () if self.augment == "none" else self.augment.split(",")

    def as_typed(self) -> list[str]:
        """Return the options that differ from their defaults, as they are typed.

        >>> TaskConfig(data="my photos", keep_head=True, seed=3).as_typed()
        ['my photos', '--keep-head', '--seed', '3']
        """
        words = [] if self.data is None else [self.data]
        defaults = WITHOUT_DATA if self.data is None else {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_option = field.name in described(type(self)) and field.name not in self.positional
            if is_option and value != defaults.get(field.name, field.default):
                words += [option_name(field.name)] + ([] if value is True else [str(value)])
        return words


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(TaskConfig):
    """A run of `finetune`. It is stored in the file `settings.json` of the run.

    Args:
        epochs (N): Number of epochs, the frozen ones included (default: 7; up to 21
            where these are fewer than 270 steps; for texts 4, or up to 12 for 110 steps; without
            DATA 31).
        frozen_epochs (N): Number of first epochs in which only the head is trained.
        head_start: Train the head to convergence before the first epoch, on what the other layers
            compute of each image or text; auto then takes one low rate for all groups (default:
            where each has one class, with --learning-rate auto, where it is possible).
        average_weights: The model at the end has the mean of its weights after every step, instead
            of the last weights; what is shown and logged of each epoch is without it (default: with
            a head start, unless --keep best).
        schedule: How the rates change over the steps.
        warmup (N|SHARE): Steps of a linear rise from 0 before the schedule, or their share of all
            steps, such as 0.1; the schedule fills the rest.
        cycle_epochs (X): Length of the first sgdr cycle in epochs (default: about 1, so that the
            last cycle ends with the training).
        t_mul (X): Each sgdr cycle is this many times longer than the one before, at least 1.
        compare: Also train with one rate for all layers, chosen by a range test, with the same
            schedule and for as many epochs, and compare several seeds (default: only without DATA).
        compare_seeds (N): With --compare, how many seeds are trained for each.
        strategy: Mirrored: on all GPUs of this machine; multi-worker: on the machines that the
            environment variable TF_CONFIG names (default: on one device).
        wait (SECONDS): How long multi-worker waits for the other machines.
        checkpoint_every (N): Also write a checkpoint every N steps (default: only at the end of
            every epoch).
        keep: The model that is tested and written: that of the last epoch, or of the best one,
            which has the highest validation accuracy, and among several the lowest validation loss.
        patience (N): Stop when N epochs in a row were no better, in the sense of --keep, than the
            best one before; after a restart of sgdr, a few epochs can be worse (default: train all
            epochs).
        tensorboard: Also write the curves for TensorBoard, to the folder tensorboard of the run.

    >>> config = RunConfig(data="photos", epochs=3, keep="best")
    >>> RunConfig.of(config.as_dict()) == config
    True
    """

    epochs: Count = EPOCHS
    frozen_epochs: FromZero = 0
    head_start: Annotated[bool | None, Typed(action=argparse.BooleanOptionalAction)] = None
    average_weights: Annotated[bool | None, Typed(action=argparse.BooleanOptionalAction)] = None
    schedule: Annotated[str, Typed(choices=SCHEDULES)] = "onecycle"
    warmup: StepsOrShare = 0
    cycle_epochs: Positive | None = None
    t_mul: Positive = 2.0
    compare: Annotated[bool, Typed(action=argparse.BooleanOptionalAction)] = False
    compare_seeds: Count = 3
    strategy: Annotated[str, Typed(choices=STRATEGIES)] | None = None
    wait: Positive = WAIT
    checkpoint_every: Count | None = None
    keep: Annotated[str, Typed(choices=("best", "last"))] = "last"
    patience: Count | None = None
    tensorboard: bool = False

    def check_frozen_epochs(self) -> None:
        """Raise a `ValueError` if there are more frozen epochs than epochs."""
        if self.frozen_epochs > self.epochs:
            raise ValueError(
                "--frozen-epochs should not be above --epochs, which counts all epochs. Received: "
                f"--frozen-epochs {self.frozen_epochs} --epochs {self.epochs}"
            )

    @property
    def trains_head_only(self) -> bool:
        """Whether the other groups are frozen in every epoch."""
        return self.frozen_epochs >= self.epochs


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """Fine-tune a pretrained model with differential learning rates.

    Args:
        resume (RUN): Resume the run in this folder after a stop, with the settings that it has; no
            other option is needed, and conflicting ones are rejected; give DATA if the images have
            moved (default: a new run).
        output (DIR): New or empty folder (default: runs/<date-time>).
    """

    command = "finetune"

    resume: str | None = None
    output: str | None = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the options, by name
    command_line: Sequence[str] = ()

    @property
    def new_run(self) -> RunConfig:
        """What a run does that is not resumed."""
        return RunConfig.of(self.as_dict())


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindLrConfig(TaskConfig):
    """Find a learning rate by a range test.

    The rate of the head rises step by step, and the other groups keep their ratios to it.

    Args:
        start (X): First rate.
        end (X): Last rate.
        steps (N): Number of steps.
        output (FILE): New .png or .svg file.
    """

    command = "find-lr"

    start: Positive = 1e-5
    end: Positive = 10.0
    steps: Count = 60
    output: str = "find-lr.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersConfig(NetworkConfig):
    """List the layers of a model, and suggest --boundaries. No weights are downloaded.

    Args:
        model (MODEL): As --model of finetune (default: the network for the digits of scikit-learn).
        all: One line for each layer (default: for each block, if there are many layers).
    """

    command = "layers"
    positional = ("model",)

    model: str | None = None
    all: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedConfig(CommandConfig):
    """A model that was trained: the options that `predict` and `evaluate` share.

    Args:
        run (RUN): Folder that finetune wrote, or a .keras file with classes.json beside it.
        text_column (A,B): Column of a table with the texts, or the two of a pair (default: that of
            the training, or one with a usual name).
        tta: Test-time augmentation: average what the model gives for each image and for its mirror
            image, left to right, which takes twice as long.
        batch_size (N): Number of images that are classified together.
    """

    run: str
    text_column: str | None = None
    tta: bool = False
    batch_size: Count = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(TrainedConfig):
    """Print the most probable classes of images, or their labels or numbers, one line per image.

    Args:
        paths (PATH): Image files, and folders whose images are classified, those in sub-folders
            too. For a model of texts: .txt files, folders of them, .csv, .tsv or .jsonl files, or
            - for the lines on stdin.
        csv: Print a table as CSV (default: text).
        json: Print a JSON list (default: text).
        output (FILE): New file to write instead of stdout; .csv and .json at its end are as --csv
            and --json (default: stdout).
        top (N): Number of classes to print for each image; labels and numbers are all printed.
    """

    command = "predict"
    positional = ("run", "paths")
    exclusive = ("csv", "json")

    paths: Annotated[Sequence[str], Typed(nargs="+")]
    csv: bool = False
    json: bool = False
    output: str | None = None
    top: Count = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(TrainedConfig):
    """Score a model on images whose classes, labels or numbers are known.

    The command prints the accuracy, the scores of each class and the ten most confident errors, and
    draws the confusion matrix. Labels and numbers have scores of their own.

    Args:
        data (DATA): As DATA of finetune: its part test, else val, else all images; of the data that
            the model was trained on, the images that were kept for testing (default: the data that
            the model was trained on).
        output (DIR): New or empty folder (default: a new folder RUN/evaluation).
    """

    command = "evaluate"
    positional = ("run", "data")

    data: str | None = None
    output: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(CommandConfig):
    """Write a model in a format of another tool.

    What was written is loaded again, and its predictions are compared with those of the model.
    TFLite takes one image of one size, as phones need it.

    Args:
        run (RUN): Folder that finetune wrote, or a .keras file.
        format: Saved-model: a folder for TensorFlow; tflite: a file for LiteRT; onnx: a file for
            ONNX Runtime.
        output (PATH): New file or folder (default: RUN/saved_model, RUN/model.tflite or
            RUN/model.onnx; with --quantize, RUN/model_float16.tflite or RUN/model_int8.tflite).
        quantize: Of tflite: float16: weights of half the size; int8: integers, a quarter of the
            size and faster on phones, calibrated on training images (default: float32).
    """

    command = "export"
    positional = ("run",)

    run: str
    format: Annotated[str, Typed(type=str.lower, choices=FORMATS)] = "saved-model"
    output: str | None = None
    quantize: Annotated[str, Typed(type=str.lower, choices=("float16", "int8"))] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig(CommandConfig):
    """Draw a learning rate over the steps.

    Args:
        learning_rate (X): Peak rate.
        output (FILE): New .png or .svg file (default: KIND.png).
    """

    command = "schedule"
    kind: ClassVar[str]

    learning_rate: float = 1e-3
    output: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SgdrConfig(ScheduleConfig):
    """Cosine annealing with warm restarts.

    Args:
        first_decay_steps (N): Length of the first cycle in steps.
        t_mul (X): Factor between the lengths of two cycles.
        m_mul (X): Factor between the peaks of two cycles.
        alpha (X): Lowest rate as a fraction of the peak.
        warmup_steps (N): Steps of linear rise at the start.
        steps (N): Number of steps to draw (default: three cycles).
    """

    kind = "sgdr"

    first_decay_steps: Count = 100
    t_mul: Positive = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0
    warmup_steps: FromZero = 0
    steps: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneCycleConfig(ScheduleConfig):
    """One rise and one fall.

    Args:
        steps (N): Number of steps.
        pct_start (X): Fraction of the steps for the rise.
        div (X): Peak divided by the first rate.
        div_final (X): Peak divided by the last rate.
    """

    kind = "onecycle"

    steps: Count = 1000
    pct_start: float = 0.25
    div: float = 25.0
    div_final: float = 1e5


@dataclasses.dataclass(frozen=True, kw_only=True)
class TriangularConfig(ScheduleConfig):
    """Cyclical rates.

    Args:
        base_learning_rate (X): Lowest rate.
        step_size (N): Steps of one rise or one fall.
        mode: Triangular: all peaks are equal; triangular2: each is half of the one before;
            exp_range: the rates fall by --gamma each step.
        gamma (X): Factor per step of exp_range.
        steps (N): Number of steps to draw (default: three cycles).
    """

    kind = "triangular"

    base_learning_rate: float = 1e-4
    step_size: Count = 100
    mode: Annotated[str, Typed(choices=("triangular", "triangular2", "exp_range"))] = "triangular"
    gamma: float = 0.99994
    steps: Count | None = None
