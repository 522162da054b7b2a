from __future__ import annotations

import errno
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from kdpipe.errors import TrainingError
from kdpipe.training import checkpoint
from kdpipe.training.checkpoint import Point, Progress, alone

IDENTITY = {"params": {"steps": 4, "scale": (1.0, 1.3)}, "seed": 0}
STATE = {"network": {"weight": torch.arange(3.0)}}


def progress() -> Progress:
    point = Point(step=2, loss=0.5, learning_rate=1e-3, validation={"abs_rel": 0.2})
    return Progress(step=3, seconds=1.5, losses=[0.4], points=[point])


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)

    found = checkpoint.load(tmp_path, IDENTITY)

    assert found is not None
    assert found[0] == progress()
    assert torch.equal(found[1]["network"]["weight"], torch.arange(3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_another_training_s_checkpoint_is_named_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)

    with caplog.at_level(logging.WARNING):
        found = checkpoint.load(tmp_path, {**IDENTITY, "seed": 1})

    assert found is None
    assert "another seed: starting anew" in caplog.text


class Code:
    """What an unsafe pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>not found</html>", id="html"),
        pytest.param(pickle.dumps(Code(), protocol=2), id="code"),
        pytest.param(None, id="truncated"),
        pytest.param("other", id="no-checkpoint-of-ours"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line_and_nothing_of_it_runs(
    content: bytes | str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.pt"
    if content is None:
        checkpoint.save(tmp_path, IDENTITY, progress(), STATE)
        path.write_bytes(path.read_bytes()[:-200])
    elif isinstance(content, str):
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        found = checkpoint.load(tmp_path, IDENTITY)

    assert found is None
    assert not Path("ran").exists()
    (record,) = caplog.records
    assert "starting anew" in record.message
    assert "\n" not in record.message


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)
    before = (tmp_path / "last.pt").read_bytes()

    def refuse(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"No space left on device.*last\.pt") as caught:
        checkpoint.save(tmp_path, IDENTITY, Progress(), STATE)

    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_write_that_the_disk_refuses_keeps_its_reason_through_torch(tmp_path: Path) -> None:
    def write(sink: checkpoint.Sink) -> None:
        sink.error = OSError(errno.ENOSPC, "No space left on device")
        raise RuntimeError("unexpected pos 832 vs 726")  # all that torch.save says of it

    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.write_whole(tmp_path / "x", write)

    assert list(tmp_path.iterdir()) == []


def test_a_finished_mark_is_no_state_to_go_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, IDENTITY, progress(), {})

    assert checkpoint.load_finished(tmp_path, IDENTITY) == progress()
    assert checkpoint.load_finished(tmp_path, {"seed": 9}) is None
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(tmp_path, IDENTITY) is None
    assert "outputs are missing" in caplog.text


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    with (
        alone(folder),
        pytest.raises(TrainingError, match="is being trained by another process"),
        alone(folder),
    ):
        pass
    with alone(folder):
        pass
