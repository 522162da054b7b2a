"""ZoeDepth beyond the contract of all teachers: its bins, its router, its files, its frames."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.errors import CardError, CheckpointError, DataError
from kdpipe.nets.checkpoint import load_state
from kdpipe.nets.log_binomial import LogBinomialBins, log_binomial, pair_of, replay
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.nets.zoedepth import ZoeDepth, ZoeDepthOutput
from kdpipe.nets.zoedepth_names import relative_position_index
from kdpipe.teachers import build_network, load_teacher, make_teacher
from kdpipe.teachers.base import BICUBIC_PADDED, resize
from kdpipe.teachers.zoedepth import network_size

SMALL = load_teacher_card("zoedepth-small")
TINY = {
    **SMALL.network,
    **{"hidden": 32, "heads": 2, "feed_forward": 64, "neck": [8, 8, 16, 16], "fusion": 16},
}
KINDS: dict[str, dict[str, object]] = {
    "softplus": {},
    "normed": {"centers": "normed"},
    "routed": {"domains": ["nyu", "kitti"]},
}


def card_of(kind: str = "softplus", **changes: object) -> TeacherCard:
    return replace(SMALL, network={**TINY, **KINDS[kind], **changes})


def stirred(kind: str = "softplus", **changes: object) -> ZoeDepth:
    """Weights as trained ones are: positions matter, layer scales differ, centres spread."""
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(0)
    network = build_network(card_of(kind, **changes)).eval()
    assert isinstance(network, ZoeDepth)
    for name, value in network.named_parameters():
        with torch.no_grad():
            if value.ndim == 1 or "relative_position" in name:
                value.add_(0.3 * torch.randn(value.shape, generator=generator))
            if name.endswith("conv2.weight") or ".mlp.2." in name:
                value.mul_(4)
    return network


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def networks() -> dict[str, ZoeDepth]:
    return {kind: stirred(kind) for kind in KINDS}


def images(batch: int, height: int = 64, width: int = 96) -> Tensor:
    """Flat colours with some noise, so that a router may tell them apart."""
    generator = torch.Generator().manual_seed(2)
    colours = torch.rand(batch, 3, 1, 1, generator=generator)
    return 0.7 * colours + 0.3 * torch.rand(batch, 3, height, width, generator=generator)


def run(network: ZoeDepth, rgb: Tensor) -> ZoeDepthOutput:
    with torch.no_grad():
        out: ZoeDepthOutput = network(rgb)
    return out


# Sizes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer": 3}, r"teachers/zoedepth-small: network: unknown key 'layer'\. Known: attract"),
        ({"centers": "wild"}, "expected one of softplus, normed"),
        ({"preprocess": "train"}, "expected one of eval, infer"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"heads": 5}, "hidden must be a multiple of heads"),
        ({"image": 100}, "image must be a multiple of 16"),
        ({"taps": [1, 2, 3, 5]}, r"taps must rise within 1\.\.4, got \[1, 2, 3, 5\]"),
        ({"taps": [1, 3, 2, 4]}, "taps must rise"),
        ({"taps": [1, 2, 4]}, "a list of a whole number, a whole number"),
        ({"fusion": 15}, "fusion even"),
        ({"bins": 1}, "bins and embedding must be at least 2"),
        ({"domains": ["nyu"]}, r"domains must be two or none, got \['nyu'\]"),
        ({"domains": ["a", "a"]}, "domains must be two or none"),
        ({"domains": ["a.b", "c"]}, "domains must be plain names"),
        ({"domains": ["a", "b"], "centers": "normed"}, "domains have centres of `softplus` only"),
        ({"target": [100, 128]}, "target must be positive multiples of 32"),
        ({"preprocess": "infer"}, "`infer` needs a target"),
    ],
)
def test_a_wrong_network_section_is_one_line(change: dict[str, object], expected: str) -> None:
    with pytest.raises(CardError, match=expected) as error:
        build_network(replace(SMALL, network={**SMALL.network, **change}))
    assert "\n" not in str(error.value)


def test_two_input_sizes_are_refused() -> None:
    with pytest.raises(CardError, match=r"input_size and network\.target both say"):
        build_network(replace(card_of(target=[64, 96]), input_size=(64, 96)))


@pytest.mark.parametrize(
    ("frame", "target", "expected"),
    [
        ((572, 746), (384, 512), (384, 512)),
        ((430, 1362), (384, 768), (384, 1216)),
        ((457, 1390), (384, 768), (384, 1152)),
        ((192, 640), (384, 768), (224, 768)),
        ((10, 1000), (384, 512), (32, 512)),
    ],
)
def test_infer_keeps_the_aspect_and_scales_as_little_as_it_can(
    frame: tuple[int, int], target: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert network_size(frame, target, keep_aspect=True) == expected
    assert network_size(frame, target) == target


# The network, and its bins


def test_it_computes_what_transformers_does(networks: dict[str, ZoeDepth], kind: str) -> None:
    network = networks[kind]
    for rgb in (images(1), images(1, 128, 64)):
        out = run(network, rgb)

        with torch.no_grad():
            theirs = network.model((rgb - 0.5) / 0.5)

        torch.testing.assert_close(out.depth, theirs.predicted_depth, rtol=1e-5, atol=1e-5)
        assert out.depth.std() > 1e-3
        if kind == "routed":
            torch.testing.assert_close(out.bins.domain_logits, theirs.domain_logits)


def test_bins_are_rebuilt_from_what_is_kept_alone(networks: dict[str, ZoeDepth], kind: str) -> None:
    network, seen, rgb = networks[kind], [], images(1)
    head = network.model.metric_head
    domains = [f".{name}" for name in network.sizes.domains] or [""]
    parts = [head.get_submodule(f"conditional_log_binomial{d}") for d in domains]
    last = [head.get_submodule(f"attractors{d}.3") for d in domains]
    hooks = [p.register_forward_hook(lambda *a: seen.append(a[2])) for p in (*parts, *last)]
    with torch.no_grad():
        network.model((rgb - 0.5) / 0.5)
    for hook in hooks:
        hook.remove()
    (_, centers), probabilities = seen  # of the head that was chosen, in this order

    bins = run(network, rgb).bins

    copies = LogBinomialBins(
        bins.p.clone(), bins.temperature.clone(), bins.seeds.clone(), bins.attractors, bins.span
    )
    error = (copies.probabilities() - probabilities).abs()
    assert error.max() <= 5e-4
    assert error.mean() <= 1e-6
    assert probabilities.std() > 1e-3
    expected = resize(centers, (64, 96))
    torch.testing.assert_close(copies.centers(), expected, rtol=1e-5, atol=1e-5)


def test_probabilities_are_the_published_form_where_that_can_be_told() -> None:
    def published(p: Tensor, temperature: Tensor) -> Tensor:
        k = torch.arange(64, dtype=torch.float64).view(-1, 1, 1)
        p, temperature = p.double(), temperature.double()
        stirling = 63 * torch.tensor(63.0).log() - torch.xlogy(k, k) - torch.xlogy(63 - k, 63 - k)
        odds = k * p.clamp(1e-4, 1).log() + (63 - k) * (1 - p).clamp(1e-4, 1).log()
        return ((stirling + odds) / temperature).softmax(dim=0)

    p = torch.linspace(-9.3, 9.3, 300).sigmoid()[:, None].expand(300, 120)
    temperature = torch.logspace(-1.67, 1.69, 120)[None].expand(300, 120)

    found = log_binomial(p[None], temperature[None], 64)[0]

    error = (found - published(p, temperature)).abs()
    assert error.max() <= 5e-4  # at the coldest, where float32 knows an exponent to 1e-3
    assert error.mean() <= 1e-6
    assert (found.sum(dim=0) - 1).abs().max() <= 1e-5


def test_the_pair_is_two_ratios() -> None:
    p, temperature = pair_of(torch.tensor([3.0, 1, 0, 0]).view(1, 4, 1, 1), 0.0212, 50.0)

    assert p.item() == pytest.approx(3.0001 / 4.0002)
    assert temperature.item() == pytest.approx((50 - 0.0212) / 2 + 0.0212)


def test_centres_are_drawn_by_the_mean_of_what_attractors_ask() -> None:
    seeds = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    points = torch.tensor([1.1, 3.0]).view(1, 2, 1, 1)

    centers = replay(seeds, [points]).flatten()

    for found, c in zip(centers.tolist(), (1.0, 2.0), strict=True):
        shifts = [(a - c) / (1 + 300 * (a - c) ** 2) for a in (1.1, 3.0)]
        assert found == pytest.approx(c + sum(shifts) / 2)


def test_normed_centres_stay_in_the_cards_range_and_rise(networks: dict[str, ZoeDepth]) -> None:
    centers = run(networks["normed"], images(2)).centers

    assert centers.min() >= SMALL.min_depth - 1e-6
    assert centers.max() <= SMALL.max_depth + 1e-5
    assert (centers.diff(dim=1) >= -1e-5).all()


# The router


def test_each_image_is_routed_by_itself_whatever_its_batch(networks: dict[str, ZoeDepth]) -> None:
    network = stirred("routed")
    rgb = images(6)
    logits = run(network, rgb).bins.domain_logits
    assert logits is not None
    leaning, order = (logits[:, 1] - logits[:, 0]).sort()
    with torch.no_grad():  # half of the images choose one head, half the other
        network.model.metric_head.mlp_classifier.linear2.bias[1] -= leaning[2:4].mean()
    rgb = rgb[order[[3, 0, 4, 5, 1, 2]]]

    together = run(network, rgb)

    assert together.bins.domain_logits is not None
    assert together.bins.domain_logits.argmax(dim=1).tolist() == [1, 0, 1, 1, 0, 0]
    for number, image in enumerate(rgb):
        alone = run(network, image[None])
        # The heads are steep, and a batch sums otherwise.
        torch.testing.assert_close(together.depth[number], alone.depth[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.centers[number], alone.centers[0], rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            theirs = network.model((image[None] - 0.5) / 0.5).predicted_depth
        torch.testing.assert_close(alone.depth, theirs, rtol=1e-4, atol=1e-4)


# Training


def test_every_parameter_that_the_forward_reads_gets_a_gradient(kind: str) -> None:
    network = stirred(kind).train()
    out: ZoeDepthOutput = network(images(4))

    out.depth.square().mean().backward()  # type: ignore[no-untyped-call]

    chosen = out.bins.domain_logits
    heads = ["nyu", "kitti"] if chosen is not None else []
    absent = [h for i, h in enumerate(heads) if chosen is not None and i not in chosen.argmax(1)]
    idle = {n for n, p in network.named_parameters() if p.grad is None}
    # The first fusion block has no finer map to add; a router's choice has no gradient, and behind
    # it the relative depth itself is not read.
    unread = ["fusion_stage.layers.0.residual_layer1", *(f".{name}." for name in absent)]
    if chosen is not None:
        unread += ["patch_transformer", "mlp_classifier", "relative_head.conv3"]
    assert {name for name in idle if not any(part in name for part in unread)} == set()


def test_a_training_follows_a_prediction_in_the_same_process() -> None:
    network = build_network(card_of())
    make_teacher(SMALL, network, mirror=False).predict(images(1, 96, 32))

    out: ZoeDepthOutput = network.train()(images(1, 96, 32))

    out.depth.mean().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("kind", "metres"), [("softplus", 2.5), ("normed", 2.5), ("routed", 4.0)])
def test_a_head_starts_at_the_datas_depths(kind: str, metres: float) -> None:
    torch.manual_seed(0)
    network = build_network(card_of(kind))
    assert isinstance(network, ZoeDepth)
    depths = metres * torch.rand(3000, generator=torch.Generator().manual_seed(1)).add(0.5)

    network.start_at(depths)

    depth = run(network.eval(), images(3)).depth
    assert depth.median().item() == pytest.approx(metres, rel=0.2)


def test_the_encoder_can_have_its_own_learning_rate(networks: dict[str, ZoeDepth]) -> None:
    network = networks["softplus"]

    assert {id(p) for p in network.backbone.parameters()} < {id(p) for p in network.parameters()}


# Files


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


def test_positions_are_those_of_transformers(networks: dict[str, ZoeDepth]) -> None:
    layers: Any = networks["softplus"].backbone.beit.layers  # type: ignore[union-attr]

    theirs = layers[0].relative_position_bias.generate_relative_position_index((5, 5))

    assert torch.equal(relative_position_index(5), theirs)


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
def folder(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> tuple[Any, ...]:
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
    return kind, network, tmp_path


def test_a_folder_of_transformers_is_a_checkpoint(folder: tuple[Any, ...]) -> None:
    kind, network, path = folder

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


# Frames


def test_eval_looks_at_exactly_the_target() -> None:
    card = card_of(target=[64, 128])
    network = stirred()
    rgb = images(1, 75, 101)

    out = make_teacher(card, _with(network, card), mirror=False).predict(rgb)

    expected = run(network, resize(rgb, (64, 128))).depth
    assert torch.equal(out.depth, expected.clamp(card.min_depth, card.max_depth))
    assert out.rule == "bilinear-align-corners"


def test_infer_pads_by_reflection_and_comes_back_bicubically() -> None:
    card = card_of(target=[64, 96], preprocess="infer")
    network = stirred()
    rgb = images(1, 72, 100)
    teacher = make_teacher(card, _with(network, card), mirror=False)

    out = teacher.predict(rgb)
    frame = out.depth_in_frame(72, 100)

    padded = F.pad(rgb, (21, 21, 18, 18), mode="reflect")  # 3 * sqrt(50), 3 * sqrt(36)
    depth = run(network, resize(padded, (64, 96))).depth
    whole = F.interpolate(depth[:, None], (108, 142), mode="bicubic", align_corners=False)
    assert out.rule == BICUBIC_PADDED
    assert teacher.size_seen(72, 100) == (64, 96)
    torch.testing.assert_close(frame, whole[:, 0, 18:90, 21:121])


def test_infer_averages_with_the_mirrored_image_as_in_the_frame() -> None:
    card = card_of(target=[64, 96], preprocess="infer")
    network = _with(stirred(), card)
    rgb = images(1, 72, 100)
    plain = make_teacher(card, network, mirror=False)

    both = make_teacher(card, network, mirror=True).predict(rgb).depth_in_frame(72, 100)

    seen = plain.predict(rgb).depth_in_frame(72, 100)
    mirrored = plain.predict(rgb.flip(-1)).depth_in_frame(72, 100).flip(-1)
    torch.testing.assert_close(both, (seen + mirrored) / 2, rtol=1e-5, atol=1e-5)


def test_a_frame_too_small_to_reflect_is_refused() -> None:
    card = card_of(target=[64, 96], preprocess="infer")

    with pytest.raises(DataError, match="4x9 pixels cannot be padded by 4 rows and 6 columns"):
        make_teacher(card, build_network(card)).predict(images(1, 4, 9))


def _with(network: ZoeDepth, card: TeacherCard) -> ZoeDepth:
    """Those weights in another card's network."""
    other = build_network(card).eval()
    other.load_state_dict(network.state_dict())
    assert isinstance(other, ZoeDepth)
    return other


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
