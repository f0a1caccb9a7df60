"""What a command does: every option with its value, made once from the arguments, never changed.

This module imports no TensorFlow, and nothing of the rooms. docs/command.md describes the options;
the fields have their names.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config", bound="CommandConfig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """What all commands share."""

    @classmethod
    def of(cls: type[Config], options: Mapping[str, Any]) -> Config:
        """Return the configuration that these options describe. Other names are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in names})

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name, for JSON. `of` reads them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig(CommandConfig):
    """Data, model, groups and rates: the options that `finetune` and `find-lr` share."""

    data: str | None = None
    model: str | None = None
    weights: str | None = None
    image_size: int | None = None
    keep_head: bool = False
    augment: str = "none"
    class_weights: str = "none"
    skip_broken: bool = False
    groups: int | None = None  # three, or as many as there can be
    boundaries: str | None = None
    learning_rate: str = "auto"
    optimizer: str = "adam"
    weight_decay: float | None = None  # that of the optimizer
    batch_size: int = 16
    batch_norm: str = "frozen"
    seed: int = 0
    validation_fraction: float = 0.0  # of the training images; follows from other options


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(TaskConfig):
    """A run of `finetune`. It is stored in the file `settings.json` of the run.

    >>> config = RunConfig(data="photos", epochs=3, keep="best")
    >>> RunConfig.of(config.as_dict()) == config
    True
    """

    epochs: int
    frozen_epochs: int = 0
    schedule: str = "onecycle"
    warmup: float = 0  # steps, or a share below 1
    cycle_epochs: float | None = None
    t_mul: float = 2.0
    compare: bool = False
    compare_seeds: int = 3
    strategy: str | None = None
    wait: float = 300.0
    checkpoint_every: int | None = None
    keep: str = "last"
    patience: int | None = None
    tensorboard: bool = False

    @property
    def trains_head_only(self) -> bool:
        """Whether the other groups are frozen in every epoch."""
        return self.frozen_epochs >= self.epochs


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(CommandConfig):
    """The command `finetune`: a new run, or one that is resumed.

    Args:
        run: The new run; `None` with `resume`.
        resume: The folder of the run to resume.
        given: The options that are given besides `resume`.
        output: The folder of the new run.
        command_line: The arguments of `dlr-tf`, to be stored.
        verbose: Whether to show the pretraining.
    """

    run: RunConfig | None
    resume: str | None = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    output: str | None = None
    command_line: Sequence[str] = ()
    verbose: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindLrConfig(TaskConfig):
    """The command `find-lr`."""

    start: float
    end: float
    steps: int
    output: str
    verbose: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersConfig(CommandConfig):
    """The command `layers`."""

    model: str | None
    image_size: int | None
    keep_head: bool
    groups: int | None
    boundaries: str | None
    all: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(CommandConfig):
    """The command `predict`."""

    run: str
    paths: Sequence[str]
    csv: bool
    json: bool
    top: int
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommandConfig):
    """The command `evaluate`."""

    run: str
    data: str | None
    output: str | None
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(CommandConfig):
    """The command `export`."""

    run: str
    format: str
    output: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig(CommandConfig):
    """The command `schedule`. The options of the other kinds are `None`."""

    kind: str
    learning_rate: float
    steps: Any
    output: str | None
    ascii: bool
    first_decay_steps: Any = None
    t_mul: Any = None
    m_mul: Any = None
    alpha: Any = None
    warmup_steps: Any = None
    pct_start: Any = None
    div: Any = None
    div_final: Any = None
    base_learning_rate: Any = None
    step_size: Any = None
    mode: Any = None
    gamma: Any = None


_KINDS: dict[str, type[CommandConfig]] = {
    "find-lr": FindLrConfig,
    "layers": LayersConfig,
    "predict": PredictConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "schedule": ScheduleConfig,
}


def config_of(args: argparse.Namespace) -> Any:
    """Return the configuration of the command that `parse_arguments` read."""
    options = vars(args)
    if args.command != "finetune":
        return _KINDS[args.command].of(options)
    run = RunConfig.of(options) if args.resume is None else None
    return FinetuneConfig.of({**options, "run": run})
