"""A student on disk and back, and its depth of any image."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from kdpipe.cards import load_student_card
from kdpipe.errors import CheckpointError, DataError, DeviceError, UnknownNameError
from kdpipe.nets.checkpoint import as_safetensors
from kdpipe.students import EXPORTS, Student, build_network, load_student, save_student
from kdpipe.students.base import BINS, as_rgb, bins_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARD = replace(load_student_card("mobilenetv2-small"), width=0.03, encoder_width=0.25, name="tiny")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A saved student, trained at 32x48."""
    torch.manual_seed(0)
    save_student(tmp_path / "run", build_network(CARD), CARD, "rooms", (32, 48))
    return tmp_path / "run"


def test_a_saved_student_comes_back_the_same(run_dir: Path) -> None:
    torch.manual_seed(0)
    fresh = Student(CARD, build_network(CARD), BINS["nyu"], (32, 48))

    student = load_student(run_dir)

    assert student.card == CARD
    assert (student.bins.name, student.size) == ("nyu", (32, 48))
    torch.testing.assert_close(student.predict(IMAGES), fresh.predict(IMAGES))
    assert sorted(p.name for p in run_dir.iterdir()) == ["card.json", "model.safetensors"]


def test_a_run_of_an_older_version_is_read_until_it_is_trained_again(run_dir: Path) -> None:
    student = load_student(run_dir)
    (run_dir / "model.safetensors").unlink()
    torch.save({"state_dict": student.network.state_dict()}, run_dir / "model.pt")

    old = load_student(run_dir)
    save_student(run_dir, old.network, old.card, "nyu", (32, 48))

    torch.testing.assert_close(old.predict(IMAGES), student.predict(IMAGES))
    assert sorted(p.name for p in run_dir.iterdir()) == ["card.json", "model.safetensors"]


def test_weights_that_are_torn_are_one_line(run_dir: Path) -> None:
    path = run_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(CheckpointError, match="torn or no safetensors file") as caught:
        load_student(run_dir)

    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_and_leaves_the_old_student(run_dir: Path) -> None:
    student, half = load_student(run_dir), run_dir / f".model.safetensors.{os.getpid()}"
    half.symlink_to("/dev/full")

    with pytest.raises(OSError, match=r"No space left on device.*model\.safetensors") as caught:
        save_student(run_dir, student.network, student.card, "nyu", (32, 48))

    assert caught.value.errno == errno.ENOSPC
    assert sorted(p.name for p in run_dir.iterdir()) == ["card.json", "model.safetensors"]
    load_student(run_dir)


def test_what_was_exported_from_earlier_weights_goes(run_dir: Path) -> None:
    for name in EXPORTS:
        (run_dir / name).touch()
    student = load_student(run_dir)

    save_student(run_dir, student.network, student.card, "nyu", (64, 96))

    assert sorted(path.name for path in run_dir.iterdir()) == ["card.json", "model.safetensors"]


def test_depth_has_the_images_size_and_stays_in_range(run_dir: Path) -> None:
    depth = load_student(str(run_dir)).predict(IMAGES)

    assert depth.shape == (2, 48, 64)
    assert depth.dtype == torch.float32
    assert depth.min() >= 1e-3
    assert depth.max() <= 10
    assert np.asarray(depth).shape == (2, 48, 64)


def test_arrays_and_tensors_of_either_layout_mean_the_same_image(run_dir: Path) -> None:
    student = load_student(run_dir)
    planes = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255

    expected = student.predict(IMAGES)

    torch.testing.assert_close(student.predict(torch.from_numpy(IMAGES)), expected)
    torch.testing.assert_close(student.predict(planes), expected)
    torch.testing.assert_close(student.predict(planes.numpy()), expected)


def test_a_mirrored_average_of_a_mirrored_image_is_the_mirrored_depth(run_dir: Path) -> None:
    student = load_student(run_dir)

    depth = student.predict(IMAGES, mirror=True)
    mirrored = student.predict(IMAGES[:, :, ::-1], mirror=True)

    torch.testing.assert_close(mirrored.flip(-1), depth, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(depth, student.predict(IMAGES))


def test_predicting_leaves_the_training_mode_as_it_was() -> None:
    network = build_network(CARD).train()

    Student(CARD, network, BINS["nyu"]).predict(IMAGES)

    assert network.training


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(np.zeros((48, 64, 3), np.uint8), id="no-batch"),
        pytest.param(np.zeros((1, 48, 64), np.uint8), id="grey"),
        pytest.param(np.zeros((1, 3, 48, 64), np.uint8), id="whole-numbers-in-planes"),
        pytest.param(np.zeros((1, 48, 64, 3), np.float32), id="floats-interleaved"),
    ],
)
def test_images_of_another_kind_are_refused(images: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="expected uint8"):
        as_rgb(images)


def test_bins_follow_the_domain() -> None:
    assert [bins_of(d).count for d in ("rooms", "nyu", "any", "kitti")] == [49, 49, 49, 257]
    with pytest.raises(UnknownNameError, match="mars"):
        bins_of("mars")


class TestBadInput:
    """Each gives one line."""

    def test_a_card_without_weights(self) -> None:
        with pytest.raises(CheckpointError, match="has no weights: pass checkpoint="):
            load_student("mobilenetv2-small")

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(DeviceError, match=r"device 'warp' is not there.*use cpu"):
            load_student("mobilenetv2-small", "weights.pt", device="warp")

    def test_an_unknown_card(self) -> None:
        with pytest.raises(UnknownNameError, match="mobilenetv2-small"):
            load_student("mobilnet", "weights.pt")

    def test_a_folder_without_a_student(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"holds no card\.json"):
            load_student(tmp_path / "nothing")

    def test_weights_of_another_network(self, run_dir: Path) -> None:
        other = replace(CARD, width=0.25)
        packed = as_safetensors(build_network(other).state_dict())
        (run_dir / "model.safetensors").write_bytes(packed)

        with pytest.raises(CheckpointError, match="another network") as caught:
            load_student(run_dir)

        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param("{", id="torn"),
            pytest.param("[]", id="a-list"),
            pytest.param(json.dumps({"bins": "nyu", "size": [32, 48]}), id="no-card"),
            pytest.param(json.dumps({"card": {}, "bins": "nyu", "size": [1, 2]}), id="empty"),
        ],
    )
    def test_a_broken_card(self, run_dir: Path, said: str) -> None:
        (run_dir / "card.json").write_text(said)

        with pytest.raises(CheckpointError, match="is no student's card") as caught:
            load_student(run_dir)

        assert "\n" not in str(caught.value)

    def test_a_head_that_does_not_show_its_bins(self, tmp_path: Path) -> None:
        path = tmp_path / "odd.pt"
        torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)

        with pytest.raises(CheckpointError, match=r"pass bins='nyu' or bins='kitti'$"):
            load_student("mobilenetv2-small", path)

    def test_a_regression_student_s_unread_head_is_told_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "reskd.pt"
        torch.save({"decode_head.conv_out.0.weight": torch.zeros(256, 1)}, path)

        with pytest.raises(CheckpointError, match="wants head='regression' too"):
            load_student("mobilenetv2-small", path)

    def test_a_family_that_is_not_there(self) -> None:
        with pytest.raises(UnknownNameError, match="densedepth"):
            build_network(replace(CARD, family="transformers"))
