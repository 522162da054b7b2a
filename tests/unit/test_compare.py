"""`distill --compare`: methods with the same seeds, in one table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdpipe.codecs import Companded
from kdpipe.errors import TrainingError, UnknownNameError
from kdpipe.params import load_params
from kdpipe.report.tables import bytes_text
from kdpipe.rows import Rows
from kdpipe.store import Store, layout
from kdpipe.store.consolidated import read_lines
from kdpipe_stages.cli import app
from kdpipe_stages.compare import Wish, compare

MakeRows = Callable[..., Rows]
MakeStore = Callable[..., Store]
PARAMS = """
evaluate: {split: val}
distill:
  mobilenetv2-small: {height: 32, width: 48, batch_size: 2, steps: 2, validate_every: 2}
"""


@pytest.fixture
def wish(make_tiny: MakeRows, make_tiny_store: MakeStore) -> Wish:
    for name, labelled in (("tiny", True), ("pool", False)):
        rows = make_tiny(name, labelled=labelled, val=2 if labelled else 0, first=len(name))
        make_tiny_store(rows)
    Path("params.yaml").write_text(PARAMS)
    return Wish(
        student="mobilenetv2-small",
        data="tiny",
        teachers=("adabins-small",),
        aux=("pool",),
        mix=None,
        ratio=None,
        params=load_params(),
        manifests=None,
        on_missing="error",
        max_minutes=None,
        device="cpu",
        workers=0,
    )


def test_every_method_is_trained_with_every_seed_and_stands_in_one_table(wish: Wish) -> None:
    table, values = compare(["none", "res-kd-mse"], 2, wish)

    baseline = "tiny_none_mobilenetv2-small_none_s"
    distilled = "tiny+pool_adabins-small_mobilenetv2-small_res-kd-mse_s"
    trained = {path.name for path in layout.student_dir("any").parent.iterdir() if path.is_dir()}
    assert trained == {f"{baseline}0", f"{baseline}1", f"{distilled}0", f"{distilled}1"}
    lines = {line["key"]: line for line in values["lines"]}  # type: ignore[attr-defined]
    assert lines["none"]["seeds"] == lines["res-kd-mse+pool"]["seeds"] == 2
    assert lines["res-kd-mse+pool"]["gain"] is not None
    assert {"teacher", "median"} < lines.keys()
    assert "res-kd-mse + pool" in table
    assert "±" in table
    model = layout.student_dir(f"{distilled}0") / "model.safetensors"
    shards = [
        sum(one.bytes for one in read_lines(layout.store_path(data, "adabins-small")))
        for data in ("tiny", "pool")
    ]
    assert lines["res-kd-mse+pool"]["student_bytes"] == model.stat().st_size
    assert lines["res-kd-mse+pool"]["store_bytes"] == sum(shards) > 0
    assert lines["none"]["store_bytes"] == 0
    assert lines["none"]["steps"] == 2
    assert lines["none"]["seconds"] > 0
    assert bytes_text(sum(shards)) in table


def test_labels_that_a_mix_reads_are_the_baselines_too(
    wish: Wish, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    make_tiny_store(make_tiny("more", labelled=True, val=0, first=9))

    _, values = compare(["none", "hu"], 1, replace(wish, aux=("more",), mix="x+u-prime"))

    lines = {line["key"]: line for line in values["lines"]}  # type: ignore[attr-defined]
    assert lines.keys() >= {"none+more@u-prime", "hu+more@u-prime"}
    assert "none" not in lines
    values_of = [lines[key]["mean"]["abs_rel"] for key in ("none+more@u-prime", "hu+more@u-prime")]
    assert lines["hu+more@u-prime"]["gain"] == pytest.approx(1 - values_of[1] / values_of[0])


def test_a_training_that_fails_leaves_the_others_alone(
    wish: Wish, caplog: pytest.LogCaptureFixture
) -> None:
    card = Path("cards/methods/diverges.yaml")
    card.parent.mkdir(parents=True)
    card.write_text("{name: diverges, teacher: true, distillation: {mse: 1.0e+39}}")
    how = ["--data", "tiny", "--manifests", "cards", "--device", "cpu"]

    done = CliRunner().invoke(app, ["distill", *how, "--compare", "diverges, none", "--json"])

    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert said["runs"][:1] == ["tiny_none_mobilenetv2-small_none_s0"]
    assert "the loss is" in said["failed"]["diverges s0"]
    assert "diverges with seed 0 has failed" in caplog.text
    with pytest.raises(TrainingError, match="the loss is"):
        compare(["diverges"], 1, replace(wish, manifests=Path("cards")))
    card.write_text("{name: diverges, teacher: true, distillation: {mse: 1.0}, options: {a: 1}}")
    _, values = compare(["diverges", "none"], 1, replace(wish, manifests=Path("cards")))
    assert "options found (a)" in values["failed"]["diverges s0"]  # type: ignore[index]


def test_what_is_trained_stays_and_other_seeds_stay_out(wish: Wish) -> None:
    compare(["none"], 2, wish)
    before = (
        layout.student_dir("tiny_none_mobilenetv2-small_none_s0") / "model.safetensors"
    ).stat()

    _, values = compare(["none"], 1, wish)

    after = (layout.student_dir("tiny_none_mobilenetv2-small_none_s0") / "model.safetensors").stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    (line,) = [one for one in values["lines"] if one["key"] == "none"]  # type: ignore[attr-defined]
    assert line["seeds"] == 1


def test_minutes_are_for_all_of_them(wish: Wish) -> None:
    with pytest.raises(TrainingError, match="0 of 2 trainings are done: run the same command"):
        compare(["none"], 2, replace(wish, max_minutes=1e-9))


def test_a_wrong_method_is_found_before_anything_is_trained(wish: Wish) -> None:
    with pytest.raises(UnknownNameError, match="nonne"):
        compare(["none", "nonne"], 1, wish)

    assert not layout.student_dir("any").parent.exists()


def test_it_is_an_option_of_distill(wish: Wish) -> None:
    plain = ["distill", "--data", wish.data, "--compare", "none", "--json"]

    done = CliRunner().invoke(app, plain)
    both = CliRunner().invoke(app, [*plain, "--method", "none"])

    assert json.loads(done.stdout)["runs"] == ["tiny_none_mobilenetv2-small_none_s0"]
    assert both.exit_code == 2


MIXTURE = """
name: mixture
teacher: true
distillation: {tie-kd: 0.5, bins: 1.0, si: 1.0}
options: {known_only: true, ssim: known, dpm_mode: normalized}
weigh_teachers: inverse-variance
confidence: disagreement
confidence_threshold: 0.5
"""


def test_several_teachers_and_a_mixture_of_methods(
    wish: Wish, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny("more", first=20)
    for teacher, factor in (("adabins-small", 0.9), ("bts-small", 1.3)):
        make_tiny_store(rows, teacher=teacher, factor=factor, bins=Companded())
    card = Path("cards/methods/mixture.yaml")
    card.parent.mkdir(parents=True)
    card.write_text(MIXTURE)
    how = ["--teacher", "adabins-small,bts-small", "--data", "more", "--manifests", "cards"]
    run = "more_adabins-small+bts-small_mobilenetv2-small_mixture_s0"

    done = CliRunner().invoke(app, ["distill", *how, "--compare", "none,mixture", "--json"])
    parts = [*how, "--student", wish.student, "--method", "mixture", "--json"]
    judged = CliRunner().invoke(app, ["evaluate", *parts])

    assert json.loads(judged.stdout)["run"] == run
    said = json.loads(done.stdout)
    assert said["runs"][1:] == [run, "more_adabins-small", "more_bts-small"]
    lines = {line["key"]: line for line in said["lines"]}
    assert lines["mixture"]["teacher"] == "adabins-small+bts-small"
    assert lines["mixture"]["gain"] is not None
    noted = json.loads((layout.student_dir(run) / "metrics.json").read_text())
    first, second = (noted["teachers"][name] for name in ("adabins-small", "bts-small"))
    assert first / second == pytest.approx((math.log(1.3) / math.log(0.9)) ** 2, rel=0.1)
