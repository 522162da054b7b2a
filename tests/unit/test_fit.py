from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image as Pillow

import kdpipe
from kdpipe import fit
from kdpipe.cards import load_teacher_card
from kdpipe.errors import CheckpointError, TrainingError, UnknownNameError
from kdpipe.nets.checkpoint import read_state
from kdpipe.params import Params, TrainParams
from kdpipe.rows import Rows, make_rows, write_rows
from kdpipe.store import layout
from kdpipe.teachers import build_network, load_teacher

TEACHER = "toy"
SHORT = TrainParams(height=64, width=96, batch_size=2, steps=4, validate_every=2)
PARAMS = Params(fit={TEACHER: SHORT})

CARDS = Path(__file__).parents[2] / "manifests/teachers"
TINY: dict[str, dict[str, Any]] = {
    "adabins-kitti": {
        "encoder": "mobilenetv2_050",
        "features": 32,
        "embedding": 16,
        "patch": 8,
        "queries": 4,
        "bins": 8,
        "hidden_bins": 16,
        "layers": 1,
        "feed_forward": 32,
    },
    "bts-kitti": {"encoder": "mobilenetv2_050", "bts_size": 32, "reference_focal": 715.0873},
    "depthformer-nyu": {
        "width": 8,
        "depths": [1, 1, 1, 1],
        "heads": [1, 1, 2, 2],
        "window": 4,
        "stem": 8,
        "neck": 16,
        "neck_heads": 2,
        "neck_points": 1,
    },
    "hu-resnet34": {"encoder": "mobilenetv2_050", "width": 4, "output_size": [57, 76]},
    "zoedepth-nk": {
        "domains": ["nyu", "kitti"],
        "hidden": 16,
        "layers": 4,
        "heads": 2,
        "feed_forward": 32,
        "image": 96,
        "taps": [1, 2, 3, 4],
        "neck": [8, 8, 8, 8],
        "fusion": 8,
        "relative": 4,
        "bins": 8,
        "embedding": 8,
        "classes": 0,
        "target": None,
    },
}
"""Published card -> a network of its family for its recipe."""

MakeRows = Callable[..., Rows]


