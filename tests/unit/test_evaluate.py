"""Evaluate: whom it judges, on which images, and what it says beside the errors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from tests.unit.conftest import TEACHER, ToyProject

from kdpipe import evaluate
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import DataError, StaleStoreError, StoreError, UnknownNameError
from kdpipe.metrics.table import read_table
from kdpipe.rows import make_rows, write_rows
from kdpipe.store.layout import Run, evaluation_path, parse_run, rows_path

RUN = ToyProject.run.name


def test_a_student_is_judged_on_the_rows_of_the_split_that_have_truth(toy: ToyProject) -> None:
    toy.add_student(toy.run)

    done = evaluate.run(run=RUN)

    assert done.path == evaluation_path(RUN, "toy", "test", "none")
    summary = json.loads(done.path.read_text())
    assert summary == json.loads(json.dumps(asdict(done.summary)))
    assert (summary["images"], summary["skipped"]) == (3, 1)
    assert (summary["teacher"], summary["method"], summary["seed"]) == (TEACHER, "tie-kd", 1)
    assert summary["parameters"] > 1e5
    table = read_table(done.path.with_suffix(".parquet"))
    assert [one.row for one in table] == [3, 4, 5, 6]
    assert table[3].skipped == "no truth that counts"
    errors = [one.errors["abs_rel"] for one in table if one.errors is not None]
    assert summary["metrics"]["abs_rel"] == pytest.approx(np.mean(errors))


def test_a_second_time_gives_the_same_bytes(toy: ToyProject) -> None:
    toy.add_student(toy.run)
    first = evaluate.run(run=RUN, batch_size=2).path
    before = [path.read_bytes() for path in (first, first.with_suffix(".parquet"))]

    again = evaluate.run(run=RUN, batch_size=2).path

    assert [path.read_bytes() for path in (again, again.with_suffix(".parquet"))] == before


def test_mirrored_images_and_a_training_cut_short_are_told_apart(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    folder = toy.add_student(toy.run)
    plain = evaluate.run(run=RUN)
    before = plain.path.read_bytes()
    (folder / "metrics.json").write_text('{"finished": false, "steps": 3}')

    mirrored = evaluate.run(run=RUN, mirror=True)

    assert plain.path.read_bytes() == before
    assert mirrored.path == evaluation_path(RUN, "toy", "test", "none", mirror=True) != plain.path
    assert mirrored.summary.metrics != plain.summary.metrics
    assert (plain.summary.finished, mirrored.summary.finished) == (None, False)
    weights = (folder / "model.safetensors").read_bytes()
    assert mirrored.summary.weights_sha256 == hashlib.sha256(weights).hexdigest()
    (said,) = [one for one in caplog.messages if "in part" in one]
    assert said == f"{folder} was trained in part: run the same `kdpipe distill` to go on"


def test_the_size_of_a_batch_decides_speed_only(toy: ToyProject) -> None:
    toy.add_student(toy.run)
    one = evaluate.run(run=RUN, batch_size=1).summary.metrics

    assert evaluate.run(run=RUN, batch_size=3).summary.metrics == pytest.approx(one, rel=1e-4)


def test_the_median_of_the_train_images_stands_beside_the_student(toy: ToyProject) -> None:
    toy.add_student(toy.run)

    median = evaluate.run(run=RUN).summary.median

    usual = toy.truth_of(1)[:, 1:]  # the middle one of three
    truths = [toy.truth_of(number)[:, 1:] for number in (3, 4, 5)]
    expected = np.mean([np.mean(np.abs(usual - truth) / truth) for truth in truths])
    assert median is not None
    assert median["abs_rel"] == pytest.approx(expected, rel=2e-3)  # truth is in millimetres


def test_cells_that_no_image_knows_take_the_median_of_all(toy: ToyProject) -> None:
    usual = evaluate.median_map(toy.rows)

    assert usual is not None
    assert usual.shape == (toy.height, toy.width)
    assert usual[:, 0] == pytest.approx(np.median(toy.truth_of(1)[:, 1:]), abs=0.05)


def test_a_teacher_is_judged_straight_from_its_store(toy: ToyProject) -> None:
    toy.add_store(factor=1.1)

    done = evaluate.run(teacher=TEACHER, data="toy")

    assert done.path == evaluation_path(f"toy_{TEACHER}", "toy", "test", "none")
    assert done.summary.kind == "teacher"
    assert done.summary.images == 3
    assert done.summary.metrics["abs_rel"] == pytest.approx(
        0.1, abs=2e-3
    )  # the store's own bound: 1e-3


def test_several_teachers_are_judged_by_the_mean_of_their_logarithms(toy: ToyProject) -> None:
    """One is a tenth too far, the other as much too near; what one lacks is the other's."""
    toy.add_store(factor=1.1)
    toy.add_store(factor=1 / 1.1, teacher="bts-small", bad=[5])

    done = evaluate.run(teacher=f"{TEACHER}+bts-small", data="toy")

    table = read_table(done.path.with_suffix(".parquet"))
    found = [one.errors["abs_rel"] for one in table if one.errors is not None]
    assert done.path == evaluation_path(f"toy_{TEACHER}+bts-small", "toy", "test", "none")
    assert found == pytest.approx([0, 0, 0.1], abs=2e-3)  # the stores' own bound: 1e-3


