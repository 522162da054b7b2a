"""Makes a teacher's weights ready: trains them on measured depth, or records given ones."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from kdpipe.cards import FitRecipe, TeacherCard, load_teacher_card
from kdpipe.datasets.indexed import check_known, rows_of
from kdpipe.errors import CheckpointError, DataError, TrainingError
from kdpipe.nets.device import find_device
from kdpipe.nets.encoders import load_encoder_weights
from kdpipe.nets.imagenet import IMAGENET, encoder_identity, weights_file
from kdpipe.params import Params, TrainParams, load_params
from kdpipe.store import layout
from kdpipe.teachers import build_network, load_teacher, make_teacher
from kdpipe.teachers.weights import (
    digest_of,
    find_published,
    is_published,
    missing_weights,
    unpacked,
)
from kdpipe.training.augment import augment_of
from kdpipe.training.checkpoint import write_json, write_torch
from kdpipe.training.loop import (
    Plan,
    finish,
    finished,
    seed_everything,
    train,
)
from kdpipe.training.methods import truth_loss
from kdpipe.training.optimizer import encoder_of
from kdpipe.training.outcome import METRICS
from kdpipe.training.pictures import write_picture
from kdpipe.training.samples import DistillDataset, Sample, Stream, rows_digest
from kdpipe.training.start import start_at_data
from kdpipe.training.validation import Validation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.losses import Prediction
    from kdpipe.rows import Rows
    from kdpipe.teachers import Teacher
    from kdpipe.training.checkpoint import Progress
    from kdpipe.training.step import StepLoss

logger = logging.getLogger(__name__)

MODEL = "model.pt"

_Ask: TypeAlias = "Callable[[nn.Module, Sample], Prediction]"
"""Network, batch -> what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A teacher that is ready to teach."""

    path: Path
    """weights.json"""

    source: str
    """`fitted`, or where the weights came from."""

    steps: int = 0
    seconds: float = 0.0
    finished: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the last validation; empty: not trained here, or no val split."""


def run(
    teacher: str,
    data: str,
    *,
    manifests: Path | None = None,
    params: Params | None = None,
    checkpoint: Path | None = None,
    encoder_weights: str | None = None,
    train_published: bool = False,
    max_minutes: float | None = None,
    device: str = "auto",
    workers: int = 0,
) -> Fitted:
    """Makes a teacher's weights ready and writes weights.json, which `teach` reads.

    Published weights are found, or downloaded; a card that is not published is trained.

    Args:
        teacher: a card.
        data: an indexed data set; its train split has measured depth.
        manifests: folder of the cards.
        params: of the experiment; None: params.yaml.
        checkpoint: take these weights instead of training.
        encoder_weights: where the encoder starts, a file or `imagenet`, instead of what
            params.yaml names; trains.
        train_published: train by the card's recipe although there are published weights.
        max_minutes: stop then; the same call goes on.
        device: to train on; `auto`: CUDA where there is one.
        workers: processes that load samples.

    Raises:
        UnknownNameError: no such card or data set.
        DataError: not indexed yet, no train split, or no truth in it.
        CheckpointError: no recipe and no weights, or weights of another network.
        TrainingError: it could not teach images of these sizes, the loss is no longer a number, or
            there is no such device.
        KeyboardInterrupt: after the state is saved.
    """
    card = load_teacher_card(teacher, manifests)
    check_known(data, manifests)
    if checkpoint is not None:
        return _record(card, data, unpacked(checkpoint))
    to_train = train_published or encoder_weights is not None or not is_published(card)
    if card.fit is None or not to_train:
        return _find(card, data)
    rows = rows_of(data, manifests)
    settings = (params or load_params()).fit_of(teacher)
    if encoder_weights is not None:
        settings = replace(settings, encoder_weights=encoder_weights)
    plan = Plan(
        title=f"fit {card.name} on {rows.name}",
        folder=layout.teacher_dir(rows.name, card.name),
        recipe=card.fit,
        params=settings,
        outputs=(MODEL, "weights.json", METRICS),
        identity=_identity(card, card.fit, rows, settings),
        device=find_device(device),
        workers=workers,
        max_minutes=max_minutes,
    )
    return _train(card, rows, plan)