def add_card(folder: Path, name: str, like: str, **changes: object) -> None:
    """Writes the card `name`: that of `like` with other values."""
    card = yaml.safe_load((CARDS / f"{like}.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**card, "name": name, **changes}))


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A folder with a card of AdaBins, smaller than any of ours, and one without a recipe."""
    card = yaml.safe_load(
        (Path(__file__).parents[2] / "manifests/teachers/adabins-small.yaml").read_text()
    )
    card["network"].update(features=64, embedding=32, queries=4, bins=8, hidden_bins=16, layers=1)
    folder = tmp_path / "cards" / "teachers"
    folder.mkdir(parents=True)
    (folder / f"{TEACHER}.yaml").write_text(yaml.safe_dump({**card, "name": TEACHER}))
    published = {**card, "name": "published", "fit": None}
    published["about"] = {"weights": "https://example.org/toy", "file": "toy.pt"}
    (folder / "published.yaml").write_text(yaml.safe_dump(published))
    return folder.parent


def test_a_fitted_teacher_can_be_loaded_and_is_named_with_its_digest(
    make_tiny: MakeRows, manifests: Path
) -> None:
    make_tiny()

    done = fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")

    assert (done.steps, done.finished, done.source) == (4, True, "fitted")
    said = json.loads(done.path.read_text())
    card = load_teacher_card(TEACHER, manifests)
    model = done.path.parent / said["checkpoint"]
    assert said["fingerprint"] == card.fingerprint
    assert said["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    load_teacher(card, checkpoint=model)
    assert set(done.metrics) == {"abs_rel", "delta1", "rmse"}
    pictures = sorted(path.name for path in (done.path.parent / "pictures").iterdir())
    assert pictures == ["step_000002.png", "step_000004.png"]
    with Pillow.open(done.path.parent / "pictures" / pictures[0]) as picture:
        assert picture.size == (3 * 96, 2 * 64)


def test_python_takes_the_fitted_weights_by_itself(make_tiny: MakeRows, manifests: Path) -> None:
    make_tiny()
    card = load_teacher_card(TEACHER, manifests)
    with pytest.raises(CheckpointError, match="run `kdpipe fit --teacher toy` first"):
        kdpipe.load_teacher(card)
    done = fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")

    found = kdpipe.load_teacher(card).network.state_dict()

    fitted = read_state(done.path.parent / "model.pt")
    assert all(torch.equal(found[name], value) for name, value in fitted.items())
    other = layout.weights_path("other", TEACHER)
    shutil.copytree(done.path.parent, other.parent)
    kdpipe.load_teacher(card)  # the same weights: nothing to choose
    other.write_text(other.read_text().replace(json.loads(other.read_text())["sha256"], "0" * 64))
    with pytest.raises(CheckpointError, match=r"weights of other, tiny here.*fitted_on='other'"):
        kdpipe.load_teacher(card)
    kdpipe.load_teacher(card, fitted_on="tiny")


def test_images_that_it_could_not_teach_are_refused_before_the_training(
    make_tiny: MakeRows, tmp_path: Path
) -> None:
    """Enough patches at the size of the training, too few in the frames of 48x64; then in both."""
    make_tiny()
    for queries, said in (
        (12, r"could not teach tiny.*3x4 = 12 patches.*13 to"),
        (24, r"cannot be fitted at height 64 and width 96.*4x6 = 24 patches.*25 to"),
    ):
        network = {**TINY["adabins-kitti"], "queries": queries}
        add_card(tmp_path / "cards/teachers", TEACHER, "adabins-small", network=network)

        with pytest.raises(TrainingError, match=said):
            fit.run(TEACHER, "tiny", manifests=tmp_path / "cards", params=PARAMS, device="cpu")

    assert not layout.teacher_dir("tiny", TEACHER).exists()


@pytest.mark.parametrize(
    ("like", "network", "seen"),
    [
        ("zoedepth-small", {"target": [64, 96]}, None),
        ("zoedepth-small", {"target": [32, 64]}, "32x64"),
        ("hu-small", {"shorter_side": 24}, "24x32"),
        ("hu-small", {}, "48x64"),
    ],
)
def test_the_size_that_a_teacher_will_see_is_compared_with_the_training_s(
    like: str,
    network: dict[str, object],
    seen: str | None,
    make_tiny: MakeRows,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_tiny()
    family = load_teacher_card(like).family
    small = next(one for name, one in TINY.items() if name.startswith(family))
    without = {key: value for key, value in small.items() if key != "domains"}
    add_card(tmp_path / "cards/teachers", TEACHER, like, network={**without, **network})
    once = Params(fit={TEACHER: replace(SHORT, steps=1)})

    fit.run(TEACHER, "tiny", manifests=tmp_path / "cards", params=once, device="cpu")

    said = [line for line in caplog.messages if "sees images of" in line]
    assert len(said) == (0 if seen is None else 1)
    assert seen is None or f"sees images of {seen} when it teaches" in said[0]


def test_the_same_fit_gives_the_same_bytes(make_tiny: MakeRows, manifests: Path) -> None:
    make_tiny()
    first = fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")
    before = first.path.read_bytes()
    (first.path.parent / "model.pt").unlink()

    again = fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")

    assert again.path.read_bytes() == before


def test_given_weights_are_checked_and_recorded(
    make_tiny: MakeRows, manifests: Path, tmp_path: Path
) -> None:
    make_tiny()
    fitted = fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")
    given = tmp_path / "given.pt"
    given.write_bytes((fitted.path.parent / "model.pt").read_bytes())

    done = fit.run("published", "tiny", manifests=manifests, checkpoint=given)

    assert json.loads(done.path.read_text())["checkpoint"] == str(given)
    torch.save({"model": {"other": torch.zeros(1)}}, given)
    with pytest.raises(CheckpointError):
        fit.run("published", "tiny", manifests=manifests, checkpoint=given)


def test_a_card_without_recipe_says_where_its_weights_are(
    make_tiny: MakeRows, manifests: Path
) -> None:
    make_tiny()

    with pytest.raises(CheckpointError, match=r"example\.org/toy.*--checkpoint") as caught:
        fit.run("published", "tiny", manifests=manifests, params=PARAMS)

    assert "artifacts/teachers/tiny/published" in str(caught.value)


def test_published_weights_put_in_the_folder_are_found(
    make_tiny: MakeRows, manifests: Path
) -> None:
    make_tiny()
    fitted = fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")
    place = Path("artifacts/teachers/tiny/published/toy.pt")
    place.parent.mkdir(parents=True)
    place.write_bytes((fitted.path.parent / "model.pt").read_bytes())

    done = fit.run("published", "tiny", manifests=manifests, params=PARAMS)

    assert json.loads(done.path.read_text())["checkpoint"] == "toy.pt"


def test_a_wrong_data_set_is_answered_with_the_right_ones(
    make_tiny: MakeRows, manifests: Path
) -> None:
    make_tiny()

    with pytest.raises(UnknownNameError, match=r"'tinny'\. Known: .*tiny"):
        fit.run(TEACHER, "tinny", manifests=manifests, params=PARAMS)
    with pytest.raises(UnknownNameError, match=r"'\.\./tiny'\. Known: .*tiny"):
        fit.run(TEACHER, "../tiny", manifests=manifests, params=PARAMS, checkpoint=Path("some.pt"))


def test_a_data_set_without_truth_is_refused(make_tiny: MakeRows, manifests: Path) -> None:
    make_tiny(labelled=False)

    with pytest.raises(TrainingError, match=r"no measured depth.*--fitted-on"):
        fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")


@pytest.mark.parametrize(
    "like",
    [pytest.param(one, marks=() if one == "hu-resnet34" else pytest.mark.slow) for one in TINY],
)
def test_a_published_card_is_trained_by_its_recipe_only_when_asked(
    like: str, make_tiny: MakeRows, tmp_path: Path
) -> None:
    make_tiny()
    about = {"weights": "https://example.org/toy", "file": "toy.pt"}
    add_card(tmp_path / "cards/teachers", TEACHER, like, network=TINY[like], about=about)

    with pytest.raises(CheckpointError, match=r"example\.org/toy"):
        fit.run(TEACHER, "tiny", manifests=tmp_path / "cards", params=PARAMS, device="cpu")
    done = fit.run(
        TEACHER,
        "tiny",
        manifests=tmp_path / "cards",
        params=PARAMS,
        train_published=True,
        device="cpu",
    )

    assert (done.source, done.steps) == ("fitted", 4)
    assert 0 < done.metrics["rmse"] < 80


def test_the_router_of_two_domains_learns(make_tiny: MakeRows, tmp_path: Path) -> None:
    """No gradient reaches it through the depth: it chooses a head, and that is no number."""
    make_tiny()
    add_card(tmp_path / "cards/teachers", TEACHER, "zoedepth-nk", network=TINY["zoedepth-nk"])
    torch.manual_seed(0)
    fresh = build_network(load_teacher_card(TEACHER, tmp_path / "cards")).state_dict()

    done = fit.run(
        TEACHER,
        "tiny",
        manifests=tmp_path / "cards",
        params=PARAMS,
        train_published=True,
        device="cpu",
    )

    trained = read_state(done.path.parent / "model.pt")
    router = [name for name in fresh if name.startswith("mlp_classifier")]
    assert router
    assert all(not torch.equal(trained[name], fresh[name]) for name in router)


def test_depth_is_fitted_for_each_row_s_focal_length(make_tiny: MakeRows, tmp_path: Path) -> None:
    """The squared loss is a parabola of ln(focal / reference), whatever the network says."""
    make_tiny()  # focal length 60 px
    once = Params(fit={TEACHER: replace(SHORT, steps=1, learning_rate=1e-12)})
    losses, errors = [], []
    for factor in (0.25, 0.5, 1):
        network = {**TINY["bts-kitti"], "reference_focal": 60.0 / factor}
        folder = tmp_path / "cards/teachers"
        add_card(folder, TEACHER, "bts-kitti", network=network, max_depth=10.0)
        done = fit.run(
            TEACHER,
            "tiny",
            manifests=tmp_path / "cards",
            params=once,
            train_published=True,
            device="cpu",
        )
        losses.append(json.loads((done.path.parent / "metrics.json").read_text())["loss"])
        errors.append(done.metrics["abs_rel"])

    first, second, third = (loss**2 / 100 for loss in losses)  # the root is multiplied by 10
    assert third - 2 * second + first == pytest.approx(2 * 0.15 * log(2) ** 2, rel=1e-3)
    assert len(set(errors)) == 3


def test_rows_without_a_focal_length_cannot_fit_what_needs_it(
    make_tiny: MakeRows, tmp_path: Path
) -> None:
    rows = make_tiny()
    blind = [replace(row, fx=None) if row.id in "07" else row for row in rows]
    write_rows(layout.rows_path("tiny"), make_rows(rows.card, rows.root, blind))
    add_card(tmp_path / "cards/teachers", TEACHER, "bts-kitti", network=TINY["bts-kitti"])

    with pytest.raises(TrainingError, match=r"715\.087 px.*2 of the 8 rows of tiny's"):
        fit.run(
            TEACHER,
            "tiny",
            manifests=tmp_path / "cards",
            params=PARAMS,
            train_published=True,
            device="cpu",
        )


def test_truth_that_is_too_near_for_the_recipe_does_not_count(
    make_tiny: MakeRows, tmp_path: Path
) -> None:
    make_tiny()
    recipe = yaml.safe_load((CARDS / "bts-small.yaml").read_text())["fit"]
    recipe["start_at_data"] = False
    losses = []
    for nearest in (0.0, 3.0, 100.0):
        fitted = {**recipe, "nearest_truth": nearest}
        add_card(tmp_path / "cards/teachers", TEACHER, "bts-small", fit=fitted)
        done = fit.run(
            TEACHER,
            "tiny",
            manifests=tmp_path / "cards",
            params=Params(fit={TEACHER: replace(SHORT, steps=1)}),
            device="cpu",
        )
        losses.append(json.loads((done.path.parent / "metrics.json").read_text())["loss"])

    assert losses[0] != losses[1]
    assert losses[2] == 0


def test_weights_for_an_encoder_that_is_not_there_are_one_line(
    make_tiny: MakeRows, tmp_path: Path
) -> None:
    make_tiny()
    add_card(tmp_path / "cards/teachers", TEACHER, "huggingface-small")

    with pytest.raises(CheckpointError, match="has no encoder that"):
        fit.run(
            TEACHER,
            "tiny",
            manifests=tmp_path / "cards",
            params=PARAMS,
            encoder_weights=str(tmp_path / "encoder.pt"),
            device="cpu",
        )
