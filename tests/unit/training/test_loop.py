from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from kdpipe.cards import FitRecipe
from kdpipe.errors import TrainingError
from kdpipe.params import TrainParams
from kdpipe.rows import Rows
from kdpipe.training import checkpoint
from kdpipe.training.augment import Augment
from kdpipe.training.loop import (
    Plan,
    Trained,
    finish,
    train,
)
from kdpipe.training.samples import DistillDataset, Sample, Stream
from kdpipe.training.step import Step
from kdpipe.training.team import Team

RECIPE = FitRecipe(learning_rate=0.01, encoder_learning_rate_factor=0.1, warm_up=0.5)
PARAMS = TrainParams(height=32, width=48, batch_size=2, steps=8, validate_every=4)
MakeRows = Callable[..., Rows]


class Toy(nn.Module):
    """Two layers, and dropout: the part of a network that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, h, w)."""
        depth: Tensor = self.head(self.encoder(images))[:, 0]
        return depth


def loss(network: nn.Module, batch: Sample) -> Tensor:
    error = (network(batch["image"]).float() - batch["truth"]).abs()
    return torch.as_tensor(error[batch["valid"]].mean())


def validate(network: nn.Module, step: int) -> Mapping[str, float]:
    assert not network.training
    return {"abs_rel": 1 / step}


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


@pytest.fixture
def stream(make_tiny: MakeRows) -> Stream:
    return Stream([DistillDataset(make_tiny(), transform=Augment(size=(32, 48)))], seed=0)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        title="toy", folder=tmp_path / "run", recipe=RECIPE, params=PARAMS, identity={"a": 1}
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_dropout_is_the_same_after_a_resume(stream: Stream, plan: Plan) -> None:
    whole = toy()
    train(whole, stream, loss, validate, replace(plan, folder=plan.folder / "whole"))
    cut = toy()
    first = train(cut, stream, loss, validate, replace(plan, max_minutes=0.0))
    torch.rand(7)  # a new process's random state is another

    second = toy()
    done = train(second, stream, loss, validate, plan)

    assert (first.progress.step, first.finished) == (1, False)
    assert (done.progress.step, done.finished, done.new_steps) == (8, True, 7)
    assert same(whole, second)
    assert not same(whole, cut)


def test_ctrl_c_finishes_the_step_and_saves_it(stream: Stream, plan: Plan) -> None:
    def interrupted(network: nn.Module, batch: Sample) -> Tensor:
        if int(batch["row"][0]) == first_row_of_step_2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(network, batch)

    first_row_of_step_2 = int(stream[2 * PARAMS.batch_size]["row"])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(toy(), stream, interrupted, validate, plan)

    found = checkpoint.load_last(plan.folder, plan.identity)
    assert found is not None
    assert 1 <= found[0].step <= 3
    assert signal.getsignal(signal.SIGINT) is before


def test_the_encoder_has_its_own_learning_rate(stream: Stream, plan: Plan) -> None:
    train(toy(), stream, loss, validate, replace(plan, max_minutes=0.0))

    found = checkpoint.load_last(plan.folder, plan.identity)
    assert found is not None
    peaks = [group["max_lr"] for group in found[1]["optimizer"]["param_groups"]]
    assert peaks == pytest.approx([0.001, 0.01])


def test_one_cycle_rises_to_the_peak_and_falls_to_the_published_end(
    stream: Stream, plan: Plan
) -> None:
    each = replace(plan, params=replace(PARAMS, validate_every=1))

    done = train(toy(), stream, loss, validate, each)

    rates = [point.learning_rate for point in done.progress.points]
    assert max(rates) == pytest.approx(RECIPE.learning_rate, rel=0.05)
    assert rates[-1] == pytest.approx(
        RECIPE.learning_rate / RECIPE.start_division / RECIPE.end_division
    )


def test_the_curves_hold_each_validation_once(stream: Stream, plan: Plan) -> None:
    train(toy(), stream, loss, validate, replace(plan, max_minutes=0.0))
    stale = plan.folder / "dvclive/plots/metrics/val/abs_rel.tsv"
    stale.parent.mkdir(parents=True)
    stale.write_text("step\tabs_rel\n99\t1.0\n")  # a killed run's, beyond its checkpoint

    train(toy(), stream, loss, validate, plan)

    assert stale.read_text() == "step\tabs_rel\n4\t0.25\n8\t0.125\n"
    metrics = json.loads((plan.folder / "dvclive/metrics.json").read_text())
    assert metrics["step"] == 8
    assert set(metrics["train"]) == {"loss", "learning_rate"}