def _identity(
    card: TeacherCard, recipe: FitRecipe, rows: Rows, settings: TrainParams
) -> Mapping[str, object]:
    """What decides the weights."""
    return {
        "teacher": card.fingerprint,
        "recipe": asdict(recipe),
        "params": settings.identity,
        "rows": rows_digest(rows),
        **encoder_identity(settings.encoder_weights),
    }


def _train(card: TeacherCard, rows: Rows, plan: Plan) -> Fitted:
    done = finished(plan)
    if done is not None:
        return _fitted(layout.weights_path(rows.name, card.name), done)
    augment = augment_of(plan.params, rotation=plan.recipe.rotation)
    dataset = DistillDataset(rows, transform=augment)
    _check_truth(rows, dataset)
    seed_everything(plan.seed)
    network = _start_network(card, dataset, plan)
    ask = _asker(network, card, rows)
    validation = Validation(rows, augment.size, lambda network, batch: ask(network, batch).depth)

    def validate(network: nn.Module, step: int) -> Mapping[str, float]:
        write_picture(plan.folder, step, network, validation, rows.card.max_depth)
        return validation(network)

    loss = _step_loss(plan.recipe, card.name, rows.card.domain, ask)
    trained = train(network, Stream([dataset], seed=plan.seed), loss, validate, plan)
    write_torch(plan.folder / MODEL, {"model": network.state_dict()})
    path = _write_weights(card, rows.name, plan.folder / MODEL, "fitted", trained.progress.step)
    finish(plan, trained, {"parameters": sum(p.numel() for p in network.parameters())})
    return _fitted(path, trained.progress, is_finished=trained.finished)


def _start_network(card: TeacherCard, dataset: DistillDataset, plan: Plan) -> nn.Module:
    """The network before its first step."""
    network = build_network(card)
    _check_sizes(make_teacher(card, network, mirror=False), dataset.rows, plan.params)
    if plan.params.encoder_weights is not None:
        _fill_encoder(network, card, plan.params.encoder_weights)
    if plan.recipe.start_at_data:
        start_at_data(network, dataset, card.name)
    return network


def _fitted(path: Path, progress: Progress, *, is_finished: bool = True) -> Fitted:
    return Fitted(
        path=path,
        source="fitted",
        steps=progress.step,
        seconds=progress.seconds,
        finished=is_finished,
        metrics=progress.points[-1].validation if progress.points else {},
    )


def _check_truth(rows: Rows, dataset: DistillDataset) -> None:
    if not any(rows[number].truth is not None for number in dataset.numbers):
        raise TrainingError(
            f"{rows.name} has no measured depth in its train split, a teacher is fitted on labels: "
            "fit on another data set, then `kdpipe teach --fitted-on` it"
        )


def _check_sizes(teacher: Teacher, rows: Rows, settings: TrainParams) -> None:
    """Refuses to train for images that it could not teach; says it if it will see other sizes.

    Raises:
        TrainingError: the network takes none of the data set's image sizes, or not that of the
            training.
    """
    name = teacher.card.name
    trained = (settings.height, settings.width)
    try:
        with torch.inference_mode():
            teacher.network(torch.zeros(1, 3, *trained))
    except DataError as error:
        raise TrainingError(
            f"{name} cannot be fitted at height {trained[0]} and width {trained[1]}, set in "
            f"params.yaml: {error}"
        ) from error
    sides = rows.table.select(["height", "width"]).to_pydict()
    frames = Counter(zip(sides["height"], sides["width"], strict=True))
    refused: DataError | None = None
    for height, width in frames:
        try:
            black = np.zeros((1, height, width, 3), np.uint8)
            teacher.predict(black, focal=np.ones(1, np.float32))  # any focal length will do
            break
        except DataError as error:
            refused = error
    else:
        raise TrainingError(
            f"{name} could not teach {rows.name} once it is fitted: {refused}"
        ) from refused
    seen = teacher.size_seen(*frames.most_common(1)[0][0])
    if seen != trained:
        logger.warning(
            "%s sees images of %dx%d when it teaches, but is fitted at %dx%d: set height and width "
            "in params.yaml, or another size in its card",
            *(name, *seen, *trained),
        )


