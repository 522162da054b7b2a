"""Rows, stores, a student and a method -> a trained student. No teacher runs here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdpipe.cards import MethodCard, StudentCard, load_method, load_student_card, load_teacher_card
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import StoreError, TrainingError
from kdpipe.nets.device import find_device
from kdpipe.nets.imagenet import encoder_identity
from kdpipe.params import Params, TrainParams, load_params
from kdpipe.store import Store, layout, open_store
from kdpipe.store.consolidated import read_lines
from kdpipe.store.stale import check_weights
from kdpipe.students import (
    CARD_FILE,
    build_network,
    model_path,
    save_student,
    used_parameters,
)
from kdpipe.training.augment import augment_of
from kdpipe.training.coverage import OnMissing, say_aligned, say_confidence, say_coverage
from kdpipe.training.joining import check_same_weights, check_teachers, joining_of
from kdpipe.training.loop import (
    Plan,
    finish,
    finished,
    seed_everything,
    train,
)
from kdpipe.training.methods import (
    check_bins,
    check_inputs,
    check_losses,
    check_range,
    loss_of,
    reads_bins,
)
from kdpipe.training.mixes import Mix, mix_of, say_unread
from kdpipe.training.outcome import METRICS
from kdpipe.training.samples import DistillDataset, Sample, Stream, rows_digest
from kdpipe.training.start import start_at_data
from kdpipe.training.team import ALONE, Team
from kdpipe.training.trainers import train_together
from kdpipe.training.validation import SHOWN, Validation
from kdpipe.training.whole import whole_batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdpipe.rows import Rows
    from kdpipe.training.checkpoint import Progress

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What `run` was asked for; each of several trainers gets the same."""

    student: str
    data: str
    teachers: tuple[str, ...]
    aux: tuple[str, ...]
    mix: str | None
    ratio: float | None
    method: str
    seed: int
    manifests: Path | None
    params: Params
    on_missing: OnMissing
    max_minutes: float | None
    device: str
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What is learned from what; each of them goes with the others."""

    card: StudentCard
    method: MethodCard
    mix: Mix
    rows: list[Rows]
    stores: list[list[Store]]
    """Of each data set, one a teacher; none of what its teachers are not asked about."""


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
    wish = _Wish(
        student=student,
        data=data,
        teachers=(teacher,) if isinstance(teacher, str) else tuple(teacher or ()),
        aux=tuple(aux),
        mix=mix,
        ratio=ratio,
        method=method,
        seed=seed,
        manifests=manifests,
        params=params or load_params(),
        on_missing=on_missing,
        max_minutes=max_minutes,
        device=device,
        workers=workers,
    )
    return _distill(wish, team, trainers)


def _distill(wish: _Wish, team: Team, trainers: int = 1) -> Distilled:
    lesson = _lesson_of(wish)
    plan = _plan_of(wish, lesson, team)
    if not 0 <= wish.seed < 2**63:
        raise TrainingError(f"seed {wish.seed} found, expected 0 to 2^63 - 1")
    done = finished(plan)
    if done is not None:
        return _distilled(plan, done)
    if trainers > 1:
        _check_batch(plan.params, trainers)
        sent = replace(wish, manifests=wish.manifests and wish.manifests.absolute())
        on_gpu = plan.device.type == "cuda"
        train_together(_as_one, {"wish": sent}, trainers=trainers, on_gpu=on_gpu)
        return _ended(plan)
    parts = _parts(lesson, wish, plan.params)
    return _train(lesson, Stream(parts, seed=wish.seed, ratio=wish.ratio), plan)


def _lesson_of(wish: _Wish) -> _Lesson:
    _refuse_twins(wish.data, wish.aux)
    card = load_student_card(wish.student, wish.manifests)
    method = load_method(wish.method, wish.manifests)
    check_inputs(method, wish.teachers)
    check_teachers(method, wish.teachers)
    mix = mix_of(wish.mix, wish.ratio, wish.aux, method)
    say_unread(mix, method)
    rows = [rows_of(name, wish.manifests) for name in (wish.data, *wish.aux)]
    check_losses(method, rows[0].card)
    asked = rows if mix.reads_labelled or method.weigh_teachers == "inverse-variance" else rows[1:]
    stores = [[_open(one.name, name, wish.manifests) for name in wish.teachers] for one in asked]
    stores = [[]] * (len(rows) - len(asked)) + stores
    check_same_weights(stores)
    check_bins(method, card, [store for each in stores for store in each])
    check_range(card, *(one.card for one in rows))
    return _Lesson(card=card, method=method, mix=mix, rows=rows, stores=stores)


def _plan_of(wish: _Wish, lesson: _Lesson, team: Team) -> Plan:
    name = layout.Run(
        data=wish.data,
        aux=wish.aux,
        mix=lesson.mix.tag,
        ratio=wish.ratio,
        teacher="+".join(wish.teachers) or "none",
        student=wish.student,
        method=wish.method,
        seed=wish.seed,
    ).name
    folder = layout.student_dir(name)
    settings = wish.params.distill_of(wish.student)
    return Plan(
        title=f"distill {name}",
        folder=folder,
        recipe=lesson.card.fit,
        params=settings,
        outputs=(model_path(folder).name, CARD_FILE, METRICS),
        identity=_identity(lesson, settings, wish.seed),
        seed=wish.seed,
        device=find_device(wish.device),
        workers=wish.workers,
        max_minutes=wish.max_minutes,
        team=team,
    )


def _check_batch(settings: TrainParams, trainers: int) -> None:
    if settings.batch_size < trainers:
        raise TrainingError(
            f"--trainers {trainers} found and batch_size {settings.batch_size}, expected at least "
            "one image each: raise batch_size in params.yaml, or take fewer trainers"
        )


def _as_one(given: Mapping[str, Any], team: Team) -> None:
    """What each of several trainers does."""
    _distill(given["wish"], team)


def _ended(plan: Plan) -> Distilled:
    """What several trainers left."""
    said = json.loads((plan.folder / METRICS).read_text(encoding="utf-8"))
    return Distilled(
        run=plan.folder.name,
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


def _train(lesson: _Lesson, stream: Stream, plan: Plan) -> Distilled:
    rows = lesson.rows[0]
    size = (plan.params.height, plan.params.width)
    domain = rows.card.domain
    losses = loss_of(lesson.method)
    validation = Validation(rows, size, _depth_of)
    seed_everything(plan.seed)
    network = build_network(
        lesson.card, bins_domain=domain, encoder_weights=plan.params.encoder_weights
    )
    if plan.recipe.start_at_data:
        start_at_data(network, stream.parts[0], lesson.card.name)

    def loss(network: nn.Module, batch: Sample) -> Tensor:
        return losses(*whole_batch(network(batch["image"]), batch, plan.team))

    def validate(network: nn.Module, _step: int) -> Mapping[str, float]:
        return validation(network)

    trained = train(network, stream, loss, validate, plan)
    if plan.team.leads:
        save_student(plan.folder, network, lesson.card, domain, size)
    summary = {
        "parameters": used_parameters(network),
        "labelled_images": sum(len(part) for part in stream.parts if part.rows is rows),
        "aux_images": sum(len(part) for part in stream.parts if part.rows is not rows),
        "left_out": sum(len(part.left_out) for part in stream.parts),
        **({"teachers": weights} if len(weights := stream.parts[0].teachers.weighed) > 1 else {}),
    }
    if plan.team.leads:
        finish(plan, trained, summary)
    return _distilled(plan, trained.progress, is_finished=trained.finished)


def _distilled(plan: Plan, progress: Progress, *, is_finished: bool = True) -> Distilled:
    return Distilled(
        run=plan.folder.name,
        path=plan.folder,
        steps=progress.step,
        seconds=progress.seconds,
        finished=is_finished,
        metrics=progress.points[-1].validation if progress.points else {},
    )


def _parts(lesson: _Lesson, wish: _Wish, settings: TrainParams) -> list[DistillDataset]:
    """The labelled data set first, if it is in the mix, then the others."""
    method, mix = lesson.method, lesson.mix
    augment = augment_of(settings, rotation=lesson.card.fit.rotation, method=method)
    weighed = lesson.stores[0] or lesson.stores[-1]
    joining = joining_of(method, wish.teachers, lesson.rows[0], weighed)
    parts = []
    for place, one in enumerate(lesson.rows):
        if place == 0 and not mix.reads_labelled:
            continue
        part = DistillDataset(
            one,
            stores=lesson.stores[place],
            transform=augment,
            with_truth=(place == 0 or mix.reads_more_truth) and bool(method.truth),
            with_bins=reads_bins(method),
            joining=joining,
            align_to_truth=place == 0 or mix.reads_more_truth,
        )
        say_coverage(part, wish.on_missing)
        say_aligned(part)
        say_confidence(part, method)
        if part.with_truth and not any(one[n].truth for n in part.numbers):
            raise TrainingError(
                f"{one.name} has no measured depth in its train split and method {method.name} "
                "learns from it: choose a method that learns from a teacher only"
                + (", or --mix x+u" if place and method.teacher else "")
            )
        parts.append(part)
    return parts


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


def _identity(lesson: _Lesson, settings: TrainParams, seed: int) -> Mapping[str, object]:
    """What decides the student's weights."""
    stores = [store for each in lesson.stores for store in each]
    return {
        "student": {k: v for k, v in asdict(lesson.card).items() if k != "about"},
        "method": _said(lesson.method),
        "params": settings.identity,
        "rows": [rows_digest(one) for one in lesson.rows],
        "stores": [store.info.digest for store in stores],
        "shards": [line.digest for store in stores for line in read_lines(store.path)],
        "seed": seed,
        **encoder_identity(lesson.card.encoder_weights or settings.encoder_weights),
        **lesson.mix.identity,
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
