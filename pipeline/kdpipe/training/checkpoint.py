"""Where a training stands, as safetensors and JSON, each file whole or not at all.

`checkpoints/step-N.safetensors` has the tensors of all states, `step-N.json` beside it the rest and
the tensors' digest. The JSON is written last: without it there is no checkpoint. The last two are
kept, so a torn one costs a few steps, and `best.safetensors`, the weights of the best validation.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from kdpipe.errors import TrainingError
from kdpipe.nets.checkpoint import as_safetensors
from kdpipe.training.nested import join, split

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
KEPT = 2
BEST = "best.safetensors"
BEST_BY = "abs_rel"
"""Of the validation: the smaller, the better."""

_OLD = "last.pt"
"""Of older versions; still read, so that what they trained stays finished or goes on."""

_STEP = re.compile(r"step-(\d+)\.json")


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
    sink: Sink | None = None
    try:
        with half.open("wb") as file:  # closing writes too: a full disk may show only then
            sink = Sink(file)
            write(sink)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        half.unlink(missing_ok=True)
        hidden = None if sink is None else sink.error
        refused = error if isinstance(error, OSError) else hidden
        if refused is None:
            raise
        raise OSError(refused.errno, refused.strerror, str(path)) from error
    half.replace(path)


_HELD: list[IO[str]] = []
"""Locks of this process."""


def _let_go() -> None:
    """In a process that was forked: a loader's worker outlives a killed training by seconds."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


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
        _HELD.append(file)
        try:
            yield
        finally:
            _HELD.remove(file)


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
    """Writes a checkpoint and removes those before the one before it.

    Args:
        folder: of the training.
        identity: what decides the result; JSON-able.
        progress: steps, seconds and curve so far.
        state: state dicts by name; empty: finished, nothing to go on from, and none is kept.

    Raises:
        OSError: the disk refuses; the checkpoint before is still there.
    """
    place = folder / FOLDER / f"step-{progress.step}.json"
    plain = json.loads(json.dumps(dict(identity)))  # as it is compared when it is read
    content = {"identity": plain, "progress": asdict(progress), "state": None, "sha256": None}
    if state:
        tensors, content["state"] = split(state)
        packed = as_safetensors(tensors)
        content["sha256"] = hashlib.sha256(packed).hexdigest()
        write_whole(place.with_suffix(".safetensors"), lambda file: file.write(packed))
    write_json(place, content)
    (folder / _OLD).unlink(missing_ok=True)
    if state:
        _remove(folder, _paths(folder)[KEPT:])
    else:
        _tidy(folder, progress)


def _tidy(folder: Path, progress: Progress) -> None:
    """Removes what a finished training needs no longer."""
    mark, *others = _paths(folder)
    mark.with_suffix(".safetensors").unlink(missing_ok=True)
    _remove(folder, others)
    if best_of(progress.points) in progress.points[-1:]:
        (folder / FOLDER / BEST).unlink(missing_ok=True)  # the finished network itself


def save_best(folder: Path, weights: Mapping[str, Tensor], points: Sequence[Point]) -> None:
    """Keeps a network's weights if the last of its validations is the best so far."""
    if points and best_of(points) is points[-1]:
        said = {"step": points[-1].step, BEST_BY: points[-1].validation[BEST_BY]}
        # One key: the library writes several in an order of chance, and the file's digest with it.
        packed = as_safetensors(weights, {"validation": json.dumps(said)})
        write_whole(folder / FOLDER / BEST, lambda file: file.write(packed))


def best_of(points: Sequence[Point]) -> Point | None:
    """The point of the smallest error, the first of equals; None where there is none."""
    known = [point for point in points if BEST_BY in point.validation]
    return min(known, key=lambda point: point.validation[BEST_BY], default=None)


def clear(folder: Path) -> None:
    """Removes the checkpoints of another training, those of older versions too."""
    (folder / _OLD).unlink(missing_ok=True)
    (folder / FOLDER / BEST).unlink(missing_ok=True)
    _remove(folder, _paths(folder))


def load_last(
    folder: Path, identity: Mapping[str, object]
) -> tuple[Progress, Mapping[str, Any]] | None:
    """Reads the last whole checkpoint, if there is one and of this very training.

    What belongs to another training, or cannot be read, is said in one line and left unused: DVC
    keeps the outputs of a stage whose parameters changed.

    Returns:
        Progress and state dicts, or None: start anew.
    """
    paths = _paths(folder)
    for path in paths or _old(folder):
        content = _read(path)
        if content is None:
            continue
        if other := _differing(content, identity):
            logger.warning("%s has another %s: starting anew", path, ", ".join(other))
            return None
        if content["state"] is None:
            logger.warning("%s: finished before, but outputs are missing: starting anew", folder)
            return None
        if path.name == _OLD:
            return _progress(content), content["state"]
        tensors = _read_tensors(path.with_suffix(".safetensors"), content["sha256"])
        if tensors is not None:
            return _progress(content), cast("Mapping[str, Any]", join(tensors, content["state"]))
    return None


def load_finished(folder: Path, identity: Mapping[str, object]) -> Progress | None:
    """Reads the mark of a finished training, if it is of this very one."""
    for path in _paths(folder)[:1] or _old(folder):
        content = _read(path)
        if content and content["state"] is None and not _differing(content, identity):
            progress = _progress(content)
            if path.name != _OLD:
                _tidy(folder, progress)  # it may have been killed before it came to that
            return progress
    return None


def _paths(folder: Path) -> list[Path]:
    """JSON files, the last step's first."""
    found = [(_STEP.fullmatch(path.name), path) for path in (folder / FOLDER).glob("step-*.json")]
    steps = [(int(match[1]), path) for match, path in found if match]
    return [path for _, path in sorted(steps, reverse=True)]


def _old(folder: Path) -> list[Path]:
    path = folder / _OLD
    return [path] if path.is_file() else []


def _remove(folder: Path, paths: Sequence[Path]) -> None:
    for path in [*paths, *(folder / FOLDER).glob("*.tmp")]:
        path.unlink(missing_ok=True)
    for tensors in (folder / FOLDER).glob("step-*.safetensors"):
        if not tensors.with_suffix(".json").exists():
            tensors.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = _read_old(path) if path.name == _OLD else json.loads(path.read_bytes())
    except (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        _say_unreadable(path, error)
        return None
    if not isinstance(content, dict) or set(content) != {"identity", "progress", "state", "sha256"}:
        _say_unreadable(path, ValueError("no checkpoint of kdpipe"))
        return None
    return content


def _read_old(path: Path) -> object:
    """What versions without safetensors wrote, state and all, in the form of a JSON of today."""
    content: object = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        return content
    return content | {"state": content.get("state") or None, "sha256": None}


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor] | None:
    try:
        packed = path.read_bytes()
        if hashlib.sha256(packed).hexdigest() != sha256:
            raise ValueError("torn: it has another digest than the JSON beside it says")
        return load(packed)
    except (OSError, ValueError, SafetensorError) as error:
        _say_unreadable(path, error)
        return None


def _say_unreadable(path: Path, error: Exception) -> None:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    logger.warning(
        "%s cannot be read (%s): taking the checkpoint before it, else starting anew", path, reason
    )


def _differing(content: Mapping[str, Any], identity: Mapping[str, object]) -> list[str]:
    found = content["identity"]
    expected = json.loads(json.dumps(dict(identity)))  # tuples are lists in the file
    return sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))


def _progress(content: Mapping[str, Any]) -> Progress:
    values = dict(content["progress"])
    values["points"] = [Point(**point) for point in values["points"]]
    return Progress(**values)
