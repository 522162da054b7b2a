"""A student, or a teacher straight from its store, against measured depth.

Beside its errors each summary holds those of the train set's median depth map, which says of every
pixel what is usual there and never looks at the image: who does not beat it has not learned.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.datasets import read_image, read_truth, read_whole_truth
from kdpipe.datasets.indexed import rows_of, rows_with_truth
from kdpipe.errors import DataError, StaleStoreError, StoreError, UnknownNameError
from kdpipe.metrics.protocols import Protocol, errors_of_image, find_protocol, resize_bilinear
from kdpipe.metrics.table import ImageErrors, mean_errors, write_summary, write_table
from kdpipe.params import load_params
from kdpipe.store import open_store
from kdpipe.store.layout import (
    evaluation_path,
    parse_run,
    store_path,
    student_dir,
    teacher_run,
)
from kdpipe.store.stale import check_rows, check_weights
from kdpipe.strict import build
from kdpipe.students import load_student, used_parameters, weights_digest
from kdpipe.training.outcome import is_finished, warn_if_unfinished
from kdpipe.training.teachers import join

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.students import Student
    from kdpipe.types import Depth

log = logging.getLogger(__name__)

MEDIAN_IMAGES = 400
"""At most so many train images, evenly picked, make the median map."""

MEDIAN_SIZE = (120, 160)
"""Largest (h, w), in cells, of the median map."""

Predicted: TypeAlias = "Iterable[tuple[int, Depth | str]]"
"""Row number, and its depth (H, W) [m], 0 unknown, or why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One evaluation; the fields of its JSON file."""

    run: str
    kind: Literal["student", "teacher"]
    data: str
    split: str
    protocol: str
    protocol_says: str
    min_depth: float
    """Depths that count lie between this and the next [m], both excluded."""

    max_depth: float
    images: int
    """That were judged."""

    skipped: int
    metrics: Mapping[str, float]
    """Mean over images."""

    median: Mapping[str, float] | None = None
    """The same of the train split's median depth map; None: no truth there."""

    teacher: str = "none"
    student: str = "none"
    method: str = "none"
    aux: str = "none"
    seed: int | None = None
    trained_on: str | None = None
    """Data set with the labels; None for a teacher: its weights.json knows."""

    parameters: int | None = None
    mirror: bool | None = None
    """Averaged with the mirrored image; None: a store is judged as it is."""

    finished: bool | None = None
    """Whether the student's training took its last step; None: nothing says it."""

    weights_sha256: str | None = None
    """Of the student's model.safetensors; None: of a teacher, or judged by an older version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `run` gives."""

    path: Path
    """JSON of the summary; the images' own errors are beside it as .parquet."""

    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """Who is judged, and the depth it gives."""

    about: Mapping[str, object]
    """What it says in the summary."""

    rows: Rows
    predicted: Predicted


def run(
    *,
    run: str | None = None,
    teacher: str | None = None,
    data: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    mirror: bool | None = None,
    batch_size: int = 8,
    device: str = "auto",
    manifests: Path | None = None,
) -> Evaluation:
    """Evaluates a run's student, or a teacher from its store, on the rows of a split with truth.

    Args:
        run: a folder below artifacts/students; or give `teacher` and `data`.
        teacher: name of a card whose store over `data` is judged; of several, T+T2, the mean of
            the logarithm of what they know, as students learn it by default.
        data: name of a data set; None: the one the run was trained on.
        split: None: as params.yaml says.
        protocol: a name of metrics/protocols; None: the data card's.
        mirror: average a student's depth with that of the mirrored image; None: params.yaml.
        batch_size: images of one forward pass.
        device: of the student; `auto`: CUDA where there is one.
        manifests: folder of the cards.

    Raises:
        UnknownNameError: no such run, teacher, data set or protocol.
        DataError: rows are missing, no row of the split has truth, or none of it counts.
        CheckpointError: the run has no finished student.
        StoreError: the teacher's store is missing, stale or does not cover the split yet.
    """
    if protocol is not None:
        find_protocol(protocol)
    wished = load_params().evaluate
    split = split or wished.split
    if run is not None and teacher is None:
        mirror = wished.mirror if mirror is None else mirror
        subject = _student(run, data, split, manifests, batch_size, device, mirror=mirror)
    elif run is None and teacher is not None and data is not None:
        subject = _teacher(teacher, data, split, manifests)
    else:
        raise DataError("evaluate takes a run, or a teacher and a data set: name one of the two")
    rows, card = subject.rows, subject.rows.card
    rules = find_protocol(protocol or card.protocol).within(card.min_depth, card.max_depth)
    images = list(_judge(rows, subject.predicted, rules))
    summary = build(Summary, _values(subject, split, rules, images), "evaluation")
    mirrored = bool(summary.mirror)
    path = evaluation_path(summary.run, rows.name, split, rules.name, mirror=mirrored)
    write_table(path.with_suffix(".parquet"), images)
    write_summary(path, asdict(summary))
    return Evaluation(path=path, summary=summary)


