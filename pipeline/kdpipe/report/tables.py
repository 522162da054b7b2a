"""Boards as tables: one list of lines for Markdown, CSV and JSON alike."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdpipe.metrics import METRICS
from kdpipe.report.board import place_of

if TYPE_CHECKING:
    from kdpipe.report.board import Arm, Board
    from kdpipe.report.costs import StoreCost

NOTHING = "n/a"
SHOWN = ("abs_rel", "rmse", "log10", "silog", "delta1")
HEADINGS = {
    "abs_rel": "AbsRel ↓",
    "sq_rel": "SqRel [m] ↓",
    "rmse": "RMSE [m] ↓",
    "rmse_log": "RMSElog ↓",
    "log10": "log10 ↓",
    "silog": "SILog ↓",
    "delta1": "δ₁ ↑",
    "delta2": "δ₂ ↑",
    "delta3": "δ₃ ↑",
}
_DIGITS = {"silog": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One who was judged: a teacher, the median depth map, an arm."""

    data: str
    split: str
    protocol: str
    mirror: bool
    student: str
    who: str
    """For people: `teacher adabins-small`, `labels only`, …"""

    key: str
    """For files: `teacher`, `median`, `none`, `tie-kd`, `tie-kd+rooms-pool`."""

    teacher: str
    seeds: int
    images: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float | None]
    gain: float | None = None
    gain_deviation: float | None = None
    """Of the gains seed by seed."""

    gap_closed: float | None = None
    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    """Of one training."""

    student_bytes: int | None = None
    store_bytes: int | None = None


def lines_of(board: Board, teacher_parameters: Mapping[str, int | None]) -> list[Line]:
    """All lines of a board: median, teachers, then each student's arms."""
    lines = []
    if board.median is not None and board.median.median is not None:
        usual = board.median.median
        lines.append(_single(board, "median depth map of the train split", "median", usual))
    for one in board.teachers:
        line = _single(board, f"teacher {one.teacher}", "teacher", one.metrics)
        parameters = teacher_parameters.get(one.teacher)
        lines.append(replace(line, teacher=one.teacher, images=one.images, parameters=parameters))
    for student in board.students:
        lines += [_line(board, arm) for arm in board.arms_of(student)]
    return lines


def _single(board: Board, who: str, key: str, mean: Mapping[str, float]) -> Line:
    return Line(
        data=board.data,
        split=board.split,
        protocol=board.protocol,
        mirror=board.mirror,
        student="",
        who=who,
        key=key,
        teacher="",
        seeds=1,
        images=board.median.images if board.median is not None else 0,
        mean=mean,
        deviation=dict.fromkeys(METRICS, None),
    )


def _line(board: Board, arm: Arm) -> Line:
    elsewhere = "" if arm.trained_on == board.data else f" (trained on {arm.trained_on})"
    aux = "" if arm.aux == "none" else f"+{arm.aux}"
    key = f"{arm.method} {arm.teacher}{aux}" if arm.is_one_of_several else arm.method + aux
    if elsewhere:
        key += f" on {arm.trained_on}"
    return Line(
        data=board.data,
        split=board.split,
        protocol=board.protocol,
        mirror=board.mirror,
        student=arm.student,
        who=arm.name + elsewhere + _unfinished(arm),
        key=key,
        teacher=arm.teacher,
        seeds=len(arm.runs),
        images=min(run.images for run in arm.runs),
        mean={name: arm.mean(name) for name in METRICS},
        deviation={name: arm.deviation(name) for name in METRICS},
        gain=board.gain(arm),
        gain_deviation=board.gain_deviation(arm),
        gap_closed=board.gap_closed(arm),
        parameters=arm.runs[0].parameters,
        steps=arm.steps,
        seconds=arm.seconds,
        student_bytes=arm.student_bytes,
        store_bytes=arm.store_bytes,
    )


def _unfinished(arm: Arm) -> str:
    """What marks an arm that was judged before its trainings were done."""
    if not arm.unfinished:
        return ""
    of = "" if len(arm.runs) == 1 else f" ({arm.unfinished} of {len(arm.runs)} seeds)"
    return f", trained in part{of}"


def results_table(lines: Sequence[Line]) -> str:
    """The Markdown table of a board; the best student of each metric is bold."""
    students = [line for line in lines if line.student]
    head = ["", *(HEADINGS[name] for name in SHOWN), "gain", "gap closed", "seeds", "parameters"]
    rows = []
    for line in lines:
        cells = [escape(f"{line.student}: {line.who}" if line.student else line.who)]
        for name in SHOWN:
            text = value_text(name, line.mean[name], line.deviation[name])
            best = bool(line.student) and len(students) > 1 and _is_best(name, line, students)
            cells.append(f"**{text}**" if best else text)
        cells += [gain_text(line.gain, line.gain_deviation), share_text(line.gap_closed)]
        cells += [str(line.seeds) if line.student else "", count_text(line.parameters)]
        if line.key == "median":
            cells[-1] = ""
        rows.append(cells)
    return table(head, rows)


