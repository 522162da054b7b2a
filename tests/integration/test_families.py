"""The four published families in one `dvc repro`: each learns rooms, teaches, and has a student."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
TEACHERS = ["adabins-small", "bts-small", "depthformer-small", "zoedepth-small"]
STUDENT = "mobilenetv2-small"
ROOMS = {"train": 192, "val": 8, "test": 32, "pool": 0, "height": 144, "width": 192, "seed": 1}
FIT = {
    "height": 144,
    "width": 192,
    "batch_size": 8,
    "steps": 160,
    "validate_every": 160,
    "scale": [1.0, 1.0],
}
DISTILL = {**FIT, "batch_size": 2, "steps": 4, "validate_every": 4}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    for part in ("manifests", "pipeline"):
        shutil.copytree(PROJECT / part, folder / part)
    shutil.copytree(
        PROJECT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache")
    )
    shutil.copy(PROJECT / "dvc.yaml", folder)
    rooms = folder / "manifests/data/rooms.yaml"
    rooms.write_text(yaml.safe_dump({**yaml.safe_load(rooms.read_text()), "options": ROOMS}))
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params |= {
        "teachers": TEACHERS,
        "aux": [],
        "fit": dict.fromkeys(TEACHERS, FIT),
        "distill": {STUDENT: DISTILL},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_every_family_beats_the_median_map_and_teaches_a_student(project: Path) -> None:
    here = str(Path(sys.executable).parent)
    ended = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project,
        env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr

    evaluations = project / "artifacts/evaluations"
    errors = {}
    for teacher in TEACHERS:
        found = json.loads((evaluations / f"rooms_{teacher}/rooms-test-none.json").read_text())
        errors[teacher] = found["metrics"]["abs_rel"] / found["median"]["abs_rel"]
        student = f"rooms_{teacher}_{STUDENT}_tie-kd-corrected_s0"
        assert (evaluations / student / "rooms-test-none.json").is_file()
    assert all(ratio < 1 for ratio in errors.values()), errors
    report = (project / "artifacts/report/index.md").read_text()
    assert all(teacher in report for teacher in TEACHERS)