def _values(
    subject: _Subject, split: str, rules: Protocol, images: Sequence[ImageErrors]
) -> Mapping[str, object]:
    """What the summary says."""
    metrics = mean_errors(images)
    skipped = _say_skipped(images, subject.rows.name)
    return {
        **subject.about,
        "data": subject.rows.name,
        "split": split,
        "protocol": rules.name,
        "protocol_says": rules.says,
        "min_depth": rules.low,
        "max_depth": rules.high,
        "images": len(images) - skipped,
        "skipped": skipped,
        "metrics": metrics,
        "median": _median_errors(subject.rows, images, rules),
    }


def _student(
    run: str,
    data: str | None,
    split: str,
    manifests: Path | None,
    batch_size: int,
    device: str,
    *,
    mirror: bool,
) -> _Subject:
    folder = student_dir("any").parent
    known = [path.name for path in folder.glob("*") if path.is_dir()]
    if run not in known:  # also keeps a name with a slash from leaving the folder
        raise UnknownNameError(str(folder), run, known)
    named = parse_run(run)
    if named is None:
        raise DataError(f"run {run!r} is not called DATA_TEACHER_STUDENT_METHOD_sSEED: rename it")
    rows = rows_of(data or named.data, manifests)
    numbers = rows_with_truth(rows, split)
    warn_if_unfinished(student_dir(run))
    student = load_student(student_dir(run), device=device)
    about = {
        "run": run,
        "kind": "student",
        "trained_on": named.data,
        "aux": named.aux_said,
        "teacher": named.teacher,
        "student": named.student,
        "method": named.method,
        "seed": named.seed,
        "parameters": used_parameters(student.network),
        "mirror": mirror,
        "finished": is_finished(student_dir(run)),
        "weights_sha256": weights_digest(student_dir(run)),
    }
    predicted = _predict(student, rows, numbers, batch_size, mirror=mirror)
    return _Subject(about=about, rows=rows, predicted=predicted)


def _teacher(teacher: str, data: str, split: str, manifests: Path | None) -> _Subject:
    # A wrong name is answered with the right ones.
    cards = [load_teacher_card(name, manifests) for name in teacher.split("+")]
    for card in cards:
        if not card.is_metric:
            raise DataError(
                f"{card.name} is affine-invariant, metres are judged: name a metric teacher, or a "
                "student that learned from this one"
            )
    rows = rows_of(data, manifests)
    numbers = rows_with_truth(rows, split)
    stored = [_stored(rows, numbers, store_path(data, card.name), card) for card in cards]
    predicted = stored[0] if len(stored) == 1 else _joined(stored)
    about = {"run": teacher_run(data, teacher), "kind": "teacher", "teacher": teacher}
    return _Subject(about=about, rows=rows, predicted=predicted)


def _joined(stored: Sequence[Predicted]) -> Predicted:
    for each in zip(*stored, strict=True):
        maps = [depth for _, depth in each if not isinstance(depth, str)]
        yield each[0][0], join(maps, (1.0,) * len(maps), "log-mean") if maps else each[0][1]


def median_map(rows: Rows) -> Depth | None:
    """The per-cell median of measured depth over the train split.

    A cell of an image has the mean of its known pixels; a cell that no image knows takes the
    median of all.

    Returns:
        Depth (h, w) [m]; None where no train row has known depth.
    """
    truths = rows.table["truth"].to_pylist()
    splits = rows.table["split"].to_pylist()
    train = [i for i, (t, s) in enumerate(zip(truths, splits, strict=True)) if t and s == "train"]
    if not train:
        return None
    places = np.linspace(0, len(train) - 1, min(len(train), MEDIAN_IMAGES)).astype(int)
    picked = [train[at] for at in places]
    sizes = np.array([_size(rows, number) for number in picked])
    height, width = (int(side) for side in np.minimum(sizes.min(axis=0), MEDIAN_SIZE))
    stack = np.stack([_cells(_in_range(rows, number), height, width) for number in picked])
    known = ~np.isnan(stack)
    if not known.any():
        return None
    stack[:, ~known.any(axis=0)] = np.median(stack[known])
    return np.nanmedian(stack, axis=0).astype(np.float32)


