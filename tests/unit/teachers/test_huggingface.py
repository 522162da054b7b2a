"""Models of transformers, tiny and random, saved to a folder as at the hub; no network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

from kdpipe.cards import TeacherCard, card_names, load_teacher_card
from kdpipe.codecs import Log16
from kdpipe.errors import CardError, CheckpointError, DataError
from kdpipe.nets.hub_network import HubNetwork
from kdpipe.store.frame import to_frame
from kdpipe.teachers import build_network, load_teacher, make_teacher
from kdpipe.teachers.weights import digest_of, find_published, is_here, is_published

BACKBONE = {
    "model_type": "dinov2",
    "image_size": 56,
    "patch_size": 14,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
}
ANYTHING = {
    "model_type": "depth_anything",
    "backbone_config": BACKBONE,
    "reassemble_hidden_size": 16,
    "neck_hidden_sizes": [4, 8, 12, 16],
    "fusion_hidden_size": 8,
    "head_hidden_size": 4,
}
PROCESSOR = {
    "image_processor_type": "DPTImageProcessor",
    "size": {"height": 56, "width": 56},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
VIT = {
    "model_type": "dinov2",
    "image_size": 32,
    "patch_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "use_mask_token": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "metric": {
        "config": {**ANYTHING, "depth_estimation_type": "metric", "max_depth": 20},
        "processor": PROCESSOR,
    },
    "relative": {"config": ANYTHING, "processor": PROCESSOR},
    "dpt": {
        "config": {
            "model_type": "dpt",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 64,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [4, 8, 12, 16],
            "fusion_hidden_size": 8,
        },
        "processor": {
            "image_processor_type": "DPTImageProcessor",
            "size": {"height": 64, "width": 64},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    },
    "glpn": {
        "config": {
            "model_type": "glpn",
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 8,
        },
        "processor": {"image_processor_type": "GLPNImageProcessor"},
    },
    "pro": {
        "config": {
            "model_type": "depth_pro",
            "use_fov_model": True,
            "patch_size": 32,
            "fusion_hidden_size": 16,
            "intermediate_hook_ids": [1, 0],
            "intermediate_feature_dims": [8, 8],
            "scaled_images_feature_dims": [16, 16, 8],
            "image_model_config": VIT,
            "patch_model_config": VIT,
            "fov_model_config": VIT,
        },
        "processor": {
            "image_processor_type": "DepthProImageProcessor",
            "size": {"height": 128, "width": 128},
        },
    },
}
RELATIVE = ("relative", "dpt")
Save = Callable[[str], Path]


def card_of(name: str, **network: object) -> TeacherCard:
    kind = "affine-invariant" if name in RELATIVE else "metric"
    return TeacherCard(
        name=name,
        family="huggingface",
        network=network or NETWORKS[name],
        min_depth=1e-4,
        max_depth=1e4,
        about={"kind": kind, "weights": "at the hub"},
    )


def made(name: str) -> HubNetwork:
    """A network with uneven weights: fresh ones give nearly the same depth everywhere."""
    torch.manual_seed(0)
    network = build_network(card_of(name))
    assert isinstance(network, HubNetwork)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn_like(value))
        if name == "pro":  # whose heads end in a ReLU and in degrees
            for part, bias in (("head.layers.4", 3.0), ("fov_model.head.layers.4", 60.0)):
                network.get_parameter(f"{part}.bias").fill_(bias)
    return network.eval()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a tiny model as the hub has it, and gives its folder."""

    def saved(name: str) -> Path:
        folder, network = tmp_path / f"{name} folder", made(name)
        network.model.save_pretrained(folder)
        network.processor.save_pretrained(folder)
        return folder

    return saved


