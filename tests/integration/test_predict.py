"""A student's ways out, `predict` and `export`, as they are typed."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from kdpipe.cards import load_student_card
from kdpipe.students import EXPORTS, build_network, save_student
from kdpipe_stages import cli

RUN = "rooms_none_mobilenetv2-small_none_s0"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one student and two photographs; logging is as it was before, after."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    card = load_student_card("mobilenetv2-small")
    folder = Path("artifacts/students") / RUN
    save_student(folder, build_network(card), card, "nyu", (32, 48))
    Path("photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(f"photos/{number}.jpg")
    level = logging.getLogger("kdpipe").level
    yield tmp_path
    logging.getLogger("kdpipe").setLevel(level)


def test_a_folder_of_photographs_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.run(["predict", "--run", RUN, "photos", "-o", "out"])

    said = capsys.readouterr()
    assert status == 0
    assert said.out == (
        "2 depth maps (PNG in millimetres, NPY in metres, colours 0 to 10 m), 0 images failed: "
        "out\n"
    )
    assert len(list(Path("out").iterdir())) == 7


def test_an_image_that_fails_is_named_and_the_status_is_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("photos/2.jpg").write_text("no image")

    status = cli.run(["predict", "--run", RUN, "photos", "-o", "out", "--json"])

    said = capsys.readouterr()
    values = json.loads(said.out)
    assert status == 1
    assert said.err.startswith("kdpipe: no depth: ")
    assert "2.jpg" in said.err
    assert said.err.count("\n") == 1
    assert sorted(values["images"].values()) == ["0", "1"]
    assert [Path(path).name for path in values["failed"]] == ["2.jpg"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["predict", "--run", "rooms", "photos", "-o", "out"], 1, f"Known: {RUN}."),
        (["predict", "--run", "photos", "photos", "-o", "out"], 1, "finished run"),
        (["predict", "--run", RUN, "artifacts", "-o", "out"], 1, "holds no image"),
        (["predict", "--run", RUN, "photos"], 2, "--output"),
        (["predict", "--run", RUN, "-o", "out"], 2, "IMAGE"),
        (["predict", "photos", "-o", "out"], 2, "--run"),
        (["predict", "--run", RUN, "photos", "-o", "out", "--colour-max", "0"], 2, "0.01"),
        (["export", "--run", "rooms"], 1, f"Known: {RUN}."),
        (["export", "--run", RUN, "--int8"], 1, "rooms"),
        (["export"], 2, "--run"),
        (["export", "--run", RUN, "--threads", "0"], 2, "threads"),
    ],
)
def test_a_wrong_wish_is_said_and_leaves_nothing(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = cli.run(arguments)

    said = capsys.readouterr()
    assert ended == status
    assert says in said.err
    assert not said.out
    if status == 1:
        assert said.err.startswith("kdpipe: ")
        assert said.err.count("\n") == 1
    assert not Path("out").exists()
    assert len(list((Path("artifacts/students") / RUN).iterdir())) == 2


def test_export_shows_both_engines_and_json_has_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = cli.run(["export", "--run", RUN, "--threads", "1"])
    table = capsys.readouterr()
    status = cli.run(["export", "--run", RUN, "--threads", "1", "--json"])
    values = json.loads(capsys.readouterr().out)

    assert shown == status == 0
    assert table.err == ""
    assert table.out.startswith("one image of 32x48, threads: 1\n  PyTorch, CPU ")
    assert "  onnxruntime, CPU " in table.out
    assert table.out.endswith(f"artifacts/students/{RUN}/model.onnx\n")
    assert set(values["latency"]) == {"PyTorch, CPU", "onnxruntime, CPU"}
    assert 0 <= values["max_deviation"] <= 1e-4
    assert values["int8"] is None


def test_dvc_does_not_see_what_export_wrote(project: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / ".dvcignore", project)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], check=True)
    folder = f"artifacts/students/{RUN}"
    files = [f"{folder}/{name}" for name in (*EXPORTS, "model.safetensors", "card.json")]

    shown = subprocess.run(
        [*dvc, "check-ignore", *files], capture_output=True, text=True, check=False
    )

    assert shown.stdout.splitlines() == [f"{folder}/{name}" for name in EXPORTS]
