"""All that was evaluated as one page of Markdown with pictures, and the same numbers as files.

index.md (the page) · metrics.json (for `dvc metrics`) · table.csv (every metric of every arm) ·
curves/<run>.csv (for `dvc plots`) · *.png.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

from kdpipe.cards import card_names, load_teacher_card
from kdpipe.errors import StaleStoreError
from kdpipe.metrics.table import read_summary, write_summary
from kdpipe.report.board import (
    Board,
    read_boards,
    read_optional,
)
from kdpipe.report.costs import StoreCost, read_store_cost
from kdpipe.report.curves import Curve, draw_curves, draw_results, read_curve, write_curve
from kdpipe.report.page import Section, TeacherNote, page
from kdpipe.report.pictures import write_sheet
from kdpipe.report.tables import csv_text, lines_of, metrics_tree
from kdpipe.store.layout import all_stores, audit_path, report_dir, teacher_dir, weights_path
from kdpipe.store.metadata import read_info
from kdpipe.store.stale import check_weights

_LONG_AGO = 24 * 3600.0
"""Seconds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `run` gives."""

    path: Path
    """The page."""

    boards: int
    """Data sets, splits and protocols."""

    runs: int
    """Teachers and students that are shown."""


def run(*, manifests: Path | None = None) -> Report:
    """Writes artifacts/report anew from all evaluations there are.

    Args:
        manifests: folder of the cards.

    Raises:
        DataError: nothing was evaluated yet, or a file that should be shown is torn.
    """
    boards = read_boards()
    folder = report_dir()
    _tidy(folder)
    half = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")  # another may be at it
    half.mkdir(parents=True)
    try:
        _write(half, boards, manifests)
        _replace(folder, half)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    runs = sum(len(board.everyone) for board in boards)
    return Report(path=folder / "index.md", boards=len(boards), runs=runs)


def _tidy(folder: Path) -> None:
    """Removes what a killed report left long ago."""
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LONG_AGO:
                shutil.rmtree(path, ignore_errors=True)


def _replace(folder: Path, half: Path) -> None:
    """The last of several that end at once stays."""
    while True:
        gone = half.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        try:
            half.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return


def _say_stale() -> None:
    """Evaluations and audits of such a store are of another teacher than the one there is now."""
    for path in all_stores():
        try:
            check_weights(path, read_info(path))
        except StaleStoreError as error:
            log.warning("shown of a store of other weights than there are now: %s", error)


def _write(folder: Path, boards: Sequence[Board], manifests: Path | None) -> None:
    """Writes the page, the tables and the pictures."""
    stores = [read_store_cost(path) for path in all_stores()]
    _say_stale()
    notes = {
        name: _note(name, stores, manifests)
        for name in sorted({one.teacher for board in boards for one in board.teachers})
    }
    parameters = {name: note.parameters for name, note in notes.items()}
    with mpl.rc_context({"font.family": "DejaVu Sans", "savefig.facecolor": "white"}):
        sections = [
            Section(board=board, lines=lines_of(board, parameters), figures=figures, remarks=said)
            for board in boards
            for figures, said in [_figures(folder, board)]
        ]
    lines = [line for section in sections for line in section.lines]
    audits = [read_summary(path) for path in _all(audit_path("*", "*"))]
    (folder / "index.md").write_text(page(sections, notes, stores, audits), encoding="utf-8")
    (folder / "table.csv").write_text(csv_text(lines), encoding="utf-8")
    write_summary(folder / "metrics.json", metrics_tree(lines))


def _figures(folder: Path, board: Board) -> tuple[list[tuple[str, str]], list[str]]:
    """Writes a board's figures: what they show and their names, and what could not be shown."""
    curves = {one.run: read_curve(one.run) for one in board.everyone if one.kind == "student"}
    for name, curve in curves.items():
        if curve:
            write_curve(folder / "curves" / f"{name}.csv", curve)
    figures: list[tuple[str, str]] = []
    said: list[str] = []
    for student in board.students:
        figures += _plots(folder, board, student, curves)
        name = _file(f"sheet-{board.place}-{student}")
        remarks = write_sheet(folder / name, board, student)
        said += remarks
        if (folder / name).is_file():
            text = "image, measured depth, teacher and students; below each its relative error"
            figures.append((f"{student} on {board.data}: {text}", name))
    return figures, said


def _plots(
    folder: Path, board: Board, student: str, curves: dict[str, Curve]
) -> list[tuple[str, str]]:
    results = _file(f"results-{board.place}-{student}")
    title = f"{student} on {board.heading}, protocol {board.protocol}"
    draw_results(folder / results, title, board, student)
    figures = [(f"AbsRel of {student} on {board.data}, a dot a seed", results)]
    name = _file(f"curves-{board.place}-{student}")
    if draw_curves(folder / name, f"Training of {student}", board.arms_of(student), curves):
        figures.append((f"validation of {student} while it trained", name))
    return figures


def _note(teacher: str, stores: Sequence[StoreCost], manifests: Path | None) -> TeacherNote:
    """How a teacher came about: by the weights that wrote its stores, else by its card."""
    digests = {one.weights_sha256 for one in stores if one.teacher == teacher}
    for path in _all(weights_path("*", teacher)):
        weights = read_summary(path)
        if weights.get("sha256") not in digests or weights.get("source") != "fitted":
            continue
        data = str(weights.get("data"))
        noted = read_optional(teacher_dir(data, teacher) / "metrics.json")
        steps, seconds, parameters = (noted.get(k) for k in ("steps", "seconds", "parameters"))
        return TeacherNote(
            teacher=teacher,
            trained_on=f"the train split of {data}",
            steps=steps if isinstance(steps, int) else None,
            seconds=seconds if isinstance(seconds, float) else None,
            parameters=parameters if isinstance(parameters, int) else None,
            is_finished=noted.get("finished") is not False,
        )
    if teacher not in card_names("teachers", manifests):
        return TeacherNote(teacher=teacher)
    said = load_teacher_card(teacher, manifests).about.get("trained_on")
    on = ", ".join(map(str, said)) if isinstance(said, list) else said
    return TeacherNote(teacher=teacher, trained_on=None if on is None else str(on))


def _all(pattern: Path) -> list[Path]:
    return sorted(Path().glob(pattern.as_posix()))


def _file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name) + ".png"
