"""The page: Markdown that GitHub and editors show, with pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdpipe.report.tables import (
    NOTHING,
    costs_table,
    escape,
    results_table,
    seconds_text,
    stores_table,
    table,
)
from kdpipe.report.verdict import verdicts

if TYPE_CHECKING:
    from kdpipe.report.board import Board
    from kdpipe.report.costs import StoreCost
    from kdpipe.report.tables import Line

HEAD = """# kdpipe report

Made by `kdpipe report` from the files below `artifacts/`; nothing here is typed by hand.

- **gain**: how much lower than that of the same student trained on labels only the AbsRel is,
  over the seeds that both have; its ±: of the gains seed by seed.
- **gap closed**: (labels only − student) / (labels only − teacher), in AbsRel.
- **±**: sample standard deviation over seeds. No ±: one seed.
- A student that does not beat the median depth map of the train split has not learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherNote:
    """How a teacher came about."""

    teacher: str
    trained_on: str | None = None
    """Data set, or what its card says; None: unknown."""

    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    is_finished: bool = True
    """False: its training was stopped before its last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One board with its figures."""

    board: Board
    lines: Sequence[Line]
    figures: Sequence[tuple[str, str]]
    """(what it shows, file name beside the page)."""

    remarks: Sequence[str] = ()


def page(
    sections: Sequence[Section],
    notes: Mapping[str, TeacherNote],
    stores: Sequence[StoreCost],
    audits: Sequence[Mapping[str, object]],
) -> str:
    """The whole page."""
    parts = [HEAD, *(_section(one, notes) for one in sections)]
    if notes:
        parts += ["## Teachers", _teachers_table(list(notes.values()))]
    if stores:
        parts += ["## Stores", stores_table(stores)]
        parts.append("*Teach* is the time of all workers added up, model loading left out.")
    if audits:
        parts += ["## Audit of the stores", _audits_table(audits)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, notes: Mapping[str, TeacherNote]) -> str:
    board = section.board
    first = board.everyone[0]
    parts = [
        f"## {escape(board.heading)}",
        f"Protocol `{board.protocol}`: {escape(first.protocol_says)}, truth in "
        f"({first.min_depth:g}, {first.max_depth:g}) m; {first.images} images, "
        f"{first.skipped} skipped.",
        results_table(section.lines),
    ]
    said = [*verdicts(board), *_flattery(board, notes), *section.remarks]
    if said:
        parts.append("\n".join(f"- {escape(one)}" for one in said))
    if board.students:
        parts += ["What it took:", costs_table(board)]
    for text, name in section.figures:
        parts.append(f"![{escape(text)}]({name})")
    return "\n\n".join(parts)


def _flattery(board: Board, notes: Mapping[str, TeacherNote]) -> list[str]:
    said = []
    for one in board.teachers:
        note = notes.get(one.teacher)
        if note is not None and note.trained_on is not None:
            said.append(f"The teacher {one.teacher} was trained on {note.trained_on}.")
    return said


def _teachers_table(notes: Sequence[TeacherNote]) -> str:
    head = ["teacher", "trained on", "parameters", "steps", "fit"]
    rows = [
        [
            escape(one.teacher),
            escape(one.trained_on or NOTHING),
            NOTHING if one.parameters is None else f"{one.parameters / 1e6:.2f} M",
            NOTHING
            if one.steps is None
            else f"{one.steps}{'' if one.is_finished else ', in part'}",
            seconds_text(one.seconds),
        ]
        for one in notes
    ]
    return table(head, rows)


def _audits_table(audits: Sequence[Mapping[str, object]]) -> str:
    head = ["store", "coverage", "bad", "depth [m]", "AbsRel by split", "entropy", "confidence"]
    rows = []
    for one in audits:
        depth = one.get("depth")
        truth = one.get("truth")
        span = NOTHING
        if isinstance(depth, dict):
            span = f"{_digits(depth.get('nearest'))} … {_digits(depth.get('farthest'))}"
        agreement = []
        for split, found in truth.items() if isinstance(truth, dict) else ():
            if isinstance(found, dict) and found.get("abs_rel") is not None:
                agreement.append(f"{escape(str(split))} {_digits(found['abs_rel'])}")
        rows.append(
            [
                escape(f"{one.get('data')}/{one.get('teacher')}"),
                _digits(one.get("coverage")),
                str(one.get("bad", NOTHING)),
                span,
                ", ".join(agreement) or NOTHING,
                _digits(one.get("entropy")),
                _digits(one.get("confidence")),
            ]
        )
    return table(head, rows)


def _digits(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else NOTHING
