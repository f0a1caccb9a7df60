"""A file with options becomes what would be typed, so that both are checked alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dlr_tf._names import did_you_mean, some_of
from dlr_tf.app.config import FinetuneConfig, TaskConfig
from dlr_tf.app.options import described, option_name
from dlr_tf.app.paths import paths_from_here
from dlr_tf.app.terminal import UsageError, one_line

# They need another option, and settings.json has them all the same.
_NEED_ANOTHER = ("augment", "compare_seeds", "t_mul", "wait")
_ENDINGS = (".json", ".yaml", ".yml")


def typed_options(path: str, kind: type[TaskConfig], given: Collection[str]) -> list[str]:
    """Return the options in a file as they are typed.

    Args:
        path: A JSON or YAML file with options by name, or `settings.json` of a run.
        kind: What the command is described by. `find-lr` ignores the options of `finetune` alone.
        given: The names of the options that were typed, which count instead of those of the file.

    Raises:
        UsageError: If the file cannot be read, or has an unknown option.
    """
    content = {name.replace("-", "_"): value for name, value in _read(path).items()}
    known = {*described(FinetuneConfig), *described(kind)} - {"resume"}
    if kind is not FinetuneConfig:
        known -= {"output"}  # of other kinds
    unknown = [name for name in content if name not in known]
    if unknown:
        raise UsageError(
            f"The file {path!r} has options that dlr-tf {kind.command} does not know: "
            f"{some_of(unknown)}.{did_you_mean(unknown[0], known)}"
        )
    taken = {*given}
    if taken & {*kind.exclusive}:
        taken |= {*kind.exclusive}
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    words = []
    for name, value in content.items():
        is_default = name in _NEED_ANOTHER and value == defaults.get(name)
        if name in taken or name not in defaults or value is None or is_default:
            continue
        if name in kind.positional:
            words.append(str(value))
        elif isinstance(value, bool):
            words += [option_name(name)] if value else [f"--no-{name}"] if name == "compare" else []
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"{option_name(name)}={text}")
    return words


def _read(path: str) -> Mapping[str, Any]:
    """Return the options of a file, of `settings.json` with paths that begin at this folder."""
    ending = Path(path).suffix.lower()
    if ending not in _ENDINGS:
        raise UsageError(f"The file {path!r} should end in {', '.join(_ENDINGS)}.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        content = json.loads(text) if ending == ".json" else _read_yaml(text)
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"The file {path!r} cannot be read: {one_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"The file {path!r} should hold options by name, such as epochs: 3.")
    if isinstance(content.get("settings"), dict) and "folder" in content:
        names = described(FinetuneConfig)  # others follow from these
        settings = paths_from_here(content["settings"], content["folder"])
        return {name: value for name, value in settings.items() if name in names}
    return content


def _read_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            "YAML files need PyYAML, which is not installed. Give a .json file, or run: pip "
            'install "dlr_tf[command]"'
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
