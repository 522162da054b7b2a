"""A teacher's checkpoint: old names, the card's digest, and what is said when there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.errors import CheckpointError, DeviceError, UnknownNameError
from kdpipe.nets.checkpoint import load_state as load_into
from kdpipe.nets.checkpoint import sha256_of_file
from kdpipe.nets.unfilled import Unfilled
from kdpipe.teachers import adabins, build_network, load_teacher
from kdpipe.teachers.weights import load_state, missing_weights

CARD = load_teacher_card("adabins-small")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the names of the first published files."""
    state = {}
    for key, value in build_network(CARD).state_dict().items():
        former = adabins.RENAMES[:2]  # the others are mmcv's
        old = next((key.replace(new, o) for o, new in former if key.startswith(new)), key)
        state[f"module.{old}"] = value
    assert any("embedding_encoder" in key for key in state)
    path = tmp_path_factory.mktemp("weights") / "old.pt"
    torch.save({"model": state, "optimizer": {}, "epoch": 1}, path)
    return path


def test_former_names_are_renamed(checkpoint: Path) -> None:
    network = build_network(CARD)

    load_state(network, checkpoint, renames=adabins.RENAMES)

    with pytest.raises(CheckpointError, match=r"4 missing.*4 left over"):
        load_state(network, checkpoint)


def test_the_cards_digest_is_checked(checkpoint: Path) -> None:
    right = replace(CARD, weights_sha256=sha256_of_file(checkpoint))
    wrong = replace(CARD, weights_sha256="ab" * 32)

    load_teacher(right, checkpoint=checkpoint)

    with pytest.raises(CheckpointError, match="its card says abababab"):
        load_teacher(wrong, checkpoint=checkpoint)


def test_a_teacher_keeps_its_weights_whatever_becomes_of_the_file(
    checkpoint: Path, tmp_path: Path
) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    path = tmp_path / "half.pt"
    torch.save({key: value.half() for key, value in state.items()}, path)

    network = load_teacher(CARD, checkpoint=path).network
    path.write_bytes(bytes(path.stat().st_size))  # in place, as `cp` does

    found = network.state_dict().values()
    assert all(value.dtype in (torch.float32, torch.int64) for value in found)
    for own, value in zip(found, state.values(), strict=True):
        torch.testing.assert_close(own, value.half().to(own.dtype), rtol=0, atol=0)
    assert all(one.requires_grad for one in network.parameters())


def test_what_is_never_read_and_absent_is_zero_and_no_stray_memory() -> None:
    before = torch.get_rng_state()
    with Unfilled():
        network = torch.nn.Linear(3, 2)
    assert torch.equal(torch.get_rng_state(), before), "nothing was drawn"
    with torch.no_grad():
        network.bias.copy_(torch.tensor([torch.nan, 7.0]))

    load_into(network, {"weight": torch.ones(2, 3)}, "x", unused="bias".__eq__, take=True)

    assert network.bias.tolist() == [0, 0]
    assert network.weight.tolist() == [[1, 1, 1]] * 2


def test_another_cards_checkpoint_is_refused(checkpoint: Path) -> None:
    network = {**CARD.network, "bins": 32}

    with pytest.raises(CheckpointError, match=r"of another shape: .*conv_out\.0\.weight"):
        load_teacher(replace(CARD, network=network), checkpoint=checkpoint)


def test_a_wrong_file_is_known_by_its_own_names(tmp_path: Path) -> None:
    """BTS' renames take away what the name of a student's entry begins with."""
    state = {"decode_head.upsample_custom.convA.conv.weight": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "student.pt")

    with pytest.raises(CheckpointError, match="It looks like a student of TIE-KD"):
        load_teacher("bts-small", checkpoint=tmp_path / "student.pt")


def test_no_checkpoint_says_where_one_is_published() -> None:
    with pytest.raises(CheckpointError) as error:
        load_teacher("adabins-nyu")

    text = str(error.value)
    assert "Google Drive folder linked from github.com/shariqfarooq123/AdaBins" in text
    assert "AdaBins_nyu.pt" in text
    assert "--checkpoint FILE" in text
    assert "\n" not in text


def test_a_card_that_is_trained_here_says_so_and_where_it_looked() -> None:
    text = str(missing_weights(CARD, [Path("artifacts/x"), Path("y")]))

    assert "Looked for artifacts/x, y." in text
    assert "kdpipe fit --teacher adabins-small" in text


def test_a_device_that_is_not_there_is_one_line(checkpoint: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")

    for device in ("cuda", "cuda:7", "abacus"):
        with pytest.raises(DeviceError, match=f"device '{device}' is not there.*use cpu") as error:
            load_teacher(CARD, checkpoint=checkpoint, device=device)
        assert "\n" not in str(error.value)


def test_an_unknown_name_or_family_lists_the_right_ones() -> None:
    with pytest.raises(UnknownNameError, match="adabins-nyu"):
        load_teacher("adabin")
    for family in ("adabin", "base", "../adabins"):
        with pytest.raises(UnknownNameError, match="adabins"):
            build_network(TeacherCard(name="x", family=family))
