"""TIE-KD's and Hu et al.'s students against the official code: layout, and what they compute.

`students/layouts.json.gz` lists the official entries; the `.npz` files hold what the official
networks gave when filled by the recipe: depth at 2048 pixels, probabilities of 64, the bins.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from tests.parity import recipe

from kdpipe.cards import load_student_card
from kdpipe.students import build_network, load_student

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.students import StudentOutput

HERE = Path(__file__).parent / "students"
LAYOUTS: dict[str, Any] = json.loads(gzip.decompress((HERE / "layouts.json.gz").read_bytes()))
TOLERANCE = 1e-4  # of the fixtures' description
QUICK = ("tiekd_mobilenetv2_nyu", "reskd_resnet18_kitti", "hu_mobilenetv2_nyu")
CASES: list[tuple[str, str, Literal["dpm", "regression"]]] = [
    ("tiekd_mobilenetv2_nyu", "nyu", "dpm"),
    ("tiekd_mobilenetv2_kitti", "kitti", "dpm"),
    ("reskd_mobilenetv2_kitti", "kitti", "regression"),
    ("tiekd_resnet18_nyu", "nyu", "dpm"),
    ("tiekd_resnet18_kitti", "kitti", "dpm"),
    ("reskd_resnet18_kitti", "kitti", "regression"),
    ("tiekd_resnet50_nyu", "nyu", "dpm"),
    ("tiekd_resnet50_kitti", "kitti", "dpm"),
    ("hu_mobilenetv2_nyu", "nyu", "regression"),
]


def relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference over the largest expected value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def write_checkpoint(fixture: str, path: Path) -> Path:
    """Laid out as the published files: wrapped, with mmcv's `meta`."""
    layout = LAYOUTS[fixture]
    arrays = recipe.state_arrays(layout["entries"], layout["recipe_overrides"])
    state = {name: torch.from_numpy(values) for name, values in arrays.items()}
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, path)
    return path


def card_of(fixture: str) -> str:
    """The student that a fixture is of."""
    family, encoder, _ = fixture.split("_")
    return f"hu-{encoder}" if family == "hu" else encoder


# The published Res-KD checkpoints hold a head of 256 bins that nothing reads.
WHOLE = [case[:2] for case in CASES if not case[0].startswith("reskd")]


@pytest.mark.parametrize(("fixture", "bins"), WHOLE)
def test_the_state_dict_is_the_official_one_entry_for_entry(fixture: str, bins: str) -> None:
    with torch.device("meta"):
        network = build_network(load_student_card(card_of(fixture)), bins_domain=bins)

    found = [[k, list(v.shape), str(v.dtype)[6:]] for k, v in network.state_dict().items()]

    assert found == LAYOUTS[fixture]["entries"]


@pytest.mark.parametrize(
    ("fixture", "bins", "head"),
    [pytest.param(*one, marks=() if one[0] in QUICK else pytest.mark.slow) for one in CASES],
)
def test_an_official_checkpoint_gives_the_official_depth_and_bins(
    fixture: str, bins: str, head: Literal["dpm", "regression"], tmp_path: Path
) -> None:
    path = write_checkpoint(fixture, tmp_path / "official.pth")
    case = LAYOUTS[fixture]["case"]
    image = recipe.image(case["image_name"], case["height"], case["width"])[None]

    student = load_student(card_of(fixture), path, bins=bins, head=head)
    rgb = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        output: StudentOutput = student.network(rgb)

    with np.load(HERE / f"{fixture}.npz") as golden:
        raw = output.depth.numpy().ravel()[golden["depth_flat_index"]]
        assert relative(raw, golden["depth"]) < TOLERANCE
        predicted = student.predict(image).numpy().ravel()[golden["depth_flat_index"]]
        assert relative(predicted, golden["clamped"]) < TOLERANCE
        if head == "regression":
            assert output.probabilities is None
            return
        assert output.probabilities is not None
        pixels = output.probabilities[0].flatten(1).T.numpy()[golden["pixels_flat_index"]]
        assert np.abs(pixels - golden["probs"]).max() < TOLERANCE
        assert relative(output.centers.numpy(), golden["centers"]) < TOLERANCE
        assert relative(student.bins.edges().numpy(), golden["edges"]) < TOLERANCE


def test_the_head_that_a_checkpoint_holds_shows_which_bins_it_has(tmp_path: Path) -> None:
    path = write_checkpoint("tiekd_mobilenetv2_kitti", tmp_path / "official.pth")

    assert load_student("mobilenetv2", path).bins.name == "kitti"


def test_hu_s_student_needs_no_bins_and_takes_any_size(tmp_path: Path) -> None:
    student = load_student("hu-mobilenetv2", write_checkpoint("hu_mobilenetv2_nyu", tmp_path / "N"))

    assert student.bins.name == "nyu"
    assert sum(p.numel() for p in student.network.parameters()) == 1_673_905
    assert student.predict(recipe.image("any", 97, 131)[None]).shape == (1, 97, 131)
