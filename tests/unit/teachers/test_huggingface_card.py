"""What a card says of a model at the hub, where its files say otherwise, and mistakes in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.tiny_hub import ANYTHING, BACKBONE, NETWORKS, Save, card_of, change, image, made

from kdpipe.cards import card_names, load_teacher_card
from kdpipe.errors import CardError
from kdpipe.teachers import build_network, load_teacher


@pytest.mark.parametrize("name", NETWORKS)
def test_a_card_makes_the_network_without_its_files(name: str, save: Save) -> None:
    folder = save(name)

    alone = build_network(card_of(name))
    torch.manual_seed(1)
    loaded = load_teacher(card_of(name), checkpoint=folder).network

    assert list(alone.state_dict()) == list(loaded.state_dict())
    expected = made(name).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


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
