"""ZoeDepth's weights: official files, folders of transformers, and what its fit starts from."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_zoedepth import KINDS, card_of, images, run, stirred

from kdpipe.errors import CheckpointError
from kdpipe.nets.checkpoint import load_state
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.nets.zoedepth import ZoeDepth
from kdpipe.teachers import build_network, load_teacher


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_has_official_names_and_comes_back(kind: str) -> None:
    network = stirred(kind, classes=5)
    state = network.state_dict()
    assert state["core.core.pretrained.model.blocks.1.attn.qkv.weight"].shape == (96, 32)

    again = build_network(card_of(kind, classes=5)).eval()
    result = again.load_state_dict(state)

    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert list(again.state_dict()) == list(state)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())
    assert torch.equal(run(network, images(1)).depth, run(again, images(1)).depth)  # type: ignore[arg-type]


def test_an_official_file_may_lack_what_is_never_read() -> None:
    state = stirred(classes=5).state_dict()
    network = build_network(card_of(classes=5))
    assert isinstance(network, ZoeDepth)
    unused = [key for key in state if network.is_unused(key)]
    assert len(unused) == 4 + 4 + 2  # classifier, a table a block, two constants of the head
    read = {key: value for key, value in state.items() if key not in unused}

    load_state(network, read, "x", unused=network.is_unused)

    wrong = {**read, "head.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 left over: head\.weight"):
        load_state(network, wrong, "x", unused=network.is_unused)
    del read["conv2.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: conv2\.bias"):
        load_state(network, read, "x", unused=network.is_unused)


OLDER = (
    ("backbone.beit.embeddings.", "backbone.embeddings."),
    ("backbone.beit.layers.", "backbone.encoder.layer."),
    (".relative_position_bias.", ".attention.attention.relative_position_bias."),
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
"""transformers 5 -> the files of the hub, which transformers 4 wrote."""


@pytest.fixture(params=["as saved", "newest names", "older names"])
def folder(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> tuple[ZoeDepth, Path]:
    """A network, and the folder that transformers made of it."""
    network = stirred(kind)
    network.model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if request.param != "as saved":
        state = {k: v.clone() for k, v in network.model.state_dict().items()}
        if request.param == "older names":
            for new, old in OLDER:
                state = {k.replace(new, old): v for k, v in state.items()}
            index = "backbone.encoder.layer.0.attention.attention.relative_position_index"
            state[index] = torch.zeros(3, 3)
        save_file(state, path)
    return network, tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_transformers_is_a_checkpoint(folder: tuple[ZoeDepth, Path], kind: str) -> None:
    network, path = folder

    teacher = load_teacher(card_of(kind), checkpoint=path, mirror=False)

    assert isinstance(teacher.network, ZoeDepth)
    assert torch.equal(run(teacher.network, images(1)).depth, run(network, images(1)).depth)


def test_a_folder_is_as_strict_as_a_file(tmp_path: Path) -> None:
    stirred().model.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    state = load_file(weights)
    save_file({**state, "more": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match="1 left over: more"):
        load_teacher(card_of(), checkpoint=tmp_path)

    state.popitem()
    save_file(state, weights)
    with pytest.raises(CheckpointError, match="1 missing: "):
        load_teacher(card_of(), checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_teacher(card_of(bins=7), checkpoint=tmp_path)

    with pytest.raises(CheckpointError, match="its card says abababab"):
        load_teacher(replace(card_of(), weights_sha256="ab" * 32), checkpoint=tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_teacher(card_of(), checkpoint=tmp_path)

    config.write_text(json.dumps({"model_type": "dpt"}))
    with pytest.raises(CheckpointError, match="is of model_type 'dpt', expected 'zoedepth'"):
        load_teacher(card_of(), checkpoint=tmp_path)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read \(No such file"):
        load_teacher(card_of(), checkpoint=tmp_path)


def test_the_cards_range_overrules_a_folder_that_says_10(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = stirred("normed")
    network.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["bin_configurations"][0]["max_depth"] == 10.0
    caplog.set_level(logging.INFO)

    deep = load_teacher(replace(card_of("normed"), max_depth=80.0), checkpoint=tmp_path)

    assert re.findall("says max_depth .*", caplog.text) == [
        "says max_depth 10, the card's 80 is used"
    ]
    assert isinstance(deep.network, ZoeDepth)
    shallow, far = run(network, images(1)).depth, run(deep.network, images(1)).depth
    torch.testing.assert_close(far, (shallow - 1e-3) * (79.999 / 9.999) + 1e-3)


@pytest.mark.parametrize("holder", ["timm", "midas", "zoedepth"])
def test_it_starts_from_its_encoder_alone_or_from_a_relative_network(
    holder: str, tmp_path: Path
) -> None:
    make_torchvision_importable()
    from timm.models.beit import Beit

    network, core = stirred(), "core.core."
    beit = f"{core}pretrained.model."
    with torch.no_grad():
        noise = {k: torch.rand_like(v.float()) for k, v in network.state_dict().items()}
    expected = {k: v for k, v in noise.items() if not network.is_unused(k)}
    if holder == "timm":
        source = Beit(
            img_size=network.sizes.image,
            patch_size=16,
            embed_dim=32,
            depth=network.sizes.layers,
            num_heads=2,
            mlp_ratio=2,
            init_values=0.1,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
        )
        state = {k: noise.get(beit + k, v) for k, v in source.state_dict().items()}
        expected = {k: v for k, v in expected.items() if k.startswith(beit)}
    elif holder == "midas":
        state = {k.removeprefix(core): v for k, v in noise.items() if k.startswith(core)}
        expected = {k: v for k, v in expected.items() if k.startswith(core)}
    else:
        state = noise
    torch.save(state, tmp_path / "start.pt")
    before = {k: v.clone() for k, v in network.state_dict().items()}

    network.fill_encoder(tmp_path / "start.pt")

    found = network.state_dict()
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    kept = found.keys() - noise.keys() if holder == "zoedepth" else found.keys() - expected.keys()
    assert all(torch.equal(found[k], before[k]) for k in kept if not network.is_unused(k))
    state.pop(next(k for k in state if k.endswith("blocks.0.norm1.weight")))
    torch.save(state, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: .*blocks\.0\.norm1\.weight"):
        network.fill_encoder(tmp_path / "short.pt")
