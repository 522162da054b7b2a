"""`kdpipe teach` as a process: interrupted. What else happens to it: test_crash.py, test_ray.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.toy_teacher import TEACHER, load_toy, make_photos

from kdpipe import teachers
from kdpipe.store import layout, ledger, open_store
from kdpipe_stages import cli

ROOT = Path(__file__).parents[2]
STORE = layout.store_path("photos", TEACHER)
TOY = [sys.executable, "-m", "tests.toy_teacher", "--data", "photos", "--workers", "0"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, its path with a space."""
    folder = tmp_path / "a project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def start(command: list[str], *, stares_at: int = -1) -> subprocess.Popen[str]:
    """Starts a process in its own group, as a terminal does.

    Args:
        command: with arguments.
        stares_at: number of the photo from which the toy teacher does not look up.
    """
    return subprocess.Popen(
        command,
        env={**os.environ, "TOY_STARES_AT": str(stares_at)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def content() -> dict[str, object]:
    """Every array's bytes, the manifest's, and the ledger but for its environment."""
    files: dict[str, object] = {
        str(path.relative_to(STORE)): path.read_bytes()
        for path in STORE.rglob("*")
        if path.is_file() and path.parent.name != "ledger" and path.suffix != ".tmp"
    }
    for shard in ledger.finished(STORE):
        record = ledger.read_record(STORE, shard)
        assert record is not None
        files[f"ledger {shard}"] = record.digest
    manifest = layout.manifest_path("photos", TEACHER)
    files["manifest"] = manifest.read_bytes() if manifest.exists() else None
    return files


def wait_for(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits while the process lives."""
    while not done():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one run without trouble writes of 48 photos, elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("uninterrupted"))
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        make_photos(48)
        out, err = start(TOY).communicate(timeout=300)
        assert "48 images taught" in out, err
        return content()


@pytest.mark.parametrize(
    "kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted_it_leaves_a_valid_part_and_goes_on(
    kind: signal.Signals, project: Path, expected: dict[str, object]
) -> None:
    make_photos(48)

    process = start(TOY, stares_at=12)
    wait_for(lambda: len(ledger.finished(STORE)) > 0, process)
    os.killpg(process.pid, kind)
    _, err = process.communicate(timeout=300)
    part = ledger.finished(STORE)
    readable = [open_store(STORE).known(shard * 8) for shard in part]
    leftovers = [*(STORE / "claims").iterdir(), *(STORE / "work").iterdir()]
    rest = start(TOY)
    rest.communicate(timeout=300)

    assert process.returncode == 130
    assert "Traceback" not in err
    assert part == [0]
    assert all(readable)
    assert leftovers == []
    assert not rest.returncode
    assert content() == expected


@pytest.mark.parametrize(
    ("shards", "status", "said"),
    [
        ("0:4", 1, "shards 0:4 asked for, {store} has 0:3: give a range inside it"),
        ("3:4", 1, "shards 3:4 asked for, {store} has 0:3: give a range inside it"),
        ("1:1", 1, "shards 1:1 asked for, {store} has 0:3: give a range inside it"),
        ("2:1", 1, "shards 2:1 asked for, {store} has 0:3: give a range inside it"),
        ("1", 2, "found '1', expected A:B, e.g. 0:4"),
        ("1:", 2, "found '1:', expected A:B, e.g. 0:4"),
        ("-1:2", 2, "found '-1:2', expected A:B, e.g. 0:4"),
        ("a:b", 2, "found 'a:b', expected A:B, e.g. 0:4"),
        ("1:2:3", 2, "found '1:2:3', expected A:B, e.g. 0:4"),
    ],
)
def test_a_range_that_is_none_is_one_line(
    shards: str,
    status: int,
    said: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(teachers, "load_teacher", load_toy)
    make_photos(20)
    given = ["--teacher", TEACHER, "--data", "photos", "--workers", "0", "--shards", shards]

    ended = cli.run(["teach", *given])

    err = capfd.readouterr().err
    lines = [one for one in err.splitlines() if said.format(store=STORE) in one]
    assert ended == status
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert ledger.finished(STORE) == []
