"""A study: which arms go through which tasks, with which seeds, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.transfer import protocol
from benchmarks.transfer.arms import Arm
from benchmarks.transfer.protocol import ALL_STAGES, Protocol, Record, Run


@dataclasses.dataclass(frozen=True)
class Outline:
    """What the report needs to know of a task, without its data.

    Args:
        title: What it is.
        has_batch_norm: Whether the model has batch normalization. Defaults to `True`.
        arms: The names of the arms that are run. Defaults to `None`: all.
        has_sensitivity: Whether rates that are too low and too high are run. Defaults to `True`.
        n_seeds: How many of the protocol's final seeds are run. Defaults to `None`: all.
    """

    title: str
    has_batch_norm: bool = True
    arms: tuple[str, ...] | None = None
    has_sensitivity: bool = True
    n_seeds: int | None = None


@dataclasses.dataclass(frozen=True)
class Wave:
    """A part of the work that is completed before the next one begins.

    Args:
        arms: The names of the arms.
        stages: The stages, in order.
        seeds: The seeds of final runs. Defaults to `None`: all.
        tasks: The names of the tasks. Defaults to `None`: all.
    """

    arms: tuple[str, ...]
    stages: tuple[int, ...] = ALL_STAGES
    seeds: tuple[int, ...] | None = None
    tasks: tuple[str, ...] | None = None


class Work(NamedTuple):
    """One stage of one arm of one task, with the protocol that gives its runs."""

    task: str
    arm: Arm
    stage: int
    plan: Protocol


@dataclasses.dataclass(frozen=True)
class Study:
    """The arms, tasks and protocol that answer a question.

    Args:
        name: The name.
        arms: All arms.
        outlines: The tasks.
        plan: The protocol.
        waves: The order of the work.
        each_epoch: Whether final runs validate after each epoch.
    """

    name: str
    arms: Sequence[Arm]
    outlines: Mapping[str, Outline]
    plan: Protocol
    waves: Sequence[Wave]
    each_epoch: bool

    @property
    def file(self) -> str:
        """The name of the file of its runs."""
        return f"transfer_{self.name}.jsonl"

    def arms_of(self, task: str) -> list[Arm]:
        """Return the arms of a task, by its name."""
        outline = self.outlines[task]
        return [
            dataclasses.replace(arm, in_sensitivity=arm.in_sensitivity and outline.has_sensitivity)
            for arm in self.arms
            if (outline.has_batch_norm or arm.batch_norm == "frozen")
            and (outline.arms is None or arm.name in outline.arms)
        ]

    def plan_of(self, task: str, seeds: Sequence[int] | None = None) -> Protocol:
        """Return the protocol of a task, whose final seeds can be fewer.

        Args:
            task: The name of the task.
            seeds: Only these final seeds. Defaults to `None`: all of the task's.
        """
        of_task = self.plan.seeds[: self.outlines[task].n_seeds]
        kept = tuple(seed for seed in of_task if seeds is None or seed in seeds)
        return dataclasses.replace(self.plan, seeds=kept)

    def order_of_work(self, tasks: Sequence[str]) -> Iterator[Work]:
        """Give the work of the tasks in order: wave by wave, task by task, stage by stage."""
        for wave in self.waves:
            for task in tasks:
                if wave.tasks is not None and task not in wave.tasks:
                    continue
                plan = self.plan_of(task, wave.seeds)
                for stage in wave.stages:
                    for arm in self.arms_of(task):
                        if arm.name in wave.arms:
                            yield Work(task, arm, stage, plan)

    def n_left(self, task: str, records: Mapping[Run, Record]) -> int:
        """Return how many runs of a task are still to be done."""
        left: set[tuple[str, int, float, int]] = set()
        for _, arm, stage, plan in self.order_of_work([task]):
            runs = protocol.runs_of_stage(plan, stage, task, arm, records)
            if runs is None:  # rates that are not known yet, with the seeds that they will have
                runs = protocol.unknown_runs(plan, stage, task, arm)
            left |= {(arm.name, stage, *run[3:]) for run in runs if run not in records}
        return len(left)
