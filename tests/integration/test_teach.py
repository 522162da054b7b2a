"""`kdpipe teach` as a process: interrupted, and on Ray. What else happens to it: test_crash.py."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.toy_teacher import TEACHER, make_photos

from kdpipe import teachers
from kdpipe.cards import load_teacher_card
from kdpipe.store import layout, ledger, open_store
from kdpipe.store.disk import as_json
from kdpipe.store.verify import verify

ROOT = Path(__file__).parents[2]
STORE = layout.store_path("photos", TEACHER)
TOY = [sys.executable, "-m", "tests.toy_teacher", "--data", "photos", "--workers", "0"]
REAL = [sys.executable, "-c", "from kdpipe_stages.cli import main; main()", "teach"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, its path with a space."""
    folder = tmp_path / "a project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def start(command: list[str], *, seconds: float = 0.0) -> subprocess.Popen[str]:
    """Starts a process in its own group, as a terminal does.

    Args:
        command: with arguments.
        seconds: that the toy teacher takes for an image.
    """
    return subprocess.Popen(
        command,
        env={**os.environ, "TOY_SECONDS": str(seconds)},
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
        patch.setenv("PYTHONPATH", str(ROOT))
        make_photos(48)
        out, err = start(TOY).communicate(timeout=120)
        assert "48 images taught" in out, err
        return content()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_a_valid_part_and_goes_on(
    kind: signal.Signals, project: Path, expected: dict[str, object]
) -> None:
    make_photos(48)

    process = start(TOY, seconds=0.03)
    wait_for(lambda: len(ledger.finished(STORE)) > 0, process)
    os.killpg(process.pid, kind)
    _, err = process.communicate(timeout=60)
    part = ledger.finished(STORE)
    readable = [open_store(STORE).known(shard * 8) for shard in part]
    leftovers = [*(STORE / "claims").iterdir(), *(STORE / "work").iterdir()]
    rest = start(TOY)
    rest.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in err
    assert 0 < len(part) < 6
    assert all(readable)
    assert leftovers == []
    assert not rest.returncode
    assert content() == expected


def make_network() -> None:
    """A card and weights of an AdaBins so small that Ray's start is what takes the time."""
    card = json.loads(json.dumps(load_teacher_card(TEACHER).network))
    small = {**card, "features": 32, "embedding": 16, "patch": 4, "queries": 8, "bins": 8}
    folder = Path("manifests/teachers")
    folder.mkdir(parents=True)
    values = {
        "name": TEACHER,
        "family": "adabins",
        "network": {**small, "hidden_bins": 16, "feed_forward": 16},
        "bins": "companded",
    }
    (folder / f"{TEACHER}.yaml").write_bytes(as_json(values))  # JSON is YAML
    torch.manual_seed(0)
    network = teachers.build_network(load_teacher_card(TEACHER))
    torch.save(network.state_dict(), "toy.pt")


def make_big_photos(count: int) -> list[str]:
    """A data set for the real network; gives the command without its workers."""
    make_photos(count, sizes=((64, 64),))
    make_network()
    return [*REAL, "--teacher", TEACHER, "--data", "photos", "--checkpoint", "toy.pt"]


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ray_processes() -> list[str]:
    """Living processes of Ray that no living driver has started: their parents are gone."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            state, parent = rest.split()[:2]
            if state != "Z" and parent == "1" and ("(ray" in name or "(gcs_server" in name):
                found.append(name)
    return found


def owners() -> list[int]:
    """Processes that hold a claim."""
    claims = (STORE / "claims").glob("*.json") if STORE.exists() else ()
    return [int(json.loads(path.read_bytes())["pid"]) for path in claims]


@pytest.mark.slow
def test_on_ray_a_killed_worker_costs_its_shard_once_more_and_no_process_stays(
    project: Path,
) -> None:
    command = make_big_photos(100)
    alone = start([*command, "--workers", "0"])
    _, err = alone.communicate(timeout=120)
    assert alone.returncode == 0, err
    expected = content()
    shutil.rmtree(STORE)

    process = start([*command, "--workers", "2"])
    wait_for(lambda: len(ledger.finished(STORE)) > 0 and len(owners()) > 0, process)
    workers = owners()
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=240)

    assert process.returncode == 0, err
    assert "100 images taught" in out
    assert content() == expected
    assert not any(map(is_alive, workers))
    runs = [ledger.read_record(STORE, shard) for shard in ledger.finished(STORE)]
    pids = {one.environment["pid"] for one in runs if one is not None}
    assert process.pid not in pids
    assert len(pids) >= 2


@pytest.mark.slow
def test_on_ray_an_interrupt_stops_every_worker_and_gives_its_claims_back(project: Path) -> None:
    command = make_big_photos(200)

    before = ray_processes()
    process = start([*command, "--workers", "1"])
    wait_for(lambda: len(ledger.finished(STORE)) > 0 and len(owners()) > 0, process)
    workers = owners()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not any(map(is_alive, workers))
    assert set(ray_processes()) <= set(before)
    assert owners() == []
    assert verify(STORE).problems == ()
    assert open_store(STORE).known(ledger.finished(STORE)[0] * open_store(STORE).info.shard_rows)
