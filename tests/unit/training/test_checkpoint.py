from __future__ import annotations

import errno
import json
import logging
import math
import os
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdpipe.errors import TrainingError
from kdpipe.training import checkpoint
from kdpipe.training.checkpoint import Point, Progress, alone
from kdpipe.training.nested import join, split

IDENTITY = {"params": {"steps": 4, "scale": (1.0, 1.3)}, "seed": 0}
STATE = {"network": {"weight": torch.arange(3.0)}}


def progress(step: int = 3) -> Progress:
    point = Point(step=2, loss=0.5, learning_rate=1e-3, validation={"abs_rel": 0.2})
    return Progress(step=step, seconds=1.5, losses=[0.4], points=[point])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_is_saved_comes_back_and_all_but_two_go(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        checkpoint.save(tmp_path, IDENTITY, progress(step), STATE)

    found = checkpoint.load_last(tmp_path, IDENTITY)

    assert found is not None
    assert found[0] == progress(11)
    assert torch.equal(found[1]["network"]["weight"], torch.arange(3.0))
    assert files(tmp_path) == [
        *("step-10.json", "step-10.safetensors", "step-11.json", "step-11.safetensors")
    ]


def test_an_optimisers_state_comes_back_to_the_last_bit() -> None:
    images = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": images}, 7: {}},
        "param_groups": [{"betas": (0.1 + 0.2, 0.999), "lr": 1e-300, "foreach": None, "on": True}],
        "phases": [{"end": -math.inf}],
        "empty": torch.empty(0, 2, dtype=torch.bfloat16),
    }

    tensors, plain = split(state)
    back = join(tensors, plain)

    torch.testing.assert_close(back, state, rtol=0, atol=0, check_stride=True)
    with pytest.raises(TypeError, match=r"a\.b is a object"):
        split({"a": {"b": object()}})


@pytest.mark.parametrize("finished", [False, True])
def test_what_an_older_version_wrote_goes_on_or_stays_finished(
    finished: bool, tmp_path: Path
) -> None:
    plain = json.loads(json.dumps(IDENTITY))
    content = {
        "identity": plain,
        "progress": asdict(progress()),
        "state": {} if finished else STATE,
    }
    torch.save(content, tmp_path / "last.pt")

    done = checkpoint.load_finished(tmp_path, IDENTITY)
    found = checkpoint.load_last(tmp_path, IDENTITY)
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)

    assert done == (progress() if finished else None)
    assert (found is None) == finished
    if found is not None:
        assert found[0] == progress()
        assert torch.equal(found[1]["network"]["weight"], torch.arange(3.0))
    assert not (tmp_path / "last.pt").exists()


def test_another_training_s_checkpoint_is_named_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)

    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_last(tmp_path, {**IDENTITY, "seed": 1})

    assert found is None
    assert "another seed: starting anew" in caplog.text


