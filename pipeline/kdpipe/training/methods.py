"""A method card's losses, weighted and summed over one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from kdpipe.cards import MethodCard
from kdpipe.errors import CardError, TrainingError, UnknownNameError
from kdpipe.losses import BINS_LOSSES, DISTILLATION_LOSSES, TRUTH_LOSSES, WEIGHTED, Prediction
from kdpipe.losses.tie_kd import form_of
from kdpipe.students.base import BINS, bins_of
from kdpipe.training.bins import teacher_bins
from kdpipe.training.samples import Sample

if TYPE_CHECKING:
    from kdpipe.cards import DataCard, StudentCard
    from kdpipe.store import Store

BatchLoss: TypeAlias = Callable[[Prediction, Sample], Tensor]

_OF_TEACHERS = ("chamfer", "domain")
"""Losses against truth that move a teacher's own bins, or teach its router: no student has them."""

_OF_STUDENT_BINS = (*BINS_LOSSES, "tie-kd")


def truth_loss(
    weights: Mapping[str, float], options: Mapping[str, object], where: str
) -> BatchLoss:
    """The weighted sum of losses against measured depth.

    Args:
        weights: loss -> weight.
        options: of the losses.
        where: the card, for messages.

    Raises:
        UnknownNameError: losses/ has none of a name.
        CardError: no loss at all.
    """
    return loss_of(MethodCard(name=where, teacher=False, truth=weights, options=options))


def loss_of(method: MethodCard) -> BatchLoss:
    """The weighted sum of a method's losses: of truth on rows that have it, of the teacher on all.

    With a `truth_share` each row has one weight: the loss is the mean of
    share * truth's + (1 - share) * teacher's of labelled rows and the teacher's of unlabelled ones.

    Raises:
        UnknownNameError: losses/ has none of a name.
        CardError: the card has no loss, or one against a teacher that it says it has not.
    """
    _check(method)
    share = method.truth_share

    def added(output: Prediction, batch: Sample) -> Tensor:
        return _of_truth(method, output, batch) + _of_teacher(
            method, output, batch, counted(method, batch)
        )

    def shared(output: Prediction, batch: Sample) -> Tensor:
        labelled, known = batch["has_truth"], counted(method, batch)
        part, here = float(labelled.float().mean()), labelled[:, None, None]
        total = torch.zeros((), device=output.depth.device)
        if part > 0 and share is not None:
            taught = _of_teacher(method, output, batch, known * here)
            both = share * _of_truth(method, output, batch) + (1 - share) * taught
            total = total + part * both
        if part < 1:
            total = total + (1 - part) * _of_teacher(method, output, batch, known * ~here)
        return total

    return added if share is None else shared


def counted(method: MethodCard, batch: Sample) -> Tensor:
    """Which of the teacher's pixels count (B, h, w), bool, or how much each does, in [0, 1]."""
    known = batch["known"]
    if method.confidence == "none":
        return known
    if method.confidence_threshold is None:
        return known * batch["confidence"]
    return known & (batch["confidence"] >= method.confidence_threshold)


def _check(method: MethodCard) -> None:
    for name in method.truth:
        if name not in TRUTH_LOSSES:
            raise UnknownNameError("losses against truth", name, TRUTH_LOSSES)
    for name in method.distillation:
        if name not in DISTILLATION_LOSSES and name not in BINS_LOSSES:
            known = [*DISTILLATION_LOSSES, *BINS_LOSSES]
            raise UnknownNameError("losses against a teacher", name, known)
    if not method.truth and not method.distillation:
        raise CardError(f"{method.name}: no loss found, expected one under truth or distillation")
    if bool(method.distillation) != method.teacher:
        raise CardError(
            f"{method.name}: teacher is {method.teacher} but distillation lists "
            f"{', '.join(method.distillation) or 'nothing'}; make the two agree"
        )
    if method.confidence != "none":
        _check_confidence(method)


def _check_confidence(method: MethodCard) -> None:
    for name in method.distillation:
        if method.confidence_threshold is None and name not in WEIGHTED:
            raise CardError(
                f"{method.name}: confidence as a weight goes with {', '.join(sorted(WEIGHTED))}, "
                f"found {name}, which counts a pixel or not: add a confidence_threshold"
            )
        counts_all = name == "tie-kd" and method.options.get("known_only") is not True
        if method.confidence_threshold is not None and (name == "ssim" or counts_all):
            raise CardError(
                f"{method.name}: {name} counts every pixel, so confidence would change nothing: "
                "take tie-kd with known_only: true and ssim: known, or another loss"
            )


