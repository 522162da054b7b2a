"""Files of other people: each way in which one can be wrong gives one line, and runs nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from kdpipe.errors import CheckpointError
from kdpipe.nets.checkpoint import load_state, read_state, sha256_of_file


class Small(nn.Module):
    """Four entries."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.trace}'",)


def write_plain_pickle(path: Path, trace: Path) -> None:
    """A pickle that is no checkpoint at all."""
    path.write_bytes(pickle.dumps(Harmful(trace)))


def write_zip(path: Path, trace: Path) -> None:
    """A checkpoint with an object beside the tensors."""
    torch.save({"model": Small().state_dict(), "args": Harmful(trace)}, path)


def write_legacy(path: Path, trace: Path) -> None:
    """The same in the older format."""
    state = {"model": Small().state_dict(), "args": Harmful(trace)}
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [write_plain_pickle, write_zip, write_legacy])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, write: Callable[[Path, Path], None]
) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    write(path, trace)

    with pytest.raises(CheckpointError, match=r"would run code when loaded.*refused"):
        read_state(path)

    assert not trace.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_a_file_that_is_cut_short_is_named_so(tmp_path: Path, legacy: bool, kept: float) -> None:
    path = tmp_path / "half.pt"
    torch.save(nn.Linear(64, 64).state_dict(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    with pytest.raises(CheckpointError, match=r"is torn"):
        read_state(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"\n <!DOCTYPE html><html>Virus scan warning", "web page", id="html"),
        pytest.param(b"<?xml version='1.0'?><Error>AccessDenied", "web page", id="xml"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(99), "is no checkpoint", id="picture"),
        pytest.param(b"version https://git-lfs.github.com", "is no checkpoint", id="pointer"),
        pytest.param(b"PK\x03\x04" + bytes(99), "is torn", id="half-zip"),
        pytest.param(b"hello world\n", r"checkpoint of torch\.save: download", id="text"),
    ],
)
def test_a_file_that_is_something_else_is_named_so(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=expected) as error:
        read_state(path)

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param([1, 2], "holds a list", id="list"),
        pytest.param({}, "holds nothing", id="empty"),
        pytest.param({"model": {}}, "holds nothing", id="empty-wrapper"),
        pytest.param({"epoch": 3}, "holds a int as 'epoch'", id="no-tensors"),
        pytest.param({"model": {1: torch.zeros(1)}}, "as 1", id="number-as-name"),
    ],
)
def test_content_that_is_no_state_dict_is_refused(
    tmp_path: Path, content: object, expected: str
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)

    with pytest.raises(CheckpointError, match=expected):
        read_state(path)


def test_a_missing_file_and_a_folder_are_named_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt is missing, expected a checkpoint"):
        read_state(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_state(tmp_path)


def test_another_digest_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(Small().state_dict(), path)
    digest = sha256_of_file(path)

    assert read_state(path, sha256=digest.upper()).keys() == Small().state_dict().keys()
    with pytest.raises(CheckpointError, match=f"{digest[:16]}.*its card says {'0' * 16}"):
        read_state(path, sha256="0" * 64)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_wrappers_prefixes_and_both_formats_are_opened(
    tmp_path: Path, wrapper: str | None, prefix: str, legacy: bool
) -> None:
    network = Small()
    state = {prefix + key: value for key, value in network.state_dict().items()}
    path = tmp_path / "weights.pt"
    content = state if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)

    other = Small()
    load_state(other, read_state(path), "weights.pt")

    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())


def test_half_precision_is_cast() -> None:
    network = Small()
    half = {key: value.half() for key, value in network.state_dict().items()}

    other = Small()
    load_state(other, half, "weights.pt")

    assert other.first.weight.dtype == torch.float32
    assert torch.equal(other.first.weight, network.first.weight.half().float())


def test_another_networks_state_is_told_by_counts_and_the_first_five() -> None:
    state = {f"block.{n}.weight": torch.zeros(1) for n in range(7)}
    state["first.weight"] = torch.zeros(9, 3)
    network = Small()
    before = network.first.weight.clone()

    with pytest.raises(CheckpointError) as error:
        load_state(network, state, "weights.pt")

    text = str(error.value)
    assert "3 missing: first.bias, second.weight, second.bias;" in text
    assert "7 left over: block.0.weight, block.1.weight" in text
    assert "block.4.weight, …" in text
    assert "block.5" not in text
    assert "1 of another shape: first.weight (9, 3), not (4, 3)" in text
    assert "\n" not in text
    assert torch.equal(network.first.weight, before)


def test_entries_that_the_forward_never_reads_may_be_absent() -> None:
    state = Small().state_dict()
    del state["second.bias"]
    state["second.extra"] = torch.zeros(1)

    load_state(Small(), state, "weights.pt", unused=lambda key: key.startswith("second"))

    with pytest.raises(CheckpointError, match=r"1 missing: second\.bias"):
        load_state(Small(), state, "weights.pt")


def test_weights_that_are_no_numbers_are_refused() -> None:
    network = nn.Linear(2, 1)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["bias"].fill_(float("nan"))

    with pytest.raises(CheckpointError, match=r"no numbers .* in bias, expected finite weights"):
        load_state(network, state, "nan.pt")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw, averaged: {"model": raw, "model_ema": averaged},
        lambda raw, averaged: {"state_dict": raw, "state_dict_ema": averaged},
        lambda raw, averaged: {"ema_state_dict": averaged},
        lambda raw, averaged: {"model": raw, "ema": {"decay": 0.99, "module": averaged}},
        lambda raw, averaged: {
            **{f"online_model.{key}": value for key, value in raw.items()},
            **{f"ema_model.module.{key}": value for key, value in averaged.items()},
        },
        lambda raw, averaged: {"n_averaged": torch.tensor(3), **_prefixed("module.", averaged)},
        lambda raw, averaged: {"state_dict": _prefixed("_orig_mod.", averaged)},
    ],
)
def test_averaged_weights_come_before_those_of_the_last_step(
    wrap: Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], object], tmp_path: Path
) -> None:
    averaged = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    raw = {key: torch.zeros_like(value) for key, value in averaged.items()}
    torch.save(wrap(raw, averaged), tmp_path / "ema.pt")

    found = read_state(tmp_path / "ema.pt")

    assert found.keys() == averaged.keys()
    assert all(torch.equal(found[key], value) for key, value in averaged.items())


def _prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def test_another_familys_checkpoint_is_named() -> None:
    state = {"adaptive_bins_layer.conv3x3.weight": torch.zeros(1)}

    with pytest.raises(CheckpointError, match=r"It looks like AdaBins\. Check"):
        load_state(nn.Linear(2, 1), state, "AdaBins_nyu.pt")
    names = ["MFF.up1.conv1.weight"]  # in the file, before they were renamed
    with pytest.raises(CheckpointError, match=r"a network of Hu et al\. Check"):
        load_state(nn.Linear(2, 1), state, "hu.pt", names=names)


def test_a_wrapper_that_holds_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pt")

    with pytest.raises(CheckpointError, match="holds a dict as 'model'"):
        read_state(tmp_path / "endless.pt")