@runtime_checkable
class _FillsEncoder(Protocol):
    """A network whose encoder's entries go by other names in its files."""

    def fill_encoder(self, path: Path) -> None: ...


def _fill_encoder(network: nn.Module, card: TeacherCard, weights: str) -> None:
    encoder = encoder_of(network)
    names = [part.timm_name for part in network.modules() if hasattr(part, "timm_name")]
    if encoder is None or (weights == IMAGENET and not names):
        raise CheckpointError(
            f"{card.name} has no encoder that {weights} could fill: leave encoder_weights out, or "
            "give weights of the whole network as --checkpoint"
        )
    path = weights_file(weights, str(names[0]) if names else "")
    if isinstance(network, _FillsEncoder):
        network.fill_encoder(path)
    else:
        load_encoder_weights(encoder, path)


def _asker(network: nn.Module, card: TeacherCard, rows: Rows) -> _Ask:
    """How the network is asked: as when it teaches, with focal lengths where it reads them.

    Raises:
        TrainingError: it reads them, and rows have none.
    """
    reference = getattr(network, "reference_focal", None)
    if reference is None:
        return lambda network, batch: network(batch["image"])
    focals = rows.table.select(["split", "fx"]).to_pylist()
    focals = [one["fx"] or 0.0 for one in focals if one["split"] in ("train", "val")]
    missing = sum(not 0 < focal < math.inf for focal in focals)
    if missing:
        raise TrainingError(
            f"{card.name} gives depth for a focal length of {reference:g} px and scales it to the "
            f"image's: {missing} of the {len(focals)} rows of {rows.name}'s train and val split "
            "have none, expected a third column in its lists; index it again"
        )
    return lambda network, batch: network(batch["image"], batch["focal"])


def _step_loss(recipe: FitRecipe, where: str, domain: str, ask: _Ask) -> StepLoss:
    losses = truth_loss(recipe.losses, {"domain": domain}, where)

    def loss(network: nn.Module, batch: Sample) -> Tensor:
        far_enough = batch["truth"] > recipe.nearest_truth
        return losses(ask(network, batch), {**batch, "valid": batch["valid"] & far_enough})

    return loss


def _record(card: TeacherCard, data: str, checkpoint: Path, published: str = "") -> Fitted:
    """Takes given or published weights, once they are seen to fit the network."""
    load_teacher(card, checkpoint=checkpoint)
    source = published or str(checkpoint)
    path = _write_weights(card, data, checkpoint, source, 0, cached=bool(published))
    return Fitted(path=path, source=source)


def _find(card: TeacherCard, data: str) -> Fitted:
    """Looks where `fit` would have put them, then where published weights are kept."""
    folder = layout.teacher_dir(data, card.name)
    names = [MODEL, *([str(card.about["file"])] if "file" in card.about else [])]
    looked = [folder / Path(name).name for name in names]
    for path in looked:
        if path.is_file():
            return _record(card, data, unpacked(path))
    found = find_published(card)
    if found is None:
        raise missing_weights(card, looked)
    return _record(card, data, found.path, found.source)


def _write_weights(
    card: TeacherCard, data: str, checkpoint: Path, source: str, steps: int, cached: bool = False
) -> Path:
    """Writes weights.json: the same weights give the same bytes, so `teach` is not run again."""
    path = layout.weights_path(data, card.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = checkpoint.resolve().parent == path.parent.resolve()
    values: dict[str, object] = {
        "teacher": card.name,
        "fingerprint": card.fingerprint,
        # The cache is somewhere else on each machine: `teach` looks there by the card.
        "checkpoint": checkpoint.name if inside or cached else str(checkpoint.resolve()),
        "sha256": digest_of(checkpoint),
        "source": source,
        "data": data,
        "steps": steps,
    }
    write_json(path, values | ({"cached": True} if cached else {}))
    return path
