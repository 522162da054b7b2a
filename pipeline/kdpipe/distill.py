"""Rows, stores, a student and a method -> a trained student. No teacher runs here."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdpipe.cards import MethodCard, StudentCard, load_method, load_student_card, load_teacher_card
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import StoreError, TrainingError
from kdpipe.nets.imagenet import encoder_identity
from kdpipe.params import Params, TrainParams, load_params
from kdpipe.store import Store, layout, open_store
from kdpipe.store.consolidated import read_lines
from kdpipe.store.stale import check_weights
from kdpipe.students import CARD_FILE, build_network, model_path, save_student
from kdpipe.training.augment import Augment, augment_of
from kdpipe.training.joining import Joining, check_teachers, joining_of
from kdpipe.training.loop import (
    Plan,
    finish,
    finished,
    pick_device,
    seed_everything,
    train,
)
from kdpipe.training.methods import check_bins, check_inputs, loss_of, reads_bins
from kdpipe.training.mixes import Mix, mix_of
from kdpipe.training.outcome import METRICS
from kdpipe.training.samples import DistillDataset, Sample, Stream, rows_digest
from kdpipe.training.start import start_at_data
from kdpipe.training.teachers import NOT_TAUGHT
from kdpipe.training.team import ALONE, Team
from kdpipe.training.trainers import train_together
from kdpipe.training.validation import SHOWN, Validation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.rows import Rows

logger = logging.getLogger(__name__)

OnMissing = Literal["error", "subset"]
_LATER = ("join", "weigh_teachers", "teacher_weights", "confidence", "confidence_threshold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """A trained student."""

    run: str
    path: Path
    """Its folder."""

    steps: int
    seconds: float
    """Of training and validation, over all starts."""

    finished: bool
    metrics: Mapping[str, float]
    """Of the last validation."""


def run(
    student: str,
    data: str,
    *,
    teacher: str | Sequence[str] | None = None,
    aux: Sequence[str] = (),
    mix: str | None = None,
    ratio: float | None = None,
    method: str = "none",
    seed: int = 0,
    manifests: Path | None = None,
    params: Params | None = None,
    on_missing: OnMissing = "error",
    max_minutes: float | None = None,
    device: str = "auto",
    workers: int = 0,
    trainers: int = 1,
    team: Team = ALONE,
) -> Distilled:
    """Trains a student from stores and labels, from where an earlier call stopped.

    Args:
        student: a card.
        data: an indexed data set, taught by `teacher` if the method reads one.
        teacher: a card's name; what is read is its stores. Or several names, whose stores are
            joined pixel by pixel as the method's card says.
        aux: further data sets, indexed and taught, whose truth is not read.
        mix: one of training.mixes.MIXES; None: `data`, with `aux` where that is given.
        ratio: share of `aux` in a batch; None: as large as it is.
        method: a card.
        seed: of weights, order and augmentation.
        manifests: folder of the cards.
        params: of the experiment; None: params.yaml.
        on_missing: what to do where a store is not finished: refuse, or train on what is there.
            A bad image is left out either way, and counted.
        max_minutes: stop then; the same call goes on.
        device: to train on; `auto`: CUDA where there is one.
        workers: processes that load samples.
        trainers: processes that share each batch, through Ray Train; another number may go on.
        team: this process's place among them.

    Raises:
        UnknownNameError: no such card, data set or loss.
        DataError: not indexed yet, or no train split.
        StoreError: no store, or an unfinished one; StaleStoreError names what differs.
        TrainingError: the method cannot use what is given, or the loss is no longer a number.
        KeyboardInterrupt: after the state is saved.
    """
    _refuse_twins(data, aux)
    card, how = load_student_card(student, manifests), load_method(method, manifests)
    teachers = (teacher,) if isinstance(teacher, str) else tuple(teacher or ())
    check_inputs(how, teachers)
    check_teachers(how, teachers)
    mixed = mix_of(mix, ratio, tuple(aux), how)
    settings = (params or load_params()).distill_of(student)
    rows = [rows_of(name, manifests) for name in (data, *aux)]
    stores = [[_open(one.name, name, manifests) for name in teachers] for one in rows]
    check_bins(how, card, [store for each in stores for store in each])
    name = layout.Run(
        data=data,
        aux=tuple(aux),
        mix=mixed.tag,
        ratio=ratio,
        teacher="+".join(teachers) or "none",
        student=student,
        method=method,
        seed=seed,
    ).name
    plan = Plan(
        title=f"distill {name}",
        folder=layout.student_dir(name),
        recipe=card.fit,
        params=settings,
        outputs=(model_path(layout.student_dir(name)).name, CARD_FILE, METRICS),
        identity={**_identity(card, how, settings, rows, stores, seed), **mixed.identity},
        seed=seed,
        device=pick_device(device),
        workers=workers,
        max_minutes=max_minutes,
        team=team,
    )
    done = finished(plan)
    if done is not None:
        return Distilled(
            run=name,
            path=plan.folder,
            steps=done.step,
            seconds=done.seconds,
            finished=True,
            metrics=done.points[-1].validation,
        )
    if trainers > 1:
        _check_batch(settings, trainers)
        wish = {
            "student": student,
            "data": data,
            "teacher": teachers,
            "aux": tuple(aux),
            "mix": mix,
            "ratio": ratio,
            "method": method,
            "seed": seed,
            "manifests": None if manifests is None else manifests.absolute(),
            "params": params or load_params(),
            "on_missing": on_missing,
            "max_minutes": max_minutes,
            "device": device,
            "workers": workers,
        }
        on_gpu = plan.device.type == "cuda"
        train_together(_as_one, wish, trainers=trainers, on_gpu=on_gpu)
        return _ended(name, plan)
    augment = augment_of(settings, rotation=card.fit.rotation, method=how)
    joining = joining_of(how, teachers, rows[0], stores[0])
    parts = _parts(rows, stores, augment, how, joining, mixed, on_missing)
    return _train(name, card, how, rows[0], Stream(parts, seed=seed, ratio=ratio), plan)


def _check_batch(settings: TrainParams, trainers: int) -> None:
    images = settings.batch_size * settings.accumulate
    if images < trainers:
        raise TrainingError(
            f"--trainers {trainers} found and batches of {images} images, expected at least one "
            "image each: raise batch_size in params.yaml, or take fewer trainers"
        )


def _as_one(wish: Mapping[str, Any], team: Team) -> None:
    """What each of several trainers does."""
    run(**wish, team=team)


def _ended(name: str, plan: Plan) -> Distilled:
    """What several trainers left."""
    said = json.loads((plan.folder / METRICS).read_text(encoding="utf-8"))
    return Distilled(
        run=name,
        path=plan.folder,
        steps=said["steps"],
        seconds=said["seconds"],
        finished=said["finished"],
        metrics={key: said[key] for key in SHOWN if key in said},
    )


def _refuse_twins(data: str, aux: Sequence[str]) -> None:
    names = [data, *aux]
    for name in aux:
        if names.count(name) > 1:
            raise TrainingError(
                f"{name} is named {names.count(name)} times among {', '.join(names)}, and would be "
                "learned from as often: name each data set once"
            )


def _train(
    name: str,
    card: StudentCard,
    method: MethodCard,
    rows: Rows,
    stream: Stream,
    plan: Plan,
) -> Distilled:
    size = (plan.params.height, plan.params.width)
    domain = rows.card.domain
    losses = loss_of(method)
    validation = Validation(rows, size, _depth_of)
    seed_everything(plan.seed)
    network = build_network(card, bins_domain=domain, encoder_weights=plan.params.encoder_weights)
    if card.fit.start_at_data:
        start_at_data(network, stream.parts[0], card.name)

    def loss(network: nn.Module, batch: Sample) -> Tensor:
        return losses(network(batch["image"]), batch)

    def validate(network: nn.Module, _step: int) -> Mapping[str, float]:
        return validation(network)

    trained = train(network, stream, loss, validate, plan)
    if plan.team.leads:
        save_student(plan.folder, network, card, domain, size)
    summary = {
        "parameters": _used_parameters(network),
        "labelled_images": sum(len(part) for part in stream.parts if part.rows is rows),
        "aux_images": sum(len(part) for part in stream.parts if part.rows is not rows),
        "left_out": sum(len(part.left_out) for part in stream.parts),
        **({"teachers": weights} if len(weights := stream.parts[0].teachers.weighed) > 1 else {}),
    }
    if plan.team.leads:
        finish(plan, trained, summary)
    points = trained.progress.points
    return Distilled(
        run=name,
        path=plan.folder,
        steps=trained.progress.step,
        seconds=trained.progress.seconds,
        finished=trained.finished,
        metrics=points[-1].validation if points else {},
    )


def _parts(
    rows: Sequence[Rows],
    stores: Sequence[Sequence[Store]],
    augment: Augment,
    method: MethodCard,
    joining: Joining,
    mix: Mix,
    on_missing: OnMissing,
) -> list[DistillDataset]:
    """The labelled data set first, if it is in the mix, then the others."""
    parts = []
    for place, one in enumerate(rows):
        if place == 0 and not mix.reads_labelled:
            continue
        part = DistillDataset(
            one,
            stores=stores[place],
            transform=augment,
            with_truth=(place == 0 or mix.reads_more_truth) and bool(method.truth),
            with_bins=reads_bins(method),
            joining=joining,
            align_to_truth=place == 0 or mix.reads_more_truth,
        )
        _say_coverage(part, on_missing)
        if part.with_truth and not any(one[n].truth for n in part.numbers):
            raise TrainingError(
                f"{one.name} has no measured depth in its train split and method {method.name} "
                "learns from it: choose a method that learns from a teacher only"
                + (", or --mix x+u" if place else "")
            )
        parts.append(part)
    return parts


def _say_coverage(part: DistillDataset, on_missing: OnMissing) -> None:
    numbers = (*part.numbers, *part.left_out)
    for store, missing in zip(part.teachers.stores, part.teachers.missing, strict=True):
        late = sum(missing.get(number) == NOT_TAUGHT for number in numbers)
        if late and on_missing == "error":
            raise StoreError(
                f"{store.path} has {len(numbers) - late} of the {len(numbers)} rows of "
                f"{part.rows.name}'s train split, expected all: finish `kdpipe teach`, or take "
                "--on-missing subset"
            )
    if part.teachers.stores and not part.left_out:
        logger.info("%s: all %d images have the teacher's depth", part.rows.name, len(part))
    elif part.left_out:
        late = sum(reason == NOT_TAUGHT for reason in part.left_out.values())
        logger.warning(
            "%s: %d of %d images (%.1f %%) have the teacher's depth; left out: %d not taught yet, "
            "%d that could not be read",
            part.rows.name,
            len(part),
            len(numbers),
            100 * len(part) / len(numbers),
            late,
            len(part.left_out) - late,
        )


def _open(data: str, teacher: str, manifests: Path | None) -> Store:
    path = layout.store_path(data, teacher)
    card = load_teacher_card(teacher, manifests)
    if not path.exists():
        raise StoreError(
            f"{path} is missing: run `kdpipe teach --teacher {teacher} --data {data}` first"
        )
    store = open_store(path, card=card)
    check_weights(store.path, store.info)  # its rows are compared where they are read
    return store


def _identity(
    card: StudentCard,
    method: MethodCard,
    settings: TrainParams,
    rows: Sequence[Rows],
    stores: Sequence[Sequence[Store]],
    seed: int,
) -> Mapping[str, object]:
    """What decides the student's weights."""
    return {
        "student": {k: v for k, v in asdict(card).items() if k != "about"},
        "method": _said(method),
        "params": settings.identity,
        "rows": [rows_digest(one) for one in rows],
        "stores": [store.info.digest for each in stores for store in each],
        "shards": [
            line.digest for each in stores for store in each for line in read_lines(store.path)
        ],
        "seed": seed,
        **encoder_identity(card.encoder_weights or settings.encoder_weights),
    }


def _said(method: MethodCard) -> Mapping[str, object]:
    """What a method's card says, without what later versions added where it is not made use of."""
    said = {name: value for name, value in asdict(method).items() if name != "about"}
    for field in fields(method):
        usual = field.default_factory() if callable(field.default_factory) else field.default
        if field.name in _LATER and said[field.name] == usual:
            del said[field.name]
    return said


def _depth_of(network: nn.Module, batch: Sample) -> Tensor:
    depth: Tensor = network(batch["image"]).depth
    return depth


def _used_parameters(network: nn.Module) -> int:
    """Parameters that the forward pass reads: an unused head is not counted."""
    unused = getattr(network, "is_unused", lambda _name: False)
    return sum(p.numel() for name, p in network.named_parameters() if not unused(name))
