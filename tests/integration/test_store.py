"""`kdpipe store` as a stranger types it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.plain_zarr import plain_zarr
from tests.toy_teacher import TEACHER, load_toy, make_photos

from kdpipe import teachers, teaching
from kdpipe.store import layout, open_store
from kdpipe.store.metadata import read_info
from kdpipe.teaching import Options
from kdpipe_stages import cli

STORE = layout.store_path("photos", TEACHER)
MANIFEST = layout.manifest_path("photos", TEACHER)
COMMANDS = ("info", "verify", "repair", "export", "import", "rm")


class Ended:
    """What a command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.errors = [line for line in err.splitlines() if line.startswith("kdpipe:")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 20 photos, one of them torn, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers, "load_teacher", load_toy)
    make_photos(20)
    Path("photos/0003.png").write_bytes(b"torn")
    teaching.run(TEACHER, "photos", options=Options(workers=0))
    return tmp_path


@pytest.fixture
def kdpipe(project: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs `kdpipe store …` in this process."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        status = cli.run(["store", *map(str, arguments)])
        return Ended(status, *capfd.readouterr())

    return run


def damage(name: str, shard: int) -> Path:
    """Changes the first byte of an array's shard."""
    file = read_info(STORE).file(STORE, name, shard)
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    return file


def test_every_command_explains_itself(kdpipe: Any) -> None:
    shown = kdpipe("--help")
    each = {name: kdpipe(name, "--help") for name in COMMANDS}

    assert [name for name in COMMANDS if f" {name} " not in shown.out] == []
    assert [name for name, one in each.items() if "--json" not in one.out or one.status] == []


def test_info_says_what_a_store_is(kdpipe: Any) -> None:
    text, values = kdpipe("info", STORE), json.loads(kdpipe("info", STORE, "--json").out)

    for part in (
        f"{TEACHER} (adabins, ",
        "weights     fitted, SHA-256 ",
        "20 of 20 rows, 3 of 3 shards of 8; 1 without depth",
        "depth       uint16 20x6x8, delta-pcodec: ",
        "log16: max_relative_error 0.001",
        "companded: max_root_error 0.00794",
        "no depth    0003: ",
        "batch_size  8",
    ):
        assert part in text.out
    assert values["summary"]["bad"] == 1
    assert values["identity"]["teacher"]["name"] == TEACHER
    assert {one["name"] for one in values["arrays"]} >= {"depth", "extent", "bins/codes"}
    assert kdpipe("info", "nowhere").errors == [
        "kdpipe: nowhere is no store of kdpipe: run `kdpipe teach` first"
    ]


def test_verify_names_what_is_broken_and_repair_mends_it(kdpipe: Any) -> None:
    sound = kdpipe("verify", STORE)
    before = {one: one.read_bytes() for one in STORE.rglob("*.*") if "ledger" not in str(one)}
    depth, edges = damage(layout.DEPTH, 0), damage(layout.BIN_EDGES, 2)
    broken_bytes = depth.read_bytes()

    glance, broken = kdpipe("verify", STORE, "--quick"), kdpipe("verify", STORE)
    said = kdpipe("verify", STORE, "--json")
    unchanged = depth.read_bytes() == broken_bytes
    mended, after = kdpipe("repair", STORE, "--json"), kdpipe("verify", STORE)

    assert (sound.status, glance.status, broken.status, after.status) == (0, 0, 1, 0)
    assert "3 of 3 shards are finished, 0 of them broken" in sound.out
    first, second, summary = broken.out.splitlines()
    assert first.startswith(f"{depth}: found SHA-256 ")
    assert second.startswith(f"{edges}: found SHA-256 ")
    assert all(", expected " in line for line in (first, second))
    assert "3 of 3 shards are finished, 2 of them broken" in summary
    assert broken.errors == [
        f"kdpipe: {STORE} has 2 problems, expected none, the first is {depth}: run `kdpipe store "
        f"repair {STORE}`"
    ]
    assert said.status == 1
    assert json.loads(said.out)["broken"] == [0, 2]
    assert unchanged
    assert json.loads(mended.out)["shards"] == [0, 2]
    assert mended.status == 0
    assert {one: one.read_bytes() for one in before} == before


def test_repair_says_what_it_leaves(kdpipe: Any) -> None:
    (STORE / "notes.txt").write_text("mine")
    damage(layout.DEPTH, 1)

    done = kdpipe("repair", STORE)

    assert done.status == 1
    assert "shards taught again: 1 (8 images)" in done.out
    assert "notes.txt is one of 1 files that kdpipe did not write" in done.errors[-1]


def test_rm_wants_a_yes(kdpipe: Any) -> None:
    unasked = kdpipe("rm", STORE)
    there = STORE.exists()
    done = kdpipe("rm", STORE, "--yes", "--json")

    assert (unasked.status, there) == (2, True)
    assert (done.status, STORE.exists(), MANIFEST.exists()) == (0, False, False)
    assert json.loads(done.out)["files"] > 10
    assert kdpipe("rm", STORE, "--yes").status == 1


@pytest.mark.parametrize(("answer", "status"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_on_a_terminal_rm_asks(answer: str, status: int, project: Path) -> None:
    ours, theirs = pty.openpty()

    code = "import sys; from kdpipe_stages.cli import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "store", "rm", str(STORE)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, answer.encode())
    out, err = process.communicate(timeout=300)
    os.close(ours)
    os.close(theirs)

    assert process.returncode == status, err
    assert "Remove artifacts/stores/photos" in err
    assert STORE.exists() == MANIFEST.exists() == bool(status)
    assert out.startswith("removed ") or status


@pytest.mark.parametrize("kind", ["tie-kd", "mm"])
def test_out_as_pictures_and_back(kind: str, kdpipe: Any) -> None:
    depth = open_store(STORE).depth(5)

    out = kdpipe("export", STORE, "-o", "out", "--format", kind, "--json")
    gone = kdpipe("rm", STORE, "--yes")
    back = kdpipe("import", "out", "--format", kind, "--data", "photos", "--teacher", TEACHER)
    info = kdpipe("info", STORE)

    assert (out.status, gone.status, back.status) == (0, 0, 0)
    assert (json.loads(out.out)["images"], json.loads(out.out)["bad"]) == (19, 1)
    assert "20 images imported, 0 kept, 1 without depth, 0 pictures of no row" in back.out
    quantum = json.loads(out.out)["quantum"]
    assert abs(open_store(STORE).depth(5) - depth).max() <= quantum + depth.max() * 1.001e-3
    assert "weights     imported from out, SHA-256 " in info.out
    assert f"imported    {kind} pictures" in info.out


def test_wrong_usage_exits_2(kdpipe: Any) -> None:
    assert kdpipe("export", STORE, "-o", "out", "--format", "jpeg").status == 2
    assert kdpipe("verify").status == 2
    assert kdpipe("verfy", STORE).status == 2


@pytest.mark.parametrize("opening", ["zarr.open_group", "xarray.open_zarr"])
def test_the_readme_gives_metres_without_kdpipe(opening: str, project: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    (lines,) = [one for one in blocks if opening in one]
    named: dict[str, Any] = {}

    with plain_zarr():
        exec(lines.replace("artifacts/stores/rooms/adabins-small.zarr", str(STORE)), named)
        metres = np.asarray(named["metres"])  # xarray reads only now

    np.testing.assert_allclose(metres, open_store(STORE).native_depth(7), rtol=1e-6)
