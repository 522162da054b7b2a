"""Models of transformers: the depth that the published code gives, and their training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tests.tiny_hub import NETWORKS, RELATIVE, Save, card_of, image, made

from kdpipe.codecs import Log16
from kdpipe.errors import CardError, DataError
from kdpipe.store.frame import to_frame
from kdpipe.teachers import load_teacher, make_teacher


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
        frame = out.depth_in_frame(*size)[0]

        torch.testing.assert_close(frame, expected, rtol=1e-5, atol=1e-6)
        if name not in RELATIVE:  # the others are no metres, and come into no store
            codec = Log16(1e-8, 4e8)
            kept = codec.decode(codec.encode(out.depth[0].numpy()))
            bound = codec.max_relative_error * (3 if out.rule == "bicubic" else 1.01)
            exact, read = (
                to_frame(each, size, rule=out.rule, near=codec.near)
                for each in (out.depth[0].numpy(), kept)
            )
            np.testing.assert_allclose(exact, frame, rtol=1e-4)  # a pixel's place is known to 1e-5
            np.testing.assert_allclose(read, exact, rtol=bound)


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
