"""What a sheet shows: picks images, asks stores and students for their depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.datasets import read_image, read_truth
from kdpipe.errors import CheckpointError, StoreError
from kdpipe.metrics.table import read_table
from kdpipe.report.sheets import Seen, draw_sheet
from kdpipe.rows import Rows, read_rows
from kdpipe.store import open_store
from kdpipe.store.layout import evaluation_path, rows_path, store_path, student_dir
from kdpipe.students import load_student

if TYPE_CHECKING:
    from kdpipe.report.board import Arm, Board
    from kdpipe.types import Depth, Image

IMAGES = 4
"""Of one sheet, evenly over those that everyone was judged on."""


def write_sheet(path: Path, board: Board, student: str) -> list[str]:
    """Writes a sheet of a student's arms beside its teachers.

    Returns:
        What could not be shown, and why.

    Raises:
        DataError: rows, images or truth are not there any more.
    """
    rows = read_rows(rows_path(board.data))
    numbers = pick(board)
    if not numbers:
        return ["No image was judged by everyone: there is no picture to show."]
    images = [read_image(rows, number) for number in numbers]
    said: list[str] = []
    columns: dict[str, list[Depth]] = {}
    for one in board.teachers:
        try:
            store = open_store(store_path(board.data, one.teacher))
            columns[f"teacher {one.teacher}"] = [store.depth(number) for number in numbers]
        except StoreError as error:
            said.append(f"The teacher {one.teacher} is not shown: {error}")
    for arm in board.arms_of(student):
        try:
            columns[_column(board, arm)] = _predict(arm, images)
        except CheckpointError as error:
            said.append(f"{arm.name} is not shown: {error}")
    seen = [_seen(rows, number, images[at], columns, at) for at, number in enumerate(numbers)]
    draw_sheet(path, f"{student} on {board.heading}", list(columns), seen)
    return said


def pick(board: Board) -> list[int]:
    """Row numbers, evenly over the images that everyone was judged on."""
    judged: set[int] | None = None
    for one in board.everyone:
        mirror = bool(one.mirror)
        path = evaluation_path(one.run, board.data, board.split, board.protocol, mirror=mirror)
        rows = {line.row for line in read_table(path.with_suffix(".parquet")) if line.errors}
        judged = rows if judged is None else judged & rows
    common = sorted(judged or ())
    if len(common) <= IMAGES:
        return common
    # The middles of equal parts: the first and last image are often of one scene.
    return [common[int((part + 0.5) * len(common) / IMAGES)] for part in range(IMAGES)]


def _seen(rows: Rows, number: int, image: Image, columns: dict[str, list[Depth]], at: int) -> Seen:
    return Seen(
        name=f"row {number}",
        image=image,
        truth=read_truth(rows, number),
        depths={name: depths[at] for name, depths in columns.items()},
    )


def _predict(arm: Arm, images: Sequence[Image]) -> list[Depth]:
    """Of the arm's first seed."""
    student = load_student(student_dir(arm.runs[0].run))
    mirror = bool(arm.runs[0].mirror)
    return [np.asarray(student.predict(image[None], mirror=mirror))[0] for image in images]


def _column(board: Board, arm: Arm) -> str:
    return arm.name if arm.trained_on == board.data else f"{arm.name} ({arm.trained_on})"
