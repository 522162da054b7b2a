"""ZoeDepth's network: its bins, its router, what trains it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny_zoedepth import KINDS, SMALL, card_of, images, run, stirred
from torch import Tensor

from kdpipe.nets.log_binomial import LogBinomialBins, log_binomial, pair_of, replay
from kdpipe.nets.zoedepth import ZoeDepth, ZoeDepthOutput
from kdpipe.nets.zoedepth_names import relative_position_index
from kdpipe.teachers import build_network, make_teacher
from kdpipe.teachers.base import resize


@pytest.fixture(scope="module")
def networks() -> dict[str, ZoeDepth]:
    return {kind: stirred(kind) for kind in KINDS}


# The network, and its bins


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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


def test_positions_are_those_of_transformers(networks: dict[str, ZoeDepth]) -> None:
    layers: Any = networks["softplus"].backbone.beit.layers  # type: ignore[union-attr]

    theirs = layers[0].relative_position_bias.generate_relative_position_index((5, 5))

    assert torch.equal(relative_position_index(5), theirs)