def costs_table(board: Board) -> str:
    """Steps, images, seconds and bytes of each arm."""
    head = ["", "steps", "trained at", "labelled images", "further images", "distill"]
    head += ["student", "stores"]
    rows = []
    for student in board.students:
        for arm in board.arms_of(student):
            first = arm.trained[0]
            size = NOTHING if first.size is None else f"{first.size[0]}×{first.size[1]}"
            further = 0 if arm.aux == "none" else first.aux_images
            rows.append(
                [
                    escape(f"{student}: {arm.name}"),
                    count_text(arm.steps),
                    size,
                    count_text(first.labelled_images),
                    count_text(further),
                    seconds_text(arm.seconds),
                    NOTHING if arm.student_bytes is None else bytes_text(arm.student_bytes),
                    NOTHING if arm.store_bytes is None else bytes_text(arm.store_bytes),
                ]
            )
    return table(head, rows)


def stores_table(stores: Sequence[StoreCost]) -> str:
    """What was kept, and what it took."""
    head = ["store", "images", "bad", "size", "per image", "packed", "teach"]
    rows = [
        [
            escape(f"{one.data}/{one.teacher}"),
            f"{one.finished} of {one.rows}",
            str(one.bad),
            bytes_text(one.bytes),
            bytes_text(one.bytes_per_image),
            f"{one.raw_bytes / max(one.bytes, 1):.1f} ×",
            seconds_text(one.seconds),
        ]
        for one in stores
    ]
    return table(head, rows)


def csv_text(lines: Sequence[Line]) -> str:
    """All lines with all metrics, for other programs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [name for metric in METRICS for name in (metric, f"{metric}_std")]
    about = ("data", "split", "protocol", "mirror", "student", "arm", "teacher", "seeds", "images")
    costs = ("gain", "gain_std", "gap_closed", "parameters", "seconds")
    bytes_of = ("student_bytes", "store_bytes")
    writer.writerow([*about, *costs, *bytes_of, *names])
    for line in lines:
        values: list[object] = [line.data, line.split, line.protocol, str(line.mirror).lower()]
        values += [line.student, line.key, line.teacher, line.seeds, line.images]
        values += [line.gain, line.gain_deviation, line.gap_closed, line.parameters]
        values += [line.seconds, line.student_bytes, line.store_bytes]
        for metric in METRICS:
            values += [line.mean[metric], line.deviation[metric]]
        writer.writerow("" if value is None else value for value in values)
    return out.getvalue()


def metrics_tree(lines: Sequence[Line]) -> dict[str, object]:
    """The few numbers that `dvc metrics show` prints, by data set and arm."""
    tree: dict[str, dict[str, object]] = {}
    for line in lines:
        where = place_of(line.data, line.split, line.protocol, mirror=line.mirror)
        place = tree.setdefault(where, {})
        who = f"{line.student} {line.key}" if line.student else f"{line.key} {line.teacher}".strip()
        values: dict[str, object] = {name: round(line.mean[name], 6) for name in SHOWN}
        if line.gain is not None:
            values["gain"] = round(line.gain, 6)
        place[who] = values
    return dict(tree)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column left, all others right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def escape(text: str) -> str:
    """Makes a name harmless in Markdown and HTML: it shows as it is."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", flat)


def value_text(metric: str, mean: float, deviation: float | None) -> str:
    """`0.1234 ± 0.0021`, or the mean alone."""
    digits = _DIGITS.get(metric, 4)
    spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def share_text(value: float | None) -> str:
    """A share as per cent."""
    return "" if value is None else f"{100 * value:.0f} %"


def gain_text(value: float | None, deviation: float | None) -> str:
    """`+3.9 ± 0.5 %`, or without the deviation."""
    if value is None:
        return ""
    spread = "" if deviation is None else f" ± {100 * deviation:.1f}"
    return f"{100 * value:+.1f}{spread} %"


def count_text(value: int | None) -> str:
    """A whole number, in millions where it is large."""
    if value is None:
        return NOTHING
    return f"{value / 1e6:.2f} M" if value >= 100_000 else str(value)


def seconds_text(value: float | None) -> str:
    """Seconds, minutes or hours."""
    if value is None:
        return NOTHING
    if value < 100:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def bytes_text(value: float) -> str:
    """Decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def _is_best(name: str, line: Line, others: Sequence[Line]) -> bool:
    values = [other.mean[name] for other in others]
    return line.mean[name] == (max(values) if name.startswith("delta") else min(values))