class Code:
    """What an unsafe pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("step-3.json", b"", id="empty"),
        pytest.param("step-3.json", b"<html>not found</html>", id="html"),
        pytest.param("step-3.json", b"{}", id="no-checkpoint-of-ours"),
        pytest.param("step-3.json", b"\xff\xfe", id="no-text"),
        pytest.param("step-3.safetensors", pickle.dumps(Code(), protocol=2), id="code"),
        pytest.param("step-3.safetensors", None, id="truncated"),
        pytest.param("../last.pt", pickle.dumps(Code(), protocol=2), id="of-an-older-version"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line_and_nothing_of_it_runs(
    name: str,
    content: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoints" / name
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)
    if name.endswith(".pt"):
        checkpoint.clear(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)

    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_last(tmp_path, IDENTITY)

    assert found is None
    assert not Path("ran").exists()
    (record,) = caplog.records
    assert "starting anew" in record.message
    assert "\n" not in record.message
    checkpoint.clear(tmp_path)
    assert not path.exists()


def test_a_torn_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path: Path) -> None:
    for step in (3, 4):
        checkpoint.save(tmp_path, IDENTITY, progress(step), STATE)
    path = tmp_path / "checkpoints/step-4.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # a flipped bit, which the format does not see

    found = checkpoint.load_last(tmp_path, IDENTITY)

    assert found is not None
    assert found[0].step == 3


@pytest.mark.parametrize("name", ["step-9.safetensors", "step-9.json"])
def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(name: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)
    (tmp_path / "checkpoints" / f"{name}.tmp").symlink_to("/dev/full")

    with pytest.raises(OSError, match=rf"No space left on device.*{name}") as caught:
        checkpoint.save(tmp_path, IDENTITY, Progress(step=9), STATE)

    assert caught.value.errno == errno.ENOSPC
    found = checkpoint.load_last(tmp_path, IDENTITY)
    assert found is not None
    assert found[0] == progress()
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_write_that_the_disk_refuses_keeps_its_reason_through_torch(tmp_path: Path) -> None:
    def write(sink: checkpoint.Sink) -> None:
        sink.error = OSError(errno.ENOSPC, "No space left on device")
        raise RuntimeError("unexpected pos 832 vs 726")  # all that torch.save says of it

    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.write_whole(tmp_path / "x", write)

    assert list(tmp_path.iterdir()) == []


def test_the_weights_of_the_best_validation_are_kept(tmp_path: Path) -> None:
    points: list[Point] = []
    for step, error in enumerate((0.3, 0.2, 0.25, 0.2)):
        points.append(
            Point(step=step, loss=1, learning_rate=1, validation={"abs_rel": error, "rmse": 9})
        )
        checkpoint.save_best(tmp_path, {"step": torch.tensor(step)}, points)

    file = tmp_path / "checkpoints" / "best.safetensors"
    assert int(load_file(file)["step"]) == 1
    checkpoint.clear(tmp_path)
    written = set()
    for _ in range(8):  # the format does not sort what it is told beside the weights
        checkpoint.save_best(tmp_path, {"step": torch.tensor(1)}, points[:2])
        written.add(file.read_bytes())
    assert len(written) == 1


def test_a_finished_mark_is_no_state_to_go_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, IDENTITY, progress(), STATE)
    checkpoint.save(tmp_path, IDENTITY, progress(), {})

    assert checkpoint.load_finished(tmp_path, IDENTITY) == progress()
    assert checkpoint.load_finished(tmp_path, {"seed": 9}) is None
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_last(tmp_path, IDENTITY) is None
    assert "outputs are missing" in caplog.text
    assert files(tmp_path) == ["step-3.json"]


@pytest.mark.parametrize("finished", [False, True])
def test_what_a_killed_run_left_half_written_or_unneeded_goes(
    finished: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint.save(tmp_path, IDENTITY, progress(3), STATE)
    checkpoint.save(tmp_path, IDENTITY, progress(4), STATE)
    left = {path: path.read_bytes() for path in folder.iterdir()}
    if finished:
        checkpoint.save(tmp_path, IDENTITY, progress(4), {})
        for path, content in left.items():
            if path.name != "step-4.json":  # the mark, whose place it has
                path.write_bytes(content)
    (folder / "step-4.safetensors.tmp").write_bytes(b"half")

    if finished:
        assert checkpoint.load_finished(tmp_path, IDENTITY) == progress(4)
    else:
        checkpoint.save(tmp_path, IDENTITY, progress(4), STATE)

    assert files(tmp_path) == (["step-4.json"] if finished else sorted(p.name for p in left))


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


def test_a_loader_s_worker_that_outlives_its_training_keeps_nobody_out(tmp_path: Path) -> None:
    """After `kill -9` the workers of the loader notice it some seconds later."""
    folder, (end, start), (is_there, here) = tmp_path / "run", os.pipe(), os.pipe()
    with alone(folder):
        worker = os.fork()
        if worker == 0:
            os.close(start)
            os.write(here, b"!")
            os.read(end, 1)  # until the other end is closed
            os._exit(0)
        os.read(is_there, 1)

    try:
        with alone(folder):
            pass
    finally:
        os.close(start)
        os.waitpid(worker, 0)
