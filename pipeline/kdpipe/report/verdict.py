"""What the numbers say, in sentences that do not flatter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kdpipe.report.tables import share_text

if TYPE_CHECKING:
    from kdpipe.report.board import Arm, Board


def verdicts(board: Board) -> list[str]:
    """Sentences on a board: every arm against its baseline, then all that is missing."""
    said = [_verdict(board, arm) for arm in board.arms if not arm.is_baseline]
    said += [_not_learned(board, arm) for arm in board.arms]
    said += [_stopped(arm) for arm in board.arms]
    return [one for one in said if one] + missing(board)


def missing(board: Board) -> list[str]:
    """What a complete comparison would need and nobody evaluated yet."""
    said = []
    if not board.teachers:
        said.append("No teacher was evaluated on these images: the share of the gap is unknown.")
    for student in board.students:
        arms = board.arms_of(student)
        if all(board.baseline_of(arm) is None for arm in arms):
            said.append(f"{student} has no labels-only run: what distilling was worth is unknown.")
        if all(arm.is_baseline for arm in arms):
            said.append(f"{student} has no distilled run yet.")
        if len({arm.steps for arm in arms}) > 1:
            said.append(f"The arms of {student} differ in steps: compare them with care.")
        if len({tuple(run.seed for run in arm.runs) for arm in arms}) > 1:
            said.append(f"The arms of {student} have different seeds: compare them with care.")
    if not board.students:
        said.append("No student was evaluated on these images yet.")
    if len({run.images for run in board.everyone}) > 1:
        said.append("Not everyone was judged on the same number of images: see table.csv.")
    return said


def _verdict(board: Board, arm: Arm) -> str:
    pair, gain = board.paired(arm), board.gain(arm)
    if pair is None or gain is None:
        return ""
    base, same = pair
    mine, theirs = same.mean("abs_rel"), base.mean("abs_rel")
    word = "beats" if gain > 0 else "does not beat"
    text = (
        f"{arm.student}, {arm.name}, {word} labels only: AbsRel {mine:.4f} against {theirs:.4f} "
        f"({share_text(abs(gain))} {'lower' if gain > 0 else 'higher'}"
    )
    closed = board.gap_closed(arm)
    if closed is not None and gain > 0:
        text += f", {share_text(closed)} of the way to the teacher"
    return f"{text}). {_spread(same, base)}"


def _spread(arm: Arm, base: Arm) -> str:
    """How the difference stands to the seeds' own spread."""
    one, other = arm.deviation("abs_rel"), base.deviation("abs_rel")
    if one is None or other is None:
        return "One seed is not enough to tell this from chance."
    error = math.sqrt(one**2 / len(arm.runs) + other**2 / len(base.runs))
    difference = abs(arm.mean("abs_rel") - base.mean("abs_rel"))
    if difference > 2 * error:
        return "The difference is more than twice its standard error over the seeds."
    return "The difference is within twice its standard error over the seeds: it may be chance."


def _not_learned(board: Board, arm: Arm) -> str:
    usual = board.median.median if board.median is not None else None
    if usual is None or arm.mean("abs_rel") < usual["abs_rel"]:
        return ""
    return (
        f"{arm.student}, {arm.name}, has not learned: its AbsRel {arm.mean('abs_rel'):.4f} is not "
        f"below that of the train split's median depth map, {usual['abs_rel']:.4f}."
    )


def _stopped(arm: Arm) -> str:
    if not arm.unfinished:
        return ""
    return (
        f"{arm.student}, {arm.name}: {arm.unfinished} of {len(arm.runs)} trainings were stopped "
        "before their last step; run the same `kdpipe distill` and `kdpipe evaluate` to go on."
    )
