"""A model's folder: loaded to the last entry, or refused in one line; nothing in it is run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_hub import NETWORKS, Save, card_of, change, image, made

from kdpipe.errors import CheckpointError
from kdpipe.teachers import load_teacher
from kdpipe.teachers.weights import digest_of, find_published, is_here, is_published


@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_of_fit_and_a_lone_safetensors_file_load_too(name: str, save: Save) -> None:
    folder, expected = save(name), made(name).state_dict()
    torch.save({"model": expected}, folder / "model.pt")

    for file in ("model.pt", "model.safetensors"):
        found = load_teacher(card_of(name), checkpoint=folder / file).network.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    with pytest.raises(CheckpointError, match="its card says abab"):
        load_teacher(
            replace(card_of(name), weights_sha256="ab" * 32),
            checkpoint=folder / "model.safetensors",
        )


def test_a_checkpoint_of_another_network_is_refused(save: Save) -> None:
    folder = save("glpn")

    with pytest.raises(CheckpointError, match=r"139 missing: back.*164 left over: dec") as caught:
        load_teacher(card_of("metric"), checkpoint=folder / "model.safetensors")
    assert "\n" not in str(caught.value)
    torch.save({"model": {"decoder.daspp_24.weight": torch.zeros(1)}}, folder / "bts.pt")
    with pytest.raises(CheckpointError, match=r"It looks like BTS\. Check"):
        load_teacher(card_of("metric"), checkpoint=folder / "bts.pt")


def rewrite(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda s: s.pop("head.conv3.bias"), r"1 missing: head\.conv3\.bias"),
        (lambda s: s.update(more=torch.zeros(1)), "1 left over: more"),
        (lambda s: s.update({"head.conv3.bias": torch.zeros(2)}), r"head\.conv3\.bias"),
    ],
)
def test_weights_are_loaded_to_the_last_entry(
    edit: Callable[[dict[str, torch.Tensor]], object],
    says: str,
    save: Save,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = save("metric")
    rewrite(folder, edit)
    capfd.readouterr()

    with pytest.raises(CheckpointError, match=says) as caught:
        load_teacher(card_of("metric"), checkpoint=folder)

    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["dpt", "relative"])
def test_what_the_first_fusion_never_reads_may_be_missing(name: str, save: Save) -> None:
    folder = save(name)
    expected = load_teacher(card_of(name), checkpoint=folder).predict(image()[None]).depth

    def drop(state: dict[str, torch.Tensor]) -> None:
        unread = [key for key in state if "fusion_stage.layers.0.residual_layer1" in key]
        assert unread
        for key in unread:
            del state[key]

    rewrite(folder, drop)

    found = load_teacher(card_of(name), checkpoint=folder).predict(image()[None]).depth
    assert torch.equal(found, expected)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was-run",)


def test_a_pickle_runs_nothing(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save("glpn")
    state: Mapping[str, object] = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**state, "evil": _Evil()}, folder / "pytorch_model.bin")

    with pytest.raises(CheckpointError) as caught:
        load_teacher(card_of("glpn"), checkpoint=folder)

    assert "\n" not in str(caught.value)
    assert not Path("was-run").exists()


def test_older_weights_of_torch_are_read_as_data(save: Save) -> None:
    folder = save("glpn")
    expected = load_teacher(card_of("glpn"), checkpoint=folder).predict(image()[None]).depth
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    found = load_teacher(card_of("glpn"), checkpoint=folder)

    assert torch.equal(found.predict(image()[None]).depth, expected)


def test_weights_in_several_files_are_one_model(save: Save) -> None:
    folder = save("glpn")
    expected = load_teacher(card_of("glpn"), checkpoint=folder).predict(image()[None]).depth
    whole = digest_of(folder)
    network = made("glpn")
    (folder / "model.safetensors").unlink()
    network.model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1

    found = load_teacher(card_of("glpn"), checkpoint=folder)

    assert torch.equal(found.predict(image()[None]).depth, expected)
    assert digest_of(folder) != whole


def test_a_folders_digest_is_of_all_that_decides_its_output(save: Save) -> None:
    folder = save("glpn")
    card = card_of("glpn")
    first = digest_of(folder)
    (folder / "README.md").write_text("nothing")
    assert digest_of(folder) == first
    load_teacher(replace(card, weights_sha256=first.upper()), checkpoint=folder)

    change(folder / "preprocessor_config.json", size_divisor=16)

    assert digest_of(folder) != first
    with pytest.raises(CheckpointError, match="its card says"):
        load_teacher(replace(card, weights_sha256=first), checkpoint=folder)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("model.safetensors", b"\0" * 8, "cannot be loaded"),
        ("model.safetensors", None, "has no model.safetensors or pytorch_model.bin"),
        ("config.json", b"{", "cannot be loaded"),
        ("config.json", b"{}", "cannot be loaded"),
        ("config.json", None, "has no config.json"),
        ("preprocessor_config.json", None, "has no preprocessor_config.json"),
        ("preprocessor_config.json", b"[]", "cannot be loaded"),
    ],
)
def test_a_folder_that_is_torn_is_one_line(
    file: str, content: bytes | None, says: str, save: Save
) -> None:
    folder = save("glpn")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)

    with pytest.raises(CheckpointError, match=says) as caught:
        load_teacher(card_of("glpn"), checkpoint=folder)
    assert "\n" not in str(caught.value)


def test_code_in_a_models_folder_is_not_asked_for(save: Save, tmp_path: Path) -> None:
    folder = save("glpn")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    change(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForDepthEstimation": "evil.Model"},
    )

    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_teacher(card_of("glpn"), checkpoint=folder)

    assert not (tmp_path / "was-run").exists()


def test_a_folder_in_the_card_is_found_and_recorded_as_a_file(save: Save) -> None:
    folder = save("glpn")
    card = card_of("glpn", hub=str(folder))

    found = find_published(card)

    assert found is not None
    assert (found.path, found.sha256, found.source) == (folder, digest_of(folder), "file")
    assert is_published(card)
    assert is_here(card)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="no folder here, and no name of the hub"):
        find_published(card)
