"""last.pt: where a training stands, and files that are written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

logger = logging.getLogger(__name__)

NAME = "last.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One validation: what the curves show."""

    step: int
    loss: float
    """Mean training loss since the last point."""

    learning_rate: float
    validation: Mapping[str, float]
    """abs_rel, delta1, rmse and so on of the val split."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a training is."""

    step: int = 0
    seconds: float = 0.0
    """Of training and validation, over all starts."""

    losses: list[float] = field(default_factory=list)
    """Of the steps since the last point."""

    points: list[Point] = field(default_factory=list)


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a temporary name, flushes it to disk, renames it.

    A reader, and a process that starts after a crash, see the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    with half.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Writes a JSON file, whole, its keys in the order given."""
    text = json.dumps(values, indent=2) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def save(
    folder: Path, identity: Mapping[str, object], progress: Progress, state: Mapping[str, object]
) -> None:
    """Writes last.pt.

    Args:
        folder: of the training.
        identity: what decides the result; JSON-able.
        progress: steps, seconds and curve so far.
        state: state dicts by name; empty: finished, nothing to go on from.
    """
    plain = json.loads(json.dumps(dict(identity)))  # as it is compared when it is read
    content = {"identity": plain, "progress": asdict(progress), "state": dict(state)}
    write_whole(folder / NAME, lambda file: torch.save(content, file))


def load(folder: Path, identity: Mapping[str, object]) -> tuple[Progress, Mapping[str, Any]] | None:
    """Reads last.pt, if it is there and of this very training.

    What belongs to another training, or cannot be read, is said in one line and left unused: DVC
    keeps the outputs of a stage whose parameters changed.

    Returns:
        Progress and state dicts, or None: start anew.
    """
    content = _read(folder / NAME)
    if content is None:
        return None
    if other := _differing(content, identity):
        logger.warning("%s has another %s: starting anew", folder / NAME, ", ".join(other))
        return None
    if not content["state"]:
        logger.warning("%s: finished before, but outputs are missing: starting anew", folder)
        return None
    return _progress(content), content["state"]


def load_finished(folder: Path, identity: Mapping[str, object]) -> Progress | None:
    """Reads last.pt, if it marks this very training as finished."""
    content = _read(folder / NAME)
    if content is None or content["state"] or _differing(content, identity):
        return None
    return _progress(content)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        logger.warning("%s cannot be read (%s): starting anew", path, reason)
        return None
    if not isinstance(content, dict) or set(content) != {"identity", "progress", "state"}:
        logger.warning("%s is no checkpoint of kdpipe: starting anew", path)
        return None
    return content


def _differing(content: Mapping[str, Any], identity: Mapping[str, object]) -> list[str]:
    found = content["identity"]
    expected = json.loads(json.dumps(dict(identity)))  # tuples are lists in the file
    return sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))


def _progress(content: Mapping[str, Any]) -> Progress:
    values = dict(content["progress"])
    values["points"] = [Point(**point) for point in values["points"]]
    return Progress(**values)