def test_an_image_that_the_teacher_could_not_read_is_skipped_and_counted(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    toy.add_store(bad=[4])

    done = evaluate.run(teacher=TEACHER, data="toy")

    said = [line for line in caplog.messages if "not in these figures" in line]
    assert said == [
        "2 of 4 images of toy are not in these figures: 1 because of: the teacher could not read "
        "its image, 1 because of: no truth that counts"
    ]

    table = read_table(done.path.with_suffix(".parquet"))
    assert (done.summary.images, done.summary.skipped) == (2, 2)
    assert table[1].skipped == "the teacher could not read its image"


def test_pixels_that_the_teacher_does_not_know_do_not_count() -> None:
    truth = np.full((4, 6), 2, np.float32)
    depth = np.full((4, 6), 3, np.float32)
    depth[1, 2] = 0

    kept = evaluate.only_known(truth, depth)
    cut = evaluate.only_known(np.full((6, 8), 2, np.float32), depth)

    assert (kept == 0).sum() == 1
    assert kept[1, 2] == 0
    assert np.argwhere(cut == 0).tolist() == [[3, 3]]  # the frame is the lower middle


def test_an_unfinished_store_is_refused(toy: ToyProject) -> None:
    toy.add_store(taught=4)

    with pytest.raises(StoreError, match="no depth yet for 3 of 4 rows"):
        evaluate.run(teacher=TEACHER, data="toy")


def test_a_store_of_other_rows_is_refused(toy: ToyProject) -> None:
    toy.add_store()
    swapped = [*list(toy.rows)[1::-1], *list(toy.rows)[2:]]
    write_rows(rows_path("toy"), make_rows(toy.card, toy.rows.root, swapped))

    with pytest.raises(StaleStoreError, match=r"row 0 is '0', toy has '1'"):
        evaluate.run(teacher=TEACHER, data="toy")


@pytest.mark.parametrize(
    ("wish", "error", "says"),
    [
        pytest.param({"run": "toy_x_y_z_s0"}, UnknownNameError, RUN, id="run"),
        pytest.param({"run": "../toy"}, UnknownNameError, RUN, id="climbing-run"),
        pytest.param({"run": RUN, "data": "toi"}, UnknownNameError, "toy", id="data"),
        pytest.param({"run": RUN, "split": "val"}, DataError, "train", id="split"),
        pytest.param({"run": RUN, "protocol": "x"}, UnknownNameError, "garg", id="protocol"),
        pytest.param({"run": RUN, "protocol": "nyu-eigen"}, DataError, "480", id="small"),
        pytest.param({"teacher": TEACHER}, DataError, "data set", id="teacher-without-data"),
        pytest.param({"teacher": "x", "data": "toy"}, UnknownNameError, TEACHER, id="teacher"),
        pytest.param({"teacher": TEACHER, "data": "toy"}, StoreError, "teach", id="no-store"),
        pytest.param({}, DataError, "data set", id="nothing"),
    ],
)
def test_a_wrong_wish_is_one_line_and_writes_nothing(
    toy: ToyProject, wish: dict[str, Any], error: type[Exception], says: str
) -> None:
    toy.add_student(toy.run)

    with pytest.raises(error, match=says) as caught:
        evaluate.run(**wish)

    assert "\n" not in str(caught.value)
    assert not (toy.folder / "artifacts" / "evaluations").exists()


def test_a_split_where_nothing_counts_is_an_error(toy: ToyProject) -> None:
    toy.add_student(toy.run)
    rows = rows_of("toy")
    write_rows(rows_path("toy"), make_rows(replace(toy.card, max_depth=0.2), rows.root, rows))

    with pytest.raises(DataError, match="no image could be judged"):
        evaluate.run(run=RUN)


@pytest.mark.parametrize(
    ("aux", "mix", "ratio", "said"),
    [
        ((), "", None, "none"),
        (("pool",), "", 0.25, "pool@0.25"),
        (("pool", "more-pool"), "u-prime", 1 / 3, f"pool+more-pool@u-prime@{1 / 3}"),
        (("u",), "u", None, "u@u"),
    ],
)
def test_a_runs_name_is_read_back(
    aux: tuple[str, ...], mix: str, ratio: float | None, said: str
) -> None:
    more = {"aux": aux, "mix": mix, "ratio": ratio, "teacher": "a-b+c", "method": "tie-kd"}
    run = Run(data="my_photos", student="s", seed=12, **more)  # type: ignore[arg-type]

    assert parse_run(run.name) == run
    assert run.aux_said == said


@pytest.mark.parametrize("name", ["", "toy", "a_b_c_d", "a_b_c_d_7", "a_b_c_d_sx", "a@b_t_s_m_s0"])
def test_what_is_no_runs_name_is_none(name: str) -> None:
    assert parse_run(name) is None
