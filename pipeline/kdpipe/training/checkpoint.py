"""last.pt: where a training stands, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch

from kdpipe.errors import TrainingError

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


class Sink:
    """A file as torch.save sees it; remembers why the disk refused, which torch does not say."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        """Writes all of it."""
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing to do before the end."""


def write_whole(path: Path, write: Callable[[Sink], object]) -> None:
    """Writes a file under a temporary name, flushes it to disk, renames it.

    A reader, and a process that starts after a crash, see the old file or the new one.

    Raises:
        OSError: the disk refuses; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    with half.open("wb") as file:
        sink = Sink(file)
        try:
            write(sink)
            file.flush()
            os.fsync(file.fileno())
        except BaseException as error:
            half.unlink(missing_ok=True)
            refused = error if isinstance(error, OSError) else sink.error
            if refused is None:
                raise
            raise OSError(refused.errno, refused.strerror, str(path)) from error
    half.replace(path)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second training of the same folder out, until this one leaves or dies.

    Raises:
        TrainingError: another process is in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{folder} is being trained by another process, expected to be alone: wait for "
                "it, or stop it; then the same command goes on"
            ) from error
        yield


def write_torch(path: Path, content: object) -> None:
    """Writes what torch.load reads, whole or not at all."""
    write_whole(path, lambda sink: torch.save(content, cast("IO[bytes]", sink)))


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
    write_torch(folder / NAME, content)


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
        reason = (str(error) or type(error).__name__).splitlines()[0]
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