def test_bf16_trains(stream: Stream, plan: Plan) -> None:
    done = train(
        toy(), stream, loss, validate, replace(plan, params=replace(PARAMS, precision="bf16"))
    )

    assert done.finished


@pytest.mark.parametrize(
    ("wish", "compilers", "message"),
    [
        ({"precision": "fp16"}, "/usr/bin:/bin", "CUDA expected: take bf16 or fp32"),
        ({"compile": True}, "/nowhere", "no C\\+\\+ compiler here"),
    ],
)
def test_what_the_device_cannot_do_is_refused_before_the_first_step(
    wish: dict[str, Any],
    compilers: str,
    message: str,
    stream: Stream,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", compilers)
    monkeypatch.delenv("CXX", raising=False)

    with pytest.raises(TrainingError, match=message):
        train(toy(), stream, loss, validate, replace(plan, params=replace(PARAMS, **wish)))


class Plain(nn.Module):
    """No dropout: what is left is the same in pieces and at once."""

    def __init__(self, largest: int = 99) -> None:
        super().__init__()
        self.largest = largest
        self.sizes: list[int] = []
        self.encoder, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, h, w); more images than the largest batch do not fit."""
        self.sizes.append(len(images))
        if len(images) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        depth: Tensor = self.head(self.encoder(images))[:, 0]
        return depth


def plain(largest: int = 99) -> Plain:
    torch.manual_seed(0)
    return Plain(largest)


def mean_loss(network: nn.Module, batch: Sample) -> Tensor:
    """A mean over images, so that pieces of a batch add up to the batch's."""
    return torch.as_tensor((network(batch["image"]) - batch["truth"]).abs().mean())


