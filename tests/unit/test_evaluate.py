"""Evaluate: whom it judges, on which images, and what it says beside the errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from kdpipe import evaluate
from kdpipe.cards import DataCard, load_student_card
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import DataError, UnknownNameError
from kdpipe.metrics.table import read_table
from kdpipe.rows import Row, make_rows, write_rows
from kdpipe.store.layout import Run, evaluation_path, rows_path, student_dir
from kdpipe.students import build_network, save_student

if TYPE_CHECKING:
    from kdpipe.types import Depth

H, W = 32, 48
CARD = DataCard(name="toy", family="folder", domain="nyu", min_depth=0.1)
RUN = Run(data="toy", teacher="wise", student="mobilenetv2-small", method="tie-kd", seed=1)


def truth_of(number: int) -> Depth:
    """Metres (H, W): a ramp, 1 m further with each image; left column unknown."""
    depth = np.linspace(1, 3, W)[None].repeat(H, 0) + number
    depth[:, 0] = 0
    return depth.astype(np.float32)


def add_toy(folder: Path) -> None:
    """Six images with truth (train 0-2, test 3-5), one test image without any valid pixel."""
    rng = np.random.default_rng(0)
    rows = []
    (folder / "toy").mkdir()
    for number in range(8):
        image = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "toy" / f"{number}.png")
        truth = truth_of(number) if number < 6 else np.zeros((H, W))
        Image.fromarray((truth * 1000).astype(np.uint16)).save(folder / "toy" / f"{number}_d.png")
        row = Row(
            id=str(number),
            split="train" if number < 3 else "test",
            image=f"{number}.png",
            truth=f"{number}_d.png" if number < 7 else None,
            truth_scale=1e-3,
            image_height=H,
            image_width=W,
            height=H,
            width=W,
        )
        rows.append(row)
    write_rows(rows_path("toy"), make_rows(CARD, Path("toy"), rows))


def add_student(run: Run) -> None:
    torch.manual_seed(run.seed)
    card = load_student_card("mobilenetv2-small")
    network = build_network(card, bins_domain="nyu")
    save_student(student_dir(run.name), network, card, "nyu", (H, W))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    add_toy(tmp_path)
    return tmp_path


def test_a_student_is_judged_on_the_rows_of_the_split_that_have_truth(toy: Path) -> None:
    add_student(RUN)

    done = evaluate.run(run=RUN.name)

    assert done.path == evaluation_path(RUN.name, "toy", "test", "none")
    summary = json.loads(done.path.read_text())
    assert summary == done.summary
    assert (summary["images"], summary["skipped"]) == (3, 1)
    assert (summary["teacher"], summary["method"], summary["seed"]) == ("wise", "tie-kd", 1)
    assert summary["parameters"] > 1e5
    table = read_table(done.path.with_suffix(".parquet"))
    assert [one.row for one in table] == [3, 4, 5, 6]
    assert table[3].skipped == "no truth that counts"
    errors = [one.errors["abs_rel"] for one in table if one.errors is not None]
    assert summary["metrics"]["abs_rel"] == pytest.approx(np.mean(errors))


def test_a_second_time_gives_the_same_bytes(toy: Path) -> None:
    add_student(RUN)
    first = evaluate.run(run=RUN.name, batch_size=2).path
    before = [path.read_bytes() for path in (first, first.with_suffix(".parquet"))]

    again = evaluate.run(run=RUN.name, batch_size=2).path

    assert [path.read_bytes() for path in (again, again.with_suffix(".parquet"))] == before


def test_the_size_of_a_batch_decides_speed_only(toy: Path) -> None:
    add_student(RUN)
    one = evaluate.run(run=RUN.name, batch_size=1).metrics

    assert evaluate.run(run=RUN.name, batch_size=3).metrics == pytest.approx(one, rel=1e-4)


def test_the_median_of_the_train_images_stands_beside_the_student(toy: Path) -> None:
    add_student(RUN)

    median = evaluate.run(run=RUN.name).summary["median"]

    usual = truth_of(1)[:, 1:]  # the middle one of three
    expected = np.mean(
        [np.mean(np.abs(usual - t) / t) for t in (truth_of(n)[:, 1:] for n in (3, 4, 5))]
    )
    assert isinstance(median, dict)
    assert median["abs_rel"] == pytest.approx(expected, rel=2e-3)  # truth is in millimetres


def test_cells_that_no_image_knows_take_the_median_of_all(toy: Path) -> None:
    usual = evaluate.median_map(rows_of("toy"))

    assert usual is not None
    assert usual.shape == (H, W)
    assert usual[:, 0] == pytest.approx(np.median(truth_of(1)[:, 1:]), abs=0.05)


@pytest.mark.parametrize(
    ("wish", "error", "says"),
    [
        pytest.param({"run": "toy_x_y_z_s0"}, UnknownNameError, RUN.name, id="run"),
        pytest.param({"run": "../toy"}, UnknownNameError, RUN.name, id="climbing-run"),
        pytest.param({"run": RUN.name, "data": "toi"}, UnknownNameError, "toy", id="data"),
        pytest.param({"run": RUN.name, "split": "val"}, DataError, "train", id="split"),
        pytest.param({"run": RUN.name, "protocol": "x"}, UnknownNameError, "garg", id="protocol"),
        pytest.param({"run": RUN.name, "protocol": "nyu-eigen"}, DataError, "480", id="small"),
        pytest.param({"teacher": "wise"}, DataError, "data set", id="teacher-without-data"),
        pytest.param({"teacher": "wise", "data": "toy"}, UnknownNameError, "'wise'", id="teacher"),
        pytest.param({}, DataError, "data set", id="nothing"),
    ],
)
def test_a_wrong_wish_is_one_line_and_writes_nothing(
    toy: Path, wish: dict[str, str], error: type[Exception], says: str
) -> None:
    add_student(RUN)

    with pytest.raises(error, match=says) as caught:
        evaluate.run(**wish)  # type: ignore[arg-type]

    assert "\n" not in str(caught.value)
    assert not (toy / "artifacts" / "evaluations").exists()


def test_a_split_where_nothing_counts_is_an_error(toy: Path) -> None:
    add_student(RUN)
    rows = rows_of("toy")
    write_rows(rows_path("toy"), make_rows(replace(CARD, max_depth=0.2), rows.root, rows))

    with pytest.raises(DataError, match="no image could be judged"):
        evaluate.run(run=RUN.name)