def _predict(
    student: Student, rows: Rows, numbers: Sequence[int], batch_size: int, *, mirror: bool
) -> Iterator[tuple[int, Depth | str]]:
    """Batches of images of one size, in order."""
    batch: list[int] = []
    for number in [*numbers, None]:
        full = len(batch) == batch_size
        if batch and (number is None or full or _size(rows, number) != _size(rows, batch[0])):
            images = np.stack([read_image(rows, one) for one in batch])
            depths = np.asarray(student.predict(images, mirror=mirror))
            yield from zip(batch, depths, strict=True)
            batch = []
        if number is not None:
            batch.append(number)


def _stored(
    rows: Rows, numbers: Sequence[int], path: Path, card: TeacherCard
) -> Iterator[tuple[int, Depth | str]]:
    store = open_store(path, card=card)
    check_weights(store.path, store.info)
    ids = rows.table["id"].to_pylist()
    for number, (stored, here) in enumerate(zip(store.ids, ids, strict=False)):
        if stored not in (None, here):
            raise StaleStoreError(
                f"{path}: row {number} is {stored!r}, {rows.name} has {here!r} there now: "
                "remove the store and teach again"
            )
    check_rows(store.path, rows)
    taught = store.finished
    late = sum(number >= len(store) or not taught[number] for number in numbers)
    if late:
        raise StoreError(
            f"{path} has no depth yet for {late} of {len(numbers)} rows: finish `kdpipe teach`"
        )
    for number in numbers:
        known = store.known(number)
        yield number, store.depth(number) if known else "the teacher could not read its image"


def _judge(rows: Rows, predicted: Predicted, rules: Protocol) -> Iterator[ImageErrors]:
    """Errors of each image; where a store knows no depth, truth does not count."""
    whole = rules.frame == "benchmark-in-image"
    ids = rows.table["id"].to_pylist()
    for number, depth in predicted:
        errors, why = None, None
        if isinstance(depth, str):
            why = depth
        else:
            truth = read_whole_truth(rows, rows[number]) if whole else read_truth(rows, number)
            errors = errors_of_image(depth, only_known(truth, depth), rules)
            why = "no truth that counts" if errors is None else None
        yield ImageErrors(row=number, id=ids[number], errors=errors, skipped=why)


def _say_skipped(images: Sequence[ImageErrors], data: str) -> int:
    """How many images were not judged; the log says why."""
    why = Counter(image.skipped for image in images if image.errors is None)
    if why:
        reasons = ", ".join(f"{count} because of: {reason}" for reason, count in why.items())
        log.warning(
            "%d of %d images of %s are not in these figures: %s",
            *(why.total(), len(images), data, reasons),
        )
    return why.total()


def _median_errors(
    rows: Rows, images: Sequence[ImageErrors], rules: Protocol
) -> dict[str, float] | None:
    """Errors of the median depth map on the images that counted."""
    usual = median_map(rows)
    if usual is None:
        log.info("%s has no train row with truth: no median depth map to compare with", rows.name)
        return None
    counted = [image.row for image in images if image.errors is not None]
    sizes = {number: _size(rows, number) for number in counted}
    maps = {size: resize_bilinear(usual, *size) for size in set(sizes.values())}
    return mean_errors(_judge(rows, ((n, maps[sizes[n]]) for n in counted), rules))


def only_known(truth: Depth, depth: Depth) -> Depth:
    """Truth, 0 where the depth of the frame at its lower middle is unknown (0)."""
    unknown = depth == 0
    if not unknown.any():
        return truth
    (height, width), (tall, wide) = depth.shape, truth.shape
    top, left = tall - height, (wide - width) // 2
    kept = truth.copy()
    kept[top : top + height, left : left + width][unknown] = 0
    return kept


def _size(rows: Rows, number: int) -> tuple[int, int]:
    return int(rows.table["height"][number].as_py()), int(rows.table["width"][number].as_py())


def _in_range(rows: Rows, number: int) -> Depth:
    truth, card = read_truth(rows, number), rows.card
    counts = (truth > card.min_depth) & (truth < card.max_depth)
    return np.where(counts, truth, np.float32(0))


def _cells(truth: Depth, height: int, width: int) -> Depth:
    """The mean of the known pixels of each of (height, width) cells; NaN where there is none."""
    rows = np.arange(truth.shape[0]) * height // truth.shape[0]
    columns = np.arange(truth.shape[1]) * width // truth.shape[1]
    cell = (rows[:, None] * width + columns).ravel()
    known = truth.ravel() > 0
    total = np.bincount(cell[known], truth.ravel()[known], height * width)
    count = np.bincount(cell[known], minlength=height * width)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean.reshape(height, width).astype(np.float32)
