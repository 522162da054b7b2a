"""The report: its numbers follow from the evaluations, and it says what is missing."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.conftest import STUDENT, TEACHER, ToyProject

from kdpipe import audit, evaluate, report
from kdpipe.errors import DataError
from kdpipe.evaluate import Summary
from kdpipe.metrics import METRICS
from kdpipe.metrics.table import ImageErrors, write_summary, write_table
from kdpipe.report.board import read_boards
from kdpipe.report.pictures import pick
from kdpipe.report.sheets import Seen, depth_range, draw_sheet, relative_error
from kdpipe.report.tables import escape, lines_of, metrics_tree
from kdpipe.report.verdict import verdicts
from kdpipe.store.disk import as_json, write_atomically
from kdpipe.store.layout import Run, evaluation_path, student_dir, weights_path

ARMS = {
    "none": Run(data="toy", student=STUDENT, method="none"),
    "plain": Run(data="toy", teacher=TEACHER, student=STUDENT, method="tie-kd"),
    "both": Run(data="toy", teacher=f"{TEACHER}+other", student=STUDENT, method="tie-kd"),
    "more": Run(data="toy", aux=("pool",), mix="u-prime", student=STUDENT, method="none"),
    "aux": Run(data="toy", aux=("pool",), teacher=TEACHER, student=STUDENT, method="tie-kd"),
}


def _metrics(abs_rel: float) -> dict[str, float]:
    return {name: abs_rel if name == "abs_rel" else 0.5 for name in METRICS}


def _evaluated(run: str, abs_rel: float, **about: object) -> None:
    summary = Summary(
        run=run,
        kind="student",
        data="toy",
        split="test",
        protocol="none",
        protocol_says="every pixel",
        min_depth=0.1,
        max_depth=10.0,
        images=2,
        skipped=0,
        metrics=_metrics(abs_rel),
        median=_metrics(0.4),
        parameters=1_500_000,
    )
    summary = replace(summary, **about)  # type: ignore[arg-type]
    path = evaluation_path(run, "toy", "test", "none", mirror=bool(summary.mirror))
    errors = _metrics(abs_rel)
    rows = [ImageErrors(row=n, id=str(n), errors=errors) for n in (3, 4)]
    write_table(path.with_suffix(".parquet"), rows)
    write_summary(path, asdict(summary))


def _add_teacher(abs_rel: float = 0.1) -> None:
    _evaluated(f"toy_{TEACHER}", abs_rel, kind="teacher", teacher=TEACHER, parameters=None)


def _add_arm(arm: str, values: Sequence[float], steps: int = 600, **more: object) -> None:
    for seed, abs_rel in enumerate(values):
        run = replace(ARMS[arm], seed=seed)
        about = {
            "student": run.student,
            "teacher": run.teacher,
            "method": run.method,
            "aux": run.aux_said,
            "seed": seed,
            "trained_on": "toy",
            "mirror": False,
            **more,
        }
        _evaluated(run.name, abs_rel, **about)
        folder = student_dir(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"steps": steps, "seconds": 61.5}))


def test_a_student_that_was_trained_again_is_left_out_until_it_is_judged_again(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    was = hashlib.sha256(b"judged").hexdigest()
    _add_arm("none", [0.2, 0.2, 0.2], weights_sha256=was)
    _add_arm("plain", [0.1])  # judged by an older version: nobody can tell
    runs = [replace(ARMS["none"], seed=seed).name for seed in range(3)]
    for run, content in zip(runs, (b"judged", b"trained again"), strict=False):  # the third is gone
        (student_dir(run) / "model.safetensors").write_bytes(content)

    (board,) = read_boards()

    assert [one.seed for one in board.arms_of(STUDENT)[0].runs] == [0, 2]
    assert len(board.arms_of(STUDENT)) == 2
    assert f"run `kdpipe evaluate --run {runs[1]}` again" in caplog.text
    with pytest.raises(DataError, match="no evaluation of what is there now"):
        read_boards([runs[1]])


def test_gain_and_gap_follow_from_the_means_over_seeds(toy: ToyProject) -> None:
    _add_teacher(0.1)
    _add_arm("none", [0.19, 0.21])
    _add_arm("plain", [0.18, 0.18])
    _add_arm("aux", [0.15, 0.15])

    lines = {line.key: line for line in lines_of(read_boards()[0], {TEACHER: 7})}

    assert list(lines) == ["median", "teacher", "none", "tie-kd", "tie-kd+pool"]
    assert lines["none"].mean["abs_rel"] == pytest.approx(0.2)
    assert lines["none"].deviation["abs_rel"] == pytest.approx(0.02 / 2**0.5)
    assert lines["none"].gain is None
    assert lines["tie-kd"].gain == pytest.approx(0.1)
    gains = (1 - 0.18 / 0.19, 1 - 0.18 / 0.21)
    assert lines["tie-kd"].gain_deviation == pytest.approx((gains[1] - gains[0]) / 2**0.5)
    assert lines["tie-kd"].gap_closed == pytest.approx(0.2)
    assert lines["tie-kd+pool"].gain == pytest.approx(0.25)
    assert lines["tie-kd+pool"].gap_closed == pytest.approx(0.5)
    assert lines["teacher"].parameters == 7


def test_gain_and_gap_are_of_the_seeds_that_both_have(toy: ToyProject) -> None:
    _add_teacher(0.1)
    _add_arm("none", [0.2, 0.9])
    _add_arm("plain", [0.18])

    board = read_boards()[0]

    line = next(one for one in lines_of(board, {}) if one.key == "tie-kd")
    assert line.gain == pytest.approx(0.1)
    assert line.gain_deviation is None
    assert line.gap_closed == pytest.approx(0.2)
    assert any("AbsRel 0.1800 against 0.2000 (10 % lower" in one for one in verdicts(board))


def test_arms_of_other_teachers_and_other_mixes_stand_apart(toy: ToyProject) -> None:
    """Labels of further data sets are no baseline: it is of the labelled set alone."""
    _add_teacher(0.15)
    _evaluated("toy_other", 0.1, kind="teacher", teacher="other", parameters=None)
    for arm, value in (("none", 0.2), ("plain", 0.19), ("both", 0.18), ("more", 0.12)):
        _add_arm(arm, [value])

    lines = {line.key: line for line in lines_of(read_boards()[0], {})}

    assert list(lines)[2:] == [
        "none",
        "none+pool@u-prime",
        f"tie-kd {TEACHER}",
        f"tie-kd {TEACHER}+other",
    ]
    assert lines[f"tie-kd {TEACHER}+other"].who == f"tie-kd of {TEACHER} and other"
    assert lines[f"tie-kd {TEACHER}+other"].gain == pytest.approx(0.1)
    assert lines[f"tie-kd {TEACHER}+other"].gap_closed == pytest.approx(
        0.2
    )  # of the best teacher's
    assert lines["none+pool@u-prime"].gain == pytest.approx(0.4)


def test_arms_of_other_labels_stand_apart_and_further_images_are_no_other_teacher(
    toy: ToyProject,
) -> None:
    for arm in ("none", "plain", "aux"):
        _add_arm(arm, [0.2])
    elsewhere = Run(data="town", student=STUDENT, method="none")
    _evaluated(
        elsewhere.name, 0.3, student=STUDENT, method="none", seed=0, trained_on="town", mirror=False
    )

    keys = [line.key for line in lines_of(read_boards()[0], {})]

    assert sorted(keys[1:]) == ["none", "none on town", "tie-kd", "tie-kd+pool"]


def test_no_gap_is_closed_where_the_teacher_is_no_better(toy: ToyProject) -> None:
    _add_teacher(0.3)
    _add_arm("none", [0.2])
    _add_arm("plain", [0.1])

    lines = {line.key: line for line in lines_of(read_boards()[0], {})}

    assert lines["tie-kd"].gap_closed is None
    assert lines["tie-kd"].gain == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("none", "plain", "says"),
    [
        pytest.param([0.20, 0.21], [0.1, 0.11], "beats labels only", id="better"),
        pytest.param([0.20, 0.21], [0.1, 0.11], "more than twice its standard error", id="sure"),
        pytest.param([0.20, 0.24], [0.19, 0.23], "may be chance", id="unsure"),
        pytest.param([0.2], [0.1], "One seed is not enough", id="one-seed"),
        pytest.param([0.1, 0.11], [0.2, 0.21], "does not beat labels only", id="worse"),
        pytest.param([0.2], [0.2], "does not beat labels only", id="equal"),
        pytest.param([0.2], [0.45], "has not learned", id="worse-than-the-median"),
        pytest.param([], [0.2], "has no labels-only run", id="no-baseline"),
        pytest.param([0.2], [], "has no distilled run", id="no-distilled"),
        pytest.param([0.2], [0.2, 0.2], "different seeds", id="seeds"),
    ],
)
def test_the_page_says_what_the_numbers_say(
    toy: ToyProject, none: list[float], plain: list[float], says: str
) -> None:
    _add_teacher()
    _add_arm("none", none)
    _add_arm("plain", plain)

    assert any(says in one for one in verdicts(read_boards()[0]))


def test_unequal_steps_and_a_missing_teacher_are_said(toy: ToyProject) -> None:
    _add_arm("none", [0.2], steps=100)
    _add_arm("plain", [0.1], steps=200)

    said = " ".join(verdicts(read_boards()[0]))

    assert "differ in steps" in said
    assert "No teacher was evaluated" in said


def test_students_on_mirrored_images_have_a_board_of_their_own(toy: ToyProject) -> None:
    _add_teacher(0.1)
    _add_arm("none", [0.2])
    _add_arm("none", [0.18], mirror=True)
    _add_arm("plain", [0.15], mirror=True)

    plain, mirrored = read_boards()

    assert [one.run for one in plain.everyone] == [f"toy_{TEACHER}", ARMS["none"].name]
    assert {one.metrics["abs_rel"] for one in mirrored.everyone} == {0.1, 0.18, 0.15}
    tree = metrics_tree([*lines_of(plain, {}), *lines_of(mirrored, {})])
    assert set(tree) == {"toy-test-none", "toy-test-none-mirror"}
    assert mirrored.heading == "toy, test split, averaged with the mirrored images"
    assert pick(mirrored) == [3, 4]


def test_a_training_that_was_cut_short_is_marked(toy: ToyProject) -> None:
    _add_arm("none", [0.2, 0.2], finished=False)
    _add_arm("plain", [0.1], finished=True)
    (board,) = read_boards()

    who = [line.who for line in lines_of(board, {})]

    assert who[1:] == ["labels only, trained in part (2 of 2 seeds)", "tie-kd"]
    assert any("2 of 2 trainings were stopped before their last" in one for one in verdicts(board))


def test_nothing_evaluated_is_an_error(toy: ToyProject) -> None:
    with pytest.raises(DataError, match="kdpipe evaluate"):
        report.run()


def test_a_torn_evaluation_is_named(toy: ToyProject) -> None:
    _add_teacher()
    path = evaluation_path(f"toy_{TEACHER}", "toy", "test", "none")
    path.write_text(path.read_text()[:40])

    with pytest.raises(DataError, match=path.name):
        report.run()


def test_the_whole_report_of_real_evaluations(toy: ToyProject) -> None:
    toy.add_store(factor=1.05)
    for run in (toy.run, toy.baseline):
        folder = toy.add_student(run)
        curve = folder / "dvclive/plots/metrics/val/abs_rel.tsv"
        curve.parent.mkdir(parents=True)
        curve.write_text("step\tabs_rel\n10\t0.5\n20\t0.4\n")
        evaluate.run(run=run.name)
    evaluate.run(teacher=TEACHER, data="toy")
    audit.run(TEACHER, "toy")

    done = report.run()
    first = {p.name: p.read_bytes() for p in done.path.parent.rglob("*") if p.is_file()}
    report.run()

    text = done.path.read_text(encoding="utf-8")
    assert (done.boards, done.runs) == (1, 3)
    for name in ("results", "curves", "sheet"):
        picture = done.path.parent / f"{name}-toy-test-none-{STUDENT}.png"
        assert f"]({picture.name})" in text
        with Image.open(picture) as opened:
            assert min(opened.size) > 150
    numbers = json.loads((done.path.parent / "metrics.json").read_text())
    assert numbers["toy-test-none"][f"teacher {TEACHER}"]["abs_rel"] == pytest.approx(
        0.05, abs=2e-3
    )
    with (done.path.parent / "table.csv").open() as file:
        assert [line["arm"] for line in csv.DictReader(file)] == [
            "median",
            "teacher",
            "none",
            "tie-kd",
        ]
    assert (done.path.parent / "curves" / f"{toy.run.name}.csv").read_text().startswith("step,abs")
    assert "## Audit of the stores" in text
    assert str(toy.folder) not in text
    assert first == {p.name: p.read_bytes() for p in done.path.parent.rglob("*") if p.is_file()}


def test_a_student_that_is_gone_is_missing_from_the_sheet_and_said(toy: ToyProject) -> None:
    toy.add_store()
    evaluate.run(teacher=TEACHER, data="toy")
    _add_arm("none", [0.2])

    text = report.run().path.read_text(encoding="utf-8")

    assert "labels only is not shown" in text.replace("\\", "")


@pytest.mark.parametrize("hostile", ["<script>x</script>", "a|b", "[x](javascript:1)", "`x`"])
def test_names_are_harmless_on_the_page(hostile: str) -> None:
    shown = escape(hostile)

    assert "<" not in shown
    assert all(shown[shown.index(c) - 1] == "\\" for c in "|[`" if c in shown)


def test_the_scale_follows_the_truth_alone() -> None:
    truth = np.linspace(1.2, 4.7, 1000, dtype=np.float32).reshape(20, 50)
    truth[0, 0] = 0  # unknown

    assert depth_range([truth]) == (1.0, 5.0)
    assert depth_range([np.zeros((2, 2), np.float32)]) == (0.0, 1.0)


def test_errors_are_relative_and_unknown_where_either_is() -> None:
    truth = np.array([[2.0, 0.0, 4.0]], np.float32)
    depth = np.array([[3.0, 1.0, 0.0]], np.float32)

    error = relative_error(depth, truth)

    np.testing.assert_allclose(error, [[0.5, np.nan, np.nan]])


@pytest.mark.parametrize("shape", [(24, 32), (22, 76)], ids=["indoor", "street"])
def test_a_sheet_can_be_drawn_with_sparse_truth_and_a_missing_column(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(shape) < 0.05, 5, 0).astype(np.float32)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    depth = np.full(shape, 4, np.float32)
    seen = [Seen(name="$x_1$", image=image, truth=truth, depths={"a": depth})] * 2

    draw_sheet(tmp_path / "sheet.png", "cost: 5 $ or 6 $", ["a", "b"], seen)

    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size[0] > 300


def test_a_report_that_cannot_be_written_leaves_the_old_one_and_no_half(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_teacher()
    before = report.run().path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, "write_summary", full)  # the last of its files

    with pytest.raises(OSError, match="No space left"):
        report.run()

    assert (toy.folder / "artifacts/report/index.md").read_bytes() == before
    assert not list((toy.folder / "artifacts").glob(".report*"))


def test_two_reports_at_once_leave_each_other_alone(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_teacher()

    def again(*given: Any) -> None:
        monkeypatch.setattr(report, "write_summary", write_summary)
        report.run()  # another one begins and ends before this one has written its last file
        write_summary(*given)

    monkeypatch.setattr(report, "write_summary", again)

    done = report.run()

    assert {"index.md", "metrics.json"} <= {one.name for one in done.path.parent.iterdir()}
    assert not list((toy.folder / "artifacts").glob(".report*"))


def test_a_report_says_which_store_is_of_other_weights(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    _add_teacher()
    toy.add_store()
    write_atomically(weights_path("toy", TEACHER), as_json({"sha256": "f" * 64}))

    report.run()

    assert "of other weights than there are now" in caplog.text