def image(height: int = 75, width: int = 101) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_gives_what_the_pipeline_of_transformers_gives(name: str, save: Save) -> None:
    import transformers

    folder, pixels = save(name), image()
    pipeline: Any = transformers.pipeline("depth-estimation", model=str(folder), device="cpu")
    with torch.inference_mode():
        said = pipeline.forward(pipeline.preprocess(Pillow.fromarray(pixels)))
        expected = said["predicted_depth"]
    if name == "pro":  # its processor makes metres of it
        process = pipeline.image_processor.post_process_depth_estimation
        expected = process(said, [expected.shape[1:]])[0]["predicted_depth"][None]

    out = load_teacher(card_of(name, hub=str(folder))).predict(pixels[None])

    found = out.depth_in_frame(*expected.shape[1:])  # its own size
    assert found.std() > 1e-4 * found.mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frame_is_what_the_models_own_processor_makes_of_its_map(name: str) -> None:
    network, pixels = made(name), image()
    out = make_teacher(card_of(name), network).predict(pixels[None])
    process = network.processor.post_process_depth_estimation
    with torch.inference_mode():
        said = network.model(**network.processor(Pillow.fromarray(pixels), return_tensors="pt"))

    for size in ((75, 101), (203, 157), (31, 44)):
        expected = process(said, [size])[0]["predicted_depth"]

        torch.testing.assert_close(out.depth_in_frame(*size)[0], expected, rtol=1e-5, atol=1e-6)
        if name not in RELATIVE:  # the others are no metres, and come into no store
            codec = Log16(1e-8, 4e8)
            kept = codec.decode(codec.encode(out.depth[0].numpy()))
            bound = codec.max_relative_error * (3 if out.rule == "bicubic" else 1.01)
            read = to_frame(kept, size, rule=out.rule, near=codec.near)
            np.testing.assert_allclose(read, expected, rtol=bound)


def test_the_sky_of_depth_pro_mixes_with_what_is_before_it_as_published() -> None:
    network = made("pro")
    with torch.inference_mode():
        said = network.model(**network.processor(Pillow.fromarray(image()), return_tensors="pt"))
    said.predicted_depth = 0.1 * torch.rand(1, 128, 128)
    said.predicted_depth[..., 64:] = 0.0
    network.model.forward = lambda **_: said
    expected = network.processor.post_process_depth_estimation(said, [(75, 101)])

    found = make_teacher(card_of("pro"), network).predict(image()[None]).depth_in_frame(75, 101)[0]

    assert (found == 1e4).float().mean() == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(found, expected[0]["predicted_depth"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_card_makes_the_network_without_its_files(name: str, save: Save) -> None:
    folder = save(name)

    alone = build_network(card_of(name))
    torch.manual_seed(1)
    loaded = load_teacher(card_of(name), checkpoint=folder).network

    assert list(alone.state_dict()) == list(loaded.state_dict())
    expected = made(name).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


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


def test_images_of_either_kind_are_the_same_image(save: Save) -> None:
    teacher = load_teacher(card_of("metric"), checkpoint=save("metric"))
    as_float = torch.from_numpy(image()).permute(2, 0, 1)[None].float() / 255

    assert torch.equal(teacher.predict(image()[None]).depth, teacher.predict(as_float).depth)


def test_a_relative_map_is_what_the_model_says_and_a_metric_one_is_lifted_to_the_cards_smallest(
    save: Save,
) -> None:
    relative, metric = save("relative"), save("metric")

    said = load_teacher(
        replace(card_of("relative"), min_depth=9.0, max_depth=9.5), checkpoint=relative
    )
    lifted = load_teacher(
        replace(card_of("metric"), min_depth=9.0, max_depth=9.5), checkpoint=metric
    )

    own = said.predict(image()[None]).depth
    depth = lifted.predict(image()[None]).depth
    assert ((own < 9) | (own > 9.5)).any()
    assert depth.min() == 9
    assert depth.max() > 9.5, "nothing above is clipped: the published code clips nothing either"


def test_what_the_hub_has_wrong_is_overruled(save: Save) -> None:
    folder = save("glpn")
    plain = card_of("glpn", hub=str(folder))
    mended = card_of("glpn", hub=str(folder), override={"max_depth": 80})

    ten = load_teacher(plain).predict(image()[None]).depth
    eighty = load_teacher(mended).predict(image()[None]).depth

    torch.testing.assert_close(eighty, 8 * ten)
    with pytest.raises(CardError, match=r"config\.json has no 'max_dept'"):
        load_teacher(card_of("glpn", hub=str(folder), override={"max_dept": 80}))


def test_files_win_over_the_card_and_the_difference_is_said(
    save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save("metric")
    change(folder / "config.json", max_depth=40)

    found = load_teacher(card_of("metric"), checkpoint=folder)

    assert found.network.config.max_depth == 40  # type: ignore[union-attr]
    assert "max_depth is 40, not 20 as in the card" in caplog.text


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("metric", {"depth_estimation_type": "relative"}, "the model's own .* 'affine-invariant'"),
        ("relative", {"depth_estimation_type": "metric"}, "the model's own .* says 'metric'"),
        ("pro", {"use_fov_model": False}, "'affine-invariant': take the card of this model"),
        ("glpn", {"model_type": "zoedepth"}, "family zoedepth: take one of its cards"),
        ("glpn", {"model_type": "bert"}, "bert is no model for depth estimation"),
    ],
)
def test_a_model_that_is_not_the_cards_is_refused(
    name: str, changed: dict[str, object], says: str, save: Save
) -> None:
    folder = save(name)
    if changed.get("model_type") == "bert":
        (folder / "config.json").write_text("{}")
    change(folder / "config.json", **changed)

    with pytest.raises(CardError, match=says) as caught:
        load_teacher(card_of(name), checkpoint=folder)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({}, "found neither hub nor config"),
        ({"config": {"model_type": "glpn"}}, "'processor' is missing"),
        ({"hubb": "a/b"}, "unknown key 'hubb'"),
        (
            {**NETWORKS["glpn"], "config": {"model_type": "glpm"}},
            "model_type: found 'glpm'",
        ),
        (
            {**NETWORKS["glpn"], "config": {"model_type": "glpn", "dephts": [1]}},
            r"config: unknown key 'dephts'\. Known: .*depths",
        ),
        (
            {**NETWORKS["glpn"], "config": {"model_type": "glpn", "max_depth": "far"}},
            "config: .*max_depth",
        ),
        (
            {
                **NETWORKS["metric"],
                "config": {**ANYTHING, "backbone_config": {**BACKBONE, "layers": 1}},
            },
            "backbone_config: unknown key 'layers'",
        ),
        (
            {**NETWORKS["glpn"], "processor": {"image_processor_type": "AutoModel"}},
            "image_processor_type: found 'AutoModel'",
        ),
        (
            {
                **NETWORKS["glpn"],
                "processor": {"image_processor_type": "GLPNImageProcessor", "devisor": 3},
            },
            "processor: unknown key 'devisor'",
        ),
    ],
)
def test_a_mistake_in_the_card_is_named(network: dict[str, object], says: str) -> None:
    with pytest.raises(CardError, match=says) as caught:
        build_network(replace(card_of("glpn"), network=network))
    assert "\n" not in str(caught.value)


