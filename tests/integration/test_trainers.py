"""Two trainers of Ray Train learn what one learns, and one goes on where two stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.cards import FitRecipe
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import TrainingError
from kdpipe.losses import silog
from kdpipe.params import TrainParams
from kdpipe.students.base import StudentOutput
from kdpipe.training.augment import Augment
from kdpipe.training.loop import Plan, train
from kdpipe.training.samples import DistillDataset, Sample, Stream
from kdpipe.training.team import ALONE, Team
from kdpipe.training.trainers import train_together
from kdpipe.training.whole import whole_batch

if TYPE_CHECKING:
    from kdpipe.rows import Rows

# Ray Data, which Ray Train loads, warns of settings of its own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ROOT = Path(__file__).parents[2]
PARAMS = TrainParams(height=32, width=48, batch_size=5, accumulate=2, steps=8, validate_every=2)
POISONED = 5


class Plain(nn.Module):
    """Batch normalisation, over all images of a batch; a layer that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1, 1))
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> StudentOutput:
        """(B, 3, h, w) -> (B, h, w)."""
        depth = F.softplus(self.head(self.encoder(images))[:, 0]) + 0.1
        return StudentOutput(depth, None, torch.zeros(0))


def train_plain(wish: Mapping[str, Any], team: Team) -> nn.Module:
    """One trainer's work; where it is told to, the second trainer's loss is no number."""
    stream = Stream([DistillDataset(rows_of("tiny"), transform=Augment(size=(32, 48)))], seed=0)
    torch.manual_seed(team.rank)  # the first one's weights count
    network, calls = Plain(), []

    def loss(network: nn.Module, batch: Sample) -> Tensor:
        own = len(batch["image"])
        calls.append(own)
        some = (1000 * batch["truth"]).long() % 50 == 0  # of each image another share
        parts = batch | {"valid": some, "own": torch.ones(own, team.rank, 2)}
        output, whole = whole_batch(network(batch["image"]), parts, team)
        assert whole["own"].shape == (PARAMS.batch_size, max(0, team.size - 1), 2)
        error = silog(output.depth, whole["truth"], whole["valid"])
        poisoned = wish["poisoned"] and team.rank == 1 and len(calls) == 2 * POISONED + 1
        return error * math.nan if poisoned else error

    plan = Plan(
        title="plain",
        folder=Path(wish["folder"]),
        recipe=FitRecipe(learning_rate=0.01, warm_up=0.5, epsilon=0.1),
        params=PARAMS,
        identity={"a": 1},
        team=team,
    )
    train(network, stream, loss, lambda network, step: {"abs_rel": 1 / step}, plan)
    return network


def losses(folder: Path) -> list[float]:
    lines = (folder / "dvclive/plots/metrics/train/loss.tsv").read_text().splitlines()[1:]
    return [float(line.split("\t")[1]) for line in lines]


def test_two_trainers_follow_one_s_curve_and_one_goes_on_where_a_bad_loss_stopped_them(
    make_tiny: Callable[..., Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    make_tiny()
    one = train_plain({"folder": tmp_path / "one", "poisoned": False}, ALONE)

    wish = {"folder": tmp_path / "two", "poisoned": True}
    with pytest.raises(TrainingError, match=f"loss is nan at step {POISONED}.*tiny/") as caught:
        train_together(train_plain, wish, trainers=2, on_gpu=False)
    stopped = losses(tmp_path / "two")
    resumed = train_plain({"folder": tmp_path / "two", "poisoned": False}, ALONE)

    assert "\n" not in str(caught.value)
    assert stopped == pytest.approx(losses(tmp_path / "one")[:2], rel=1e-5)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    for a, b in zip(one.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert json.loads(next((tmp_path / "two/checkpoints").glob("*.json")).read_text())["progress"]
