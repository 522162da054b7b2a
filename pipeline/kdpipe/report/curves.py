"""Curves of the trainings, and the results as dots: one figure each."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdpipe.errors import DataError
from kdpipe.report.sheets import plain
from kdpipe.store.layout import student_dir

if TYPE_CHECKING:
    from kdpipe.report.board import Arm, Board

COLOURS = ("#666666", "#1b6ca8", "#d1495b", "#2e8b57", "#edae49", "#7b4fa3", "#00798c", "#8d5524")
"""By arm, labels only first; told apart by people who see no red or green, too."""

Curve = list[tuple[int, float]]
"""(step, value)"""


def read_curve(run: str, metric: str = "abs_rel") -> Curve:
    """What `distill` logged at its validations; empty where it logged nothing.

    Raises:
        DataError: the file is no curve.
    """
    path = student_dir(run) / "dvclive" / "plots" / "metrics" / "val" / f"{metric}.tsv"
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        return [(int(line["step"]), float(line[metric])) for line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no curve ({error!r}): run `kdpipe distill` again") from error


def write_curve(path: Path, curve: Curve, metric: str = "abs_rel") -> None:
    """Writes a curve as CSV, for `dvc plots`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{step},{value!r}\n" for step, value in curve)
    path.write_text(f"step,{metric}\n{text}", encoding="utf-8")


def draw_curves(path: Path, title: str, arms: Sequence[Arm], curves: Mapping[str, Curve]) -> bool:
    """Draws validation AbsRel over steps: a thin line a run, a thick one for an arm's mean.

    Returns:
        False: no run has a curve, nothing was drawn.
    """
    figure = Figure(figsize=(7.2, 4.0), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    drawn = False
    for arm, colour in zip(arms, _colours(arms), strict=True):
        known = [curves[run.run] for run in arm.runs if curves.get(run.run)]
        if not known:
            continue
        drawn = True
        if len(known) > 1:
            for curve in known:
                axes.plot(*zip(*curve, strict=True), color=colour, linewidth=0.7, alpha=0.45)
        steps, mean = _mean(known)
        label = plain(arm.name)
        if len(known) > 1:
            label += f" (mean of {len(known)} seeds)"
        axes.plot(steps, mean, "o-", color=colour, linewidth=2, markersize=3, label=label)
    if not drawn:
        return False
    axes.set_title(plain(title), fontsize=10, loc="left", weight="bold")
    axes.set_xlabel("steps")
    axes.set_ylabel("AbsRel on the val split")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Software": None})
    return True


def draw_results(path: Path, title: str, board: Board, student: str) -> None:
    """Draws AbsRel of each arm: a dot a seed, a bar for the mean; teacher and median as lines."""
    arms = board.arms_of(student)
    figure = Figure(figsize=(7.2, 1.3 + 0.42 * len(arms)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for place, (arm, colour) in enumerate(zip(arms, _colours(arms), strict=True)):
        values = arm.values("abs_rel")
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=6, alpha=0.6)
        axes.plot(
            [arm.mean("abs_rel")] * 2, [place - 0.28, place + 0.28], color=colour, linewidth=3
        )
    lines = [(f"teacher {one.teacher}", one.metrics["abs_rel"], "--") for one in board.teachers]
    if board.median is not None and board.median.median is not None:
        lines.append(("median depth map", board.median.median["abs_rel"], ":"))
    for name, value, style in lines:
        axes.axvline(value, color="#222222", linestyle=style, linewidth=1.2, label=plain(name))
    axes.set_yticks(range(len(arms)), [plain(arm.name) for arm in arms], fontsize=9)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("AbsRel (lower is better)")
    axes.set_title(plain(title), fontsize=10, loc="left", weight="bold")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if lines:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, metadata={"Software": None})


def _colours(arms: Sequence[Arm]) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(arms))]


def _mean(curves: Sequence[Curve]) -> tuple[list[int], list[float]]:
    """Mean at the steps that all curves have."""
    known = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(one) for one in known)))
    return steps, [float(np.mean([one[step] for one in known])) for step in steps]