def _of_truth(method: MethodCard, output: Prediction, batch: Sample) -> Tensor:
    total = torch.zeros((), device=output.depth.device)
    for name, weight in method.truth.items():
        value = TRUTH_LOSSES[name](output, batch["truth"], batch["valid"], method.options)
        total = total + weight * value
    return total


def _of_teacher(method: MethodCard, output: Prediction, batch: Sample, known: Tensor) -> Tensor:
    total = torch.zeros((), device=output.depth.device)
    for name, weight in method.distillation.items():
        if name in BINS_LOSSES:
            value = BINS_LOSSES[name](output, teacher_bins(batch), known, method.options)
        else:
            value = DISTILLATION_LOSSES[name](output, batch["teacher"], known, method.options)
        total = total + weight * value
    return total


def check_inputs(method: MethodCard, teachers: Sequence[str]) -> None:
    """Refuses what a method cannot use; further data sets are `mix_of`'s.

    Raises:
        TrainingError: a teacher is missing or superfluous.
    """
    if method.teacher and not teachers:
        raise TrainingError(
            f"method {method.name} learns from a teacher and none is given: add --teacher T, or "
            "take --method none for labels only"
        )
    if not method.teacher and teachers:
        raise TrainingError(
            f"method {method.name} learns from labels only and --teacher {','.join(teachers)} is "
            "given: leave it out, or choose another --method"
        )


def check_losses(method: MethodCard, data: DataCard) -> None:
    """Refuses losses that no student can learn by, before anything is read or replaced.

    Args:
        method: its names, weights and options.
        data: the labelled data set, whose domain gives the student's bins.

    Raises:
        UnknownNameError: losses/ has none of a name.
        CardError: no loss, a teacher's own, or options that none of them reads.
    """
    _check(method)
    for name in method.truth:
        if name in _OF_TEACHERS:
            fit = ", ".join(one for one in TRUTH_LOSSES if one not in _OF_TEACHERS)
            raise CardError(
                f"methods/{method.name}: found {name} under truth, which trains parts that only "
                f"teachers have, expected some of {fit}"
            )
    if "tie-kd" in method.distillation:
        form_of(method.options, bins_of(data.domain).count)
    elif method.options:
        raise CardError(
            f"methods/{method.name}: options found ({', '.join(method.options)}), which only "
            "tie-kd reads and this card does not list: remove them, or add tie-kd"
        )


def reads_bins(method: MethodCard) -> bool:
    """Whether a method learns from the teacher's stored distribution."""
    return any(name in BINS_LOSSES for name in method.distillation)


def check_range(student: StudentCard, data: DataCard, *aux: DataCard) -> None:
    """Refuses data that goes on behind the student's last bin, or its sigmoid's end.

    Of `domain: any`, images of all kinds, that is expected: farther is learned as the end.

    Args:
        student: its bins, if it has some, are those of `data`'s domain.
        data: the labelled data set.
        aux: the others.

    Raises:
        TrainingError: names both ends.
    """
    end = bins_of(data.domain).far
    beyond = [one for one in (data, *aux) if one.domain != "any" and one.max_depth > end]
    if student.family != "densedepth" or not beyond:
        return
    far = beyond[0]
    mend = f"leave it out of --aux, or take --data of domain {far.domain}"
    if far is data:
        mend = "lower max_depth to that, or say domain: kitti, whose students reach "
        mend += f"{BINS['kitti'].far:g} m"
    raise TrainingError(
        f"data/{far.name}: max_depth is {far.max_depth:g} m, and students of data/{data.name}, "
        f"domain {data.domain}, end at {end:g} m: {mend}"
    )


def check_bins(method: MethodCard, student: StudentCard, stores: Sequence[Store]) -> None:
    """Refuses a method that learns bins where there are none.

    Raises:
        TrainingError: the student has no bins, or a store keeps none.
    """
    learned = any(name in _OF_STUDENT_BINS for name in method.distillation)
    if learned and student.head == "regression":
        raise TrainingError(
            f"method {method.name} learns bins and student {student.name} has a regression head: "
            "expected `head: dpm` in its card; or choose a method that learns depth"
        )
    if not reads_bins(method) and method.confidence != "entropy":
        return
    for store in stores:
        if not store.info.has_bins:
            raise TrainingError(
                f"method {method.name} reads the teacher's bins and {store.path} keeps none: take "
                "a teacher with bins (AdaBins, ZoeDepth) taught with store.bins: true, or "
                "--method tie-kd-corrected, which makes bins of depth"
            )
