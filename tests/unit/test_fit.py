from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image as Pillow

from kdpipe import fit
from kdpipe.cards import load_teacher_card
from kdpipe.errors import CheckpointError, TrainingError
from kdpipe.params import Params, TrainParams
from kdpipe.rows import Rows
from kdpipe.teachers import load_teacher

TEACHER = "toy"
SHORT = TrainParams(height=64, width=96, batch_size=2, steps=4, validate_every=2)
PARAMS = Params(fit={TEACHER: SHORT})

MakeRows = Callable[..., Rows]


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


def test_a_data_set_without_truth_is_refused(make_tiny: MakeRows, manifests: Path) -> None:
    make_tiny(labelled=False)

    with pytest.raises(TrainingError, match=r"no measured depth.*--fitted-on"):
        fit.run(TEACHER, "tiny", manifests=manifests, params=PARAMS, device="cpu")