def test_an_image_that_is_too_small_is_refused() -> None:
    with pytest.raises(DataError, match="images of 20x300 pixels cannot be prepared for glpn"):
        made("glpn")(torch.zeros(1, 3, 20, 300))


def test_a_head_starts_at_the_datas_depth() -> None:
    for name in ("glpn", "metric"):
        network = made(name)
        with torch.no_grad():
            network._sigmoid_head()[0].weight.zero_()
        network.start_at(torch.tensor([2.0, 8.0]))
        with torch.inference_mode():
            depth = network(torch.rand(1, 3, 64, 64)).depth
        torch.testing.assert_close(depth, torch.full_like(depth, 4.0))
    with pytest.raises(CardError, match="the head of dpt has no such start"):
        made("dpt").start_at(torch.ones(1))


def test_training_reaches_every_part_and_evaluation_ends_it() -> None:
    network = made("glpn").train()
    assert network.model.training

    network(torch.rand(2, 3, 64, 64)).depth.log().mean().backward()

    assert all(value.grad is not None for value in network.parameters())
    assert not network.eval().model.training


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


@pytest.mark.parametrize(
    "name",
    [name for name in card_names("teachers") if load_teacher_card(name).family == "huggingface"],
)
def test_a_card_of_the_hub_says_how_large_its_network_is(name: str) -> None:
    millions = {
        "depth-anything-v2-small": 24.8,
        "depth-anything-v2-base": 97.5,
        "depth-anything-v2-large": 335.3,
        "dpt-large": 343.0,
        "depth-pro": 952.0,
        "glpn-nyu": 61.2,
        "glpn-kitti": 61.2,
        "huggingface-small": 1.0,
    }
    published = name.replace("metric-indoor-", "").replace("metric-outdoor-", "")

    with torch.device("meta"):
        network = build_network(load_teacher_card(name))

    count = sum(value.numel() for value in network.parameters())
    assert round(count / 1e6, 1) == millions[published]
