"""`kdpipe` with its stores on S3, by changing one line of params.yaml."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from safetensors.torch import load_file
from tests.s3_server import BUCKET, Server
from tests.toy_teacher import TEACHER, load_toy, make_photos

from kdpipe import distill, teachers, teaching
from kdpipe.params import Params, TrainParams
from kdpipe.store import Store, layout, ledger, open_store, s3
from kdpipe.store.verify import verify
from kdpipe.teaching import Options, pool
from kdpipe_stages import cli

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.store.s3 import S3Path
    from kdpipe.teaching.worker import Assignment

ROOT = Path(__file__).parents[2]
URL = f"s3://{BUCKET}/stores/photos/{TEACHER}.zarr"
MANIFEST = layout.manifest_path("photos", TEACHER)
STUDENT = "mobilenetv2-small"
MakeRows = Callable[..., "Rows"]
MakeStore = Callable[..., Store]


def root(where: str | None, shard_rows: int = 8) -> None:
    """Writes params.yaml."""
    line = "" if where is None else f", root: '{where}'"
    Path("params.yaml").write_text(f"store: {{shard_rows: {shard_rows}{line}}}\n")


def teach(**options: Any) -> teaching.Done:
    return teaching.run(TEACHER, "photos", options=Options(workers=0, **options))


def objects() -> dict[str, bytes]:
    """All of the store but for the ledger, whose records name the time."""
    store = cast("S3Path", layout.store_path("photos", TEACHER))
    found = {one.path.relative_to(store).as_posix(): one.path for one in s3.listed(store)}
    return {k: v.read_bytes() for k, v in found.items() if not k.startswith("ledger")}


@pytest.fixture
def project(s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Twenty photos in the working folder; stores are on S3."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(teachers, "load_teacher", load_toy)
    make_photos(20)
    root(f"s3://{BUCKET}/stores")
    return s3_server


@pytest.mark.slow
def test_teach_and_the_commands_on_its_store(
    project: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    done = teach()
    assert (str(done.path), done.manifest, done.written) == (URL, MANIFEST, 20)
    assert teach().written == 0
    assert layout.all_stores() == [done.path]
    whole, manifest = objects(), MANIFEST.read_bytes()

    assert cli.run(["store", "info", URL]) == 0
    assert "20 of 20 rows, 3 of 3 shards" in capfd.readouterr().out
    s3.replace(cast("S3Path", done.path / "depth/c.1.0.0"), b"broken")
    assert cli.run(["store", "verify", "--quick", URL]) == 1
    assert f"run `kdpipe store repair {URL}`" in capfd.readouterr().err
    assert cli.run(["store", "repair", URL, "--device", "cpu"]) == 0
    assert cli.run(["store", "verify", URL]) == 0
    assert objects() == whole
    assert MANIFEST.read_bytes() == manifest
    assert cli.run(["audit", "--teacher", TEACHER, "--data", "photos"]) == 0
    assert cli.run(["store", "rm", "--yes", URL]) == 0
    assert (objects(), MANIFEST.exists()) == ({}, False)


@pytest.mark.slow
def test_a_killed_teach_goes_on_and_ends_as_one_that_was_not(project: Server) -> None:
    command = [sys.executable, "-m", "tests.toy_teacher", "--data", "photos", "--workers", "0"]
    store = layout.store_path("photos", TEACHER)
    victim = subprocess.Popen(
        command, env={**os.environ, "TOY_STARES_AT": "12"}, stderr=subprocess.DEVNULL
    )
    patience = time.monotonic() + 300
    while not ledger.finished(store) and time.monotonic() < patience:
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()

    done = teach()

    assert done.kept == 8
    assert verify(store).problems == ()
    resumed = objects()
    root(f"s3://{BUCKET}/others")
    teach()
    assert objects() == resumed


@pytest.mark.parametrize("at", [2, 14])
def test_a_teach_that_loses_the_server_says_so_in_one_line_and_goes_on(
    at: int, project: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["teach", "--teacher", TEACHER, "--data", "photos", "--workers", "0"]
    project.gate.breaks(range(at, 10_000))

    assert cli.run(command) == 1

    said = [one for one in capfd.readouterr().err.splitlines() if one.startswith("kdpipe:")]
    assert len(said) == 1
    assert f"S3 at {project.gate.address} does not answer" in said[0]
    project.gate.mend()
    assert cli.run(command) == 0
    assert verify(layout.store_path("photos", TEACHER)).problems == ()


def test_teach_refuses_a_server_that_would_let_two_write_one_shard(
    project: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_checked", set())
    project.gate.forgets_conditions = True

    assert cli.run(["teach", "--teacher", TEACHER, "--data", "photos", "--workers", "0"]) == 1

    assert "ignores conditional writes" in capfd.readouterr().err
    assert objects() == {}


@pytest.mark.slow
def test_a_student_learns_from_a_store_on_s3_what_it_learns_from_a_disk(
    s3_server: Server, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    short = TrainParams(height=32, width=48, batch_size=2, steps=2, validate_every=2)
    rows, weights = make_tiny(), list[dict[str, torch.Tensor]]()
    for where in (None, f"s3://{BUCKET}/stores"):
        root(where)
        store = make_tiny_store(rows)
        assert isinstance(store.path, s3.S3Path) == (where is not None)
        done = distill.run(
            STUDENT,
            "tiny",
            teacher=TEACHER,
            method="tie-kd-corrected",
            params=Params(distill={STUDENT: short}),
            device="cpu",
        )
        assert done.finished
        weights.append(load_file(done.path / "model.safetensors"))
        shutil.rmtree(done.path)

    disk, remote = weights
    assert all(torch.equal(disk[name], remote[name]) for name in disk)


class ToyActor(pool._Actor):
    """With the toy in every network's place."""

    def __init__(self, assignment: Assignment) -> None:
        teachers.load_teacher = load_toy
        super().__init__(assignment)


@pytest.mark.slow
def test_ray_workers_write_their_own_shards(
    project: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_Actor", ToyActor)

    done = teaching.run(TEACHER, "photos", options=Options(workers=2))

    assert (done.written, dict(done.bad)) == (20, {})
    assert verify(done.path).problems == ()
    assert open_store(URL).finished.all()