def close(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def test_accumulated_batches_are_one_large_batch(stream: Stream, plan: Plan) -> None:
    networks = plain(), plain(), plain()
    sensitive = replace(RECIPE, epsilon=0.1)  # else Adam makes the same step of half a gradient
    sizes = ((6, 1), (2, 3), (2, 1))

    losses = []
    for network, (size, count) in zip(networks, sizes, strict=True):
        params = replace(PARAMS, batch_size=size, accumulate=count)
        folder = plan.folder / f"{size}x{count}"
        done = train(
            network,
            stream,
            mean_loss,
            validate,
            replace(plan, params=params, folder=folder, recipe=sensitive),
        )
        losses.append([point.loss for point in done.progress.points])

    assert networks[1].sizes == [2] * 24
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert close(networks[0], networks[1])
    assert not close(networks[0], networks[2])


def test_a_batch_that_does_not_fit_is_halved_and_accumulated_also_after_a_resume(
    stream: Stream, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    params = replace(PARAMS, batch_size=7)
    enough, short, resumed = plain(), plain(largest=2), plain(largest=2)
    train(
        enough, stream, mean_loss, validate, replace(plan, params=params, folder=plan.folder / "w")
    )

    cut = replace(plan, params=params, max_minutes=0.0)
    train(short, stream, mean_loss, validate, cut)
    done = train(resumed, stream, mean_loss, validate, replace(cut, max_minutes=None))

    assert short.sizes == [7, 4, *[2, 2, 2, 1]]
    assert resumed.sizes == [2, 2, 2, 1] * 7, "the piece's size is in the checkpoint"
    assert done.finished
    assert close(enough, resumed)
    said = [record.message for record in caplog.records if "out of memory" in record.message]
    assert [text[:52] for text in said] == [
        "cpu is out of memory: going on with pieces of 4 of a",
        "cpu is out of memory: going on with pieces of 2 of a",
    ]


def test_an_image_that_does_not_fit_at_all_is_one_line(stream: Stream, plan: Plan) -> None:
    with pytest.raises(TrainingError, match=r"one image does not fit .*lower height and width"):
        train(plain(largest=0), stream, mean_loss, validate, plan)


def test_a_network_that_cannot_be_compiled_is_one_line(stream: Stream, plan: Plan) -> None:
    def compiled(network: nn.Module, batch: Sample) -> Tensor:
        raise TorchDynamoException("C++ compile error\n\nCommand:\ng++ -O3 main.cpp")

    with pytest.raises(TrainingError, match=r"compiled \(C\+\+ compile error\).*out$") as caught:
        train(toy(), stream, compiled, validate, plan)

    assert "\n" not in str(caught.value)


def test_one_of_several_trainers_does_not_halve_alone(stream: Stream) -> None:
    """The others would wait for it at another place of the pass."""
    network, batch = plain(largest=0), next(stream.batches(2, 0, 1, part=[1]))
    one = Step(network, RECIPE, PARAMS, seed=0, device=torch.device("cpu"), team=Team(1, 2))

    with pytest.raises(TrainingError, match="2 trainers share each forward pass: lower batch_size"):
        one(batch, 0, mean_loss)

    assert network.sizes == [1]


def test_averaged_weights_are_judged_kept_and_resumed(stream: Stream, plan: Plan) -> None:
    def judge(network: nn.Module, step: int) -> Mapping[str, float]:
        judged.append([one.detach().clone() for one in network.parameters()])
        return {"abs_rel": 1 / step}

    judged: list[list[Tensor]] = []
    averaging = replace(plan, params=replace(PARAMS, ema=0.5, validate_every=1))
    raw, whole, cut, resumed = plain(), plain(), plain(), plain()
    train(raw, stream, mean_loss, validate, replace(plan, folder=plan.folder / "raw"))
    train(whole, stream, mean_loss, judge, replace(averaging, folder=plan.folder / "whole"))
    train(cut, stream, mean_loss, validate, replace(averaging, max_minutes=0.0))

    train(resumed, stream, mean_loss, validate, averaging)

    assert same(whole, resumed)
    assert not close(whole, raw)
    assert all(torch.equal(a, b) for a, b in zip(judged[-1], whole.parameters(), strict=True))
    best = load_file(plan.folder / "checkpoints/best.safetensors")
    assert torch.equal(best["head.weight"], whole.head.weight)


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(stream: Stream, plan: Plan) -> None:
    def breaks(network: nn.Module, batch: Sample) -> Tensor:
        calls.append(1)
        return loss(network, batch) * (float("nan") if len(calls) == 6 else 1)

    calls: list[int] = []
    with pytest.raises(TrainingError, match=r"loss is nan at step 5.*learning_rate") as caught:
        train(toy(), stream, breaks, validate, plan)

    found = checkpoint.load_last(plan.folder, plan.identity)
    assert found is not None
    assert found[0].step == 4
    ids = [f"tiny/{stream.parts[0].rows[int(stream[k]['row'])].id}" for k in (10, 11)]
    assert f"the batch was {', '.join(ids)}: lower" in str(caught.value)


@pytest.mark.parametrize("limit", [35.0, None])
@pytest.mark.parametrize(("broken", "left"), [(6, 4), (8, 4), (1, None)])
def test_a_gradient_that_is_no_number_is_not_kept_and_its_own_batch_is_named(
    broken: int, left: int | None, limit: float | None, stream: Stream, plan: Plan
) -> None:
    """Found at the next loss, or where the state would be saved: at the end, or as time is up."""

    def breaks(network: nn.Module, batch: Sample) -> Tensor:
        calls.append(1)
        found = loss(network, batch)
        return found + (found * 0).sqrt() if len(calls) == broken else found

    calls: list[int] = []
    recipe = replace(RECIPE, clip_gradient_norm=limit)
    minutes = 0.0 if broken == 1 else None
    with pytest.raises(TrainingError, match=f"no number at step {broken - 1}") as caught:
        train(toy(), stream, breaks, validate, replace(plan, recipe=recipe, max_minutes=minutes))

    found = checkpoint.load_last(plan.folder, plan.identity)
    assert (None if found is None else found[0].step) == left
    first = 2 * (broken - 1)
    ids = [f"tiny/{stream.parts[0].rows[int(stream[first + k]['row'])].id}" for k in (0, 1)]
    assert f"the batch was {', '.join(ids)}: lower" in str(caught.value)


def test_metrics_say_how_it_ended(stream: Stream, plan: Plan) -> None:
    done: Trained = train(toy(), stream, loss, validate, plan)

    finish(plan, done, {"parameters": 5})

    said = json.loads((plan.folder / "metrics.json").read_text())
    assert (said["steps"], said["finished"], said["abs_rel"]) == (8, True, 0.125)
    assert said["parameters"] == 5
