from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdpipe import distill
from kdpipe.cards import DataCard, load_method, load_student_card
from kdpipe.codecs import Companded, LogBinomial
from kdpipe.errors import (
    CardError,
    DataError,
    DeviceError,
    StaleStoreError,
    StoreError,
    TrainingError,
    UnknownNameError,
)
from kdpipe.params import Params, TrainParams
from kdpipe.rows import Rows, read_rows
from kdpipe.store import Store, layout
from kdpipe.students import load_student
from kdpipe.training.methods import check_bins, check_range

STUDENT = "mobilenetv2-small"
TEACHER = "adabins-small"
SHORT = TrainParams(height=32, width=48, batch_size=2, steps=4, validate_every=2)
PARAMS = Params(distill={STUDENT: SHORT})

MakeRows = Callable[..., Rows]
MakeStore = Callable[..., Store]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_student_learns_from_store_and_pool(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows, pool = make_tiny(), make_tiny("pool", train=4, val=0, labelled=False, first=50)
    make_tiny_store(rows)
    make_tiny_store(pool)

    done = distill.run(
        STUDENT,
        "tiny",
        teacher=TEACHER,
        aux=["pool"],
        method="tie-kd-corrected",
        params=PARAMS,
        device="cpu",
    )

    assert done.run == f"tiny+pool_{TEACHER}_{STUDENT}_tie-kd-corrected_s0"
    assert done.finished
    said = json.loads((done.path / "metrics.json").read_text())
    assert (said["steps"], said["labelled_images"], said["aux_images"]) == (4, 6, 4)
    assert set(done.metrics) == {"abs_rel", "delta1", "rmse"}
    curve = (done.path / "dvclive/plots/metrics/val/abs_rel.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in curve] == ["step", "2", "4"]
    student = load_student(done.path)
    assert student.size == (32, 48)
    left = {path.name for path in (done.path / "checkpoints").iterdir()}
    assert left - {"best.safetensors"} == {"step-4.json"}


@pytest.mark.parametrize(
    ("mix", "ratio", "method", "name", "seen"),
    [
        ("x", None, "hu", "tiny", (6, 0)),
        ("u", None, "res-kd-si", "tiny+pool@u", (0, 4)),
        ("x+u", 0.25, "hu", "tiny+pool@0.25", (6, 4)),
        ("x+u-prime", None, "none", "tiny+pool@u-prime", (6, 4)),
    ],
)
def test_the_four_mixes_learn_from_what_they_say(
    mix: str,
    ratio: float | None,
    method: str,
    name: str,
    seen: tuple[int, int],
    make_tiny: MakeRows,
    make_tiny_store: MakeStore,
) -> None:
    for rows in (make_tiny(), make_tiny("pool", train=4, val=0, labelled=mix[-1] == "e", first=50)):
        if (mix, rows.name) != ("u", "tiny"):  # of which only truth is read
            make_tiny_store(rows)
    teacher = None if method == "none" else TEACHER

    done = distill.run(
        STUDENT,
        "tiny",
        teacher=teacher,
        aux=[] if mix == "x" else ["pool"],
        mix=mix,
        ratio=ratio,
        method=method,
        params=PARAMS,
        device="cpu",
    )

    assert done.run == f"{name}_{teacher or 'none'}_{STUDENT}_{method}_s0"
    said = json.loads((done.path / "metrics.json").read_text())
    assert (said["labelled_images"], said["aux_images"]) == seen


def test_truth_that_a_mix_asks_for_and_is_not_there_is_one_line(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    make_tiny_store(make_tiny())
    make_tiny_store(make_tiny("pool", labelled=False, first=50))
    how = {"aux": ["pool"], "mix": "x+u-prime", "params": PARAMS, "device": "cpu"}

    with pytest.raises(TrainingError, match=r"pool has no measured depth .*or --mix x\+u"):
        distill.run(STUDENT, "tiny", teacher=TEACHER, method="hu", **how)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"pool has no measured depth .*from a teacher only$"):
        distill.run(STUDENT, "tiny", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "codec",
    [Companded(), pytest.param(LogBinomial(bins=16, attractors=(2, 1)), marks=pytest.mark.slow)],
)
def test_a_student_learns_the_teacher_s_own_bins(
    codec: Companded | LogBinomial, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows, pool = make_tiny(), make_tiny("pool", train=4, val=0, labelled=False, first=50)
    make_tiny_store(rows, bins=codec, bad=(1,))
    make_tiny_store(pool, bins=codec)
    how = replace(SHORT, steps=16, validate_every=8, scale=(1.0, 1.2), learning_rate=3e-3)

    done = distill.run(
        STUDENT,
        "tiny",
        teacher=TEACHER,
        aux=["pool"],
        method="bins",
        params=Params(distill={STUDENT: how}),
        device="cpu",
    )

    assert done.run == f"tiny+pool_{TEACHER}_{STUDENT}_bins_s0"
    curve = (done.path / "dvclive/plots/metrics/train/loss.tsv").read_text().splitlines()[1:]
    first, last = (float(line.split("\t")[1]) for line in curve)
    assert last < 0.9 * first


def test_bins_that_are_not_there_are_one_line_before_training(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    make_tiny_store(make_tiny())
    how = {"teacher": TEACHER, "method": "bins", "params": PARAMS, "device": "cpu"}

    with pytest.raises(TrainingError, match=r"adabins-small.zarr keeps none: take a teacher with"):
        distill.run(STUDENT, "tiny", **how)  # type: ignore[arg-type]

    make_tiny_store(make_tiny("more"), teacher="bts-small", bins=Companded())
    make_tiny_store(read_rows(layout.rows_path("more")))
    with pytest.raises(TrainingError, match=r"more/adabins-small.zarr keeps none"):
        distill.run(STUDENT, "more", **{**how, "teacher": ("bts-small", TEACHER)})  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"tiny/bts-small.zarr is missing: run `kdpipe teach"):
        distill.run(STUDENT, "tiny", **{**how, "teacher": (TEACHER, "bts-small")})  # type: ignore[arg-type]

    card = load_student_card(STUDENT)
    for method in ("bins", "tie-kd"):
        with pytest.raises(TrainingError, match=r"has a regression head: expected `head: dpm`"):
            check_bins(load_method(method), replace(card, head="regression"), [])


def test_the_baseline_needs_no_store(make_tiny: MakeRows) -> None:
    make_tiny()

    done = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")

    assert done.run == f"tiny_none_{STUDENT}_none_s0"
    assert done.finished


def test_enough_steps_beat_the_first_guess(make_tiny: MakeRows) -> None:
    make_tiny(train=8)
    calm = replace(SHORT, scale=(1.0, 1.05), colour=0.0, learning_rate=3e-3)
    longer = replace(calm, batch_size=4, steps=60, validate_every=20)

    done = distill.run(STUDENT, "tiny", params=Params(distill={STUDENT: longer}), device="cpu")

    lines = (done.path / "dvclive/plots/metrics/val/abs_rel.tsv").read_text().splitlines()[1:]
    errors = [float(line.split("\t")[1]) for line in lines]
    assert errors[-1] < 0.7 * errors[0]


def test_a_finished_run_does_nothing_and_a_lost_model_is_trained_again(
    make_tiny: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    make_tiny()
    first = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    stamp = (first.path / "model.safetensors").stat().st_mtime_ns

    again = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")

    assert (again.steps, again.metrics) == (first.steps, first.metrics)
    assert (first.path / "model.safetensors").stat().st_mtime_ns == stamp
    before = weights(first.path)
    torch.save(before, first.path / "model.pt")  # as older versions left it
    (first.path / "model.safetensors").unlink()
    assert distill.run(STUDENT, "tiny", params=PARAMS, device="cpu").steps == first.steps
    assert not (first.path / "model.safetensors").exists()
    (first.path / "model.pt").unlink()
    with caplog.at_level(logging.WARNING):
        distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    assert "outputs are missing: starting anew" in caplog.text
    assert all(torch.equal(before[name], value) for name, value in weights(first.path).items())


def test_more_trainers_than_a_batch_has_images_are_refused_before_any_starts(
    make_tiny: MakeRows,
) -> None:
    make_tiny()

    with pytest.raises(TrainingError, match="batch_size 2, expected at least one image each"):
        distill.run(STUDENT, "tiny", params=PARAMS, device="cpu", trainers=3)


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(make_tiny: MakeRows) -> None:
    make_tiny()
    one = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    kept = one.path.with_name("kept")
    one.path.rename(kept)

    again = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu", workers=2)
    other = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu", seed=1)

    assert_same_weights(kept, again.path)
    with pytest.raises(AssertionError):
        assert_same_weights(kept, other.path)


def test_what_is_left_of_other_parameters_is_not_gone_on_from(
    make_tiny: MakeRows, caplog: pytest.LogCaptureFixture
) -> None:
    make_tiny()
    distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    other = Params(distill={STUDENT: replace(SHORT, steps=6)})

    with caplog.at_level(logging.WARNING):
        done = distill.run(STUDENT, "tiny", params=other, device="cpu")

    assert done.steps == 6
    assert "has another params: starting anew" in caplog.text


def test_a_training_that_fails_at_once_leaves_the_student_before_it(make_tiny: MakeRows) -> None:
    make_tiny()
    done = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    before = files_of(done.path)
    wild = replace(SHORT, learning_rate=1e30)

    with pytest.raises(TrainingError, match=r"at step 1, .*no checkpoint was due before"):
        distill.run(STUDENT, "tiny", params=Params(distill={STUDENT: wild}), device="cpu")

    assert files_of(done.path) == before
    with pytest.raises(TrainingError, match="no checkpoint was due before"):
        distill.run(STUDENT, "tiny", seed=1, params=Params(distill={STUDENT: wild}), device="cpu")
    assert not layout.student_dir(done.run.replace("_s0", "_s1")).exists()


def test_what_another_training_left_goes_with_the_first_checkpoint(make_tiny: MakeRows) -> None:
    make_tiny()
    done = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    later = replace(SHORT, steps=6, validate_every=4, learning_rate=1e-4)
    short_of_time = Params(distill={STUDENT: later})

    part = distill.run(STUDENT, "tiny", params=short_of_time, device="cpu", max_minutes=1e-9)

    assert not part.finished
    left = sorted(path.name for path in (done.path / "checkpoints").iterdir())
    assert left == ["step-1.json", "step-1.safetensors"]
    assert not (done.path / "dvclive").exists()
    assert json.loads((done.path / "metrics.json").read_text())["finished"] is False


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("teacher: false, truth: {chamfer: 1.0}", "found chamfer under truth, .* teachers have"),
        (
            "teacher: true, distillation: {si: 1.0}, options: {sigma: 0.3}",
            r"options found \(sigma\), which only tie-kd reads",
        ),
        ("teacher: true, distillation: {tie-kd: 1.0}, options: {sigmas: 0.3}", "sigmas"),
    ],
)
def test_a_method_that_no_student_can_learn_by_is_refused_before_training(
    card: str, said: str, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    make_tiny_store(make_tiny())
    path = Path("cards/methods/mine.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(f"{{name: mine, {card}}}")
    teacher = TEACHER if "teacher: true" in card else None

    with pytest.raises(CardError, match=said):
        distill.run(
            STUDENT,
            "tiny",
            teacher=teacher,
            method="mine",
            manifests=Path("cards"),
            params=PARAMS,
            device="cpu",
        )

    assert not layout.student_dir("any").parent.exists()


def test_one_value_a_channel_and_a_seed_too_large_are_one_line(make_tiny: MakeRows) -> None:
    make_tiny()
    lone = Params(distill={"mobilenetv3-small": replace(SHORT, height=32, width=32, batch_size=1)})

    with pytest.raises(TrainingError, match="batch normalisation has one value a channel"):
        distill.run("mobilenetv3-small", "tiny", params=lone, device="cpu")
    with pytest.raises(TrainingError, match="seed 18446744073709551616 found"):
        distill.run(STUDENT, "tiny", seed=2**64, params=PARAMS, device="cpu")


def test_time_that_is_up_leaves_a_student_and_the_same_call_goes_on(make_tiny: MakeRows) -> None:
    make_tiny()

    cut = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu", max_minutes=0)

    assert (cut.steps, cut.finished) == (1, False)
    load_student(cut.path)
    done = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    assert (done.steps, done.finished) == (4, True)
    kept = done.path.with_name("kept")
    done.path.rename(kept)
    whole = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    assert_same_weights(kept, whole.path)


def test_an_unfinished_store_is_refused_or_said(
    make_tiny: MakeRows, make_tiny_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    make_tiny_store(make_tiny(), taught=4, bad=(1,))
    how = {"teacher": TEACHER, "method": "tie-kd", "params": PARAMS, "device": "cpu"}

    with pytest.raises(StoreError, match=r"has 4 of the 6 rows.*--on-missing subset"):
        distill.run(STUDENT, "tiny", **how)  # type: ignore[arg-type]

    with caplog.at_level(logging.WARNING):
        done = distill.run(STUDENT, "tiny", on_missing="subset", **how)  # type: ignore[arg-type]
    assert done.finished
    assert "3 of 6 images (50.0 %)" in caplog.text
    assert "2 not taught yet, 1 that could not be read" in caplog.text


def test_one_card_with_other_weights_for_other_images_is_two_teachers(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    how = {"teacher": TEACHER, "aux": ["pool"], "method": "tie-kd", "params": PARAMS}
    make_tiny_store(make_tiny())
    pool = make_tiny("pool", train=4, val=0, labelled=False, first=50)
    path = layout.metadata_path(make_tiny_store(pool, taught=0).path)
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))

    with pytest.raises(TrainingError, match=r"pool/.* weights 1{12} and .*tiny/.* with 0{12}, one"):
        distill.run(STUDENT, "tiny", **how)  # type: ignore[arg-type]


SURE = """
name: sure
teacher: true
distillation: {si: 1.0}
confidence: entropy
confidence_threshold: 1.0
"""


def test_what_would_teach_nothing_is_refused_before_the_first_step(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    make_tiny_store(rows, bins=Companded())
    make_tiny_store(rows, teacher="dpt-large", factor=-1.0)
    card = Path("manifests/methods/sure.yaml")
    card.parent.mkdir(parents=True)
    card.write_text(SURE)

    with pytest.raises(TrainingError, match="expected some: lower confidence_threshold"):
        distill.run(STUDENT, "tiny", teacher=TEACHER, method="sure", params=PARAMS)
    with pytest.raises(TrainingError, match="expected a larger disparity where it is nearer"):
        distill.run(STUDENT, "tiny", teacher="dpt-large", method="res-kd-si", params=PARAMS)
    assert not layout.student_dir("any").parent.exists()


def test_bad_input_is_one_line(make_tiny: MakeRows, make_tiny_store: MakeStore) -> None:
    with pytest.raises(DataError, match="run `kdpipe index --data rooms`"):
        distill.run(STUDENT, "rooms", params=PARAMS)
    with pytest.raises(UnknownNameError, match=r"'tiny'\. Known: .*rooms"):
        distill.run(STUDENT, "tiny", params=PARAMS)
    rows = make_tiny()
    with pytest.raises(StoreError, match="run `kdpipe teach"):
        distill.run(STUDENT, "tiny", teacher=TEACHER, method="tie-kd", params=PARAMS)
    with pytest.raises(UnknownNameError, match="tie-kd-corrected"):
        distill.run(STUDENT, "tiny", method="tiekd", params=PARAMS)
    with pytest.raises(DeviceError, match=r"device 'cudaa' is not there.*use cpu"):
        distill.run(STUDENT, "tiny", params=PARAMS, device="cudaa")
    make_tiny("pool", labelled=False, first=90)
    with pytest.raises(TrainingError, match="no measured depth"):
        distill.run(STUDENT, "pool", params=PARAMS, device="cpu")
    store = make_tiny_store(rows)
    path = layout.metadata_path(store.path)
    path.write_text(path.read_text().replace('"revision": 1', '"revision": 2'))
    with pytest.raises(StaleStoreError, match="revision"):
        distill.run(STUDENT, "tiny", teacher=TEACHER, method="tie-kd", params=PARAMS)


def test_a_loss_that_is_no_number_stops_in_one_line(make_tiny: MakeRows) -> None:
    make_tiny()
    wild = replace(SHORT, learning_rate=1e30)

    with pytest.raises(TrainingError, match="the loss is nan at step 1"):
        distill.run(STUDENT, "tiny", params=Params(distill={STUDENT: wild}), device="cpu")


def test_data_that_goes_on_behind_the_last_bin_is_refused() -> None:
    student = load_student_card("mobilenetv2-small")
    far = DataCard(name="yard", family="folder", domain="nyu", max_depth=20.0)

    with pytest.raises(TrainingError, match=r"yard.* 20 m.* end at 10 m.*kitti.* 80 m"):
        check_range(student, far)
    road, indoors, photos = (replace(far, domain=one) for one in ("kitti", "rooms", "any"))
    near = replace(indoors, name="near", max_depth=10.0)
    check_range(student, road, near)
    check_range(student, photos)
    check_range(student, near, photos)
    with pytest.raises(TrainingError, match=r"yard: .* 20 m.*near.* 10 m: leave it out of --aux"):
        check_range(student, near, road)
