"""`dvc repro` over a small copy of the project: all of it, then nothing, then only what changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
STUDENT = "mobilenetv2-small"
TRAINING = {"height": 144, "width": 192, "batch_size": 2, "steps": 6, "validate_every": 3}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project under a path with a space, with two dozen small rooms and a few steps."""
    folder = tmp_path_factory.mktemp("a project") / "kd pipe"
    for part in ("manifests", "pipeline"):
        shutil.copytree(PROJECT / part, folder / part)
    shutil.copytree(
        PROJECT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache")
    )
    shutil.copy(PROJECT / "dvc.yaml", folder)
    small = {"train": 8, "val": 4, "test": 4, "pool": 0, "height": 144, "width": 192, "seed": 1}
    for name, counts in (
        ("rooms", {}),
        ("rooms-pool", {"train": 0, "val": 0, "test": 0, "pool": 8}),
    ):
        path = folder / "manifests/data" / f"{name}.yaml"
        card = yaml.safe_load(path.read_text())
        card["options"] = {**small, **counts}
        path.write_text(yaml.safe_dump(card))
    write_params(folder, TRAINING)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def write_params(folder: Path, distill: dict[str, Any]) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["store"]["shard_rows"] = 4
    params["fit"] = {params["teachers"][0]: TRAINING}
    params["distill"] = {STUDENT: distill}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def dvc(folder: Path, *arguments: str) -> str:
    """Runs dvc as `make demo` does and gives what it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def environment() -> dict[str, str]:
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}


def ran(printed: str) -> list[str]:
    """Names of the stages that dvc says it ran, without the matrix."""
    lines = [line for line in printed.splitlines() if line.startswith("Running stage")]
    return [line.split("'")[1].split("@")[0] for line in lines]


def test_all_then_nothing_then_only_what_changed(project: Path) -> None:
    everything = ran(dvc(project, "repro"))
    nothing = ran(dvc(project, "repro"))
    write_params(project, {**TRAINING, "steps": 4})
    changed = ran(dvc(project, "repro"))

    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    assert sorted(everything) == sorted(stages)
    assert nothing == []
    arms = ["baseline", "distill", "distill-aux"]
    evaluations = ["evaluate-baseline", "evaluate-distill", "evaluate-distill-aux"]
    assert sorted(changed) == sorted([*arms, *evaluations, "report"])
    assert (project / "artifacts/report/index.md").is_file()


def test_metrics_and_plots_are_shown(project: Path) -> None:
    if not (project / "artifacts/report").is_dir():
        dvc(project, "repro")

    assert "abs_rel" in dvc(project, "metrics", "show")
    dvc(project, "plots", "show", "-o", "plots")
    assert "abs_rel" in (project / "plots/index.html").read_text()


def test_a_killed_distill_goes_on_under_dvc(project: Path) -> None:
    write_params(project, {**TRAINING, "steps": 40, "validate_every": 2})
    run = project / "artifacts/students" / f"rooms_none_{STUDENT}_none_s0"
    target = f"baseline@rooms-{STUDENT}-0"
    before = time.time()
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", target],
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        while not any(one.stat().st_mtime > before for one in run.glob("checkpoints/step-*.json")):
            assert running.poll() is None, "it ended before it wrote a checkpoint"
            assert time.time() < before + 300
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    assert list(run.glob("checkpoints/step-*.json"))

    write_params(project, {**TRAINING, "steps": 40, "validate_every": 2})
    ended = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", target],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "going on from step" in ended.stderr + ended.stdout
