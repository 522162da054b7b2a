"""A store before anyone trains from it: what it holds, and whether its teacher still says so.

A row an image as Parquet, and one small JSON that DVC shows. Without more being asked, only store
and rows are read; `Again` asks the teacher itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.audit import disagreement
from kdpipe.audit import relive as reliving
from kdpipe.audit.again import Again, Witness, find_witness
from kdpipe.audit.images import Looked, Scope, look_at_all
from kdpipe.audit.records import choose, records_of
from kdpipe.audit.table import summarise, write_table
from kdpipe.cards import load_teacher_card
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import CardError, StoreError
from kdpipe.metrics.table import write_summary
from kdpipe.store import Store, open_store
from kdpipe.store.layout import audit_path, manifest_path, store_path
from kdpipe.store.stale import check_weights
from kdpipe.teaching.progress import Progress

if TYPE_CHECKING:
    from kdpipe.audit.relive import Relived, Terms
    from kdpipe.rows import Rows
    from kdpipe.store.ledger import Record

__all__ = ["Again", "Audit", "run", "run_each"]

HISTOGRAM_CELLS = 24
"""Of depth, evenly in log-space over the farther hundredfold of the data card's range."""

_NAMED = 8
"""Images that an error names."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `run` gives."""

    path: Path
    """JSON summary; the images' own lines are beside it as .parquet."""

    summary: dict[str, object]
    problem: str | None
    """What is wrong with the store, in one line; None: nothing that was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the teacher was asked again."""

    summary: dict[str, object]
    columns: dict[int, dict[str, float]]
    problem: str | None = None


def run(
    teacher: str,
    data: str,
    *,
    against: Sequence[str] = (),
    again: Again | None = None,
    workers: int | None = None,
    manifests: Path | None = None,
) -> Audit:
    """Looks at every image of a store.

    Args:
        teacher: name of the card that wrote it.
        data: name of the data set.
        against: other teachers whose stores of the same rows it is compared with; those without
            metres are left out, and the summary says so.
        again: what the teacher itself is asked; None: nothing, and it is not loaded.
        workers: threads; None: as many as there are processors.
        manifests: folder of the cards.

    Raises:
        UnknownNameError: no such teacher or data set.
        CardError: the teacher has no metres.
        DataError: the data set was not indexed, or a truth file or an image is torn.
        CheckpointError: the teacher is to be asked, and its weights are not there any more.
        StoreError: there is no store, none of its rows is finished, its bytes changed, or fewer
            images have depth than are asked for.
        StaleStoreError: the store is another teacher's, of other weights than the teacher has now,
            or of other rows.
    """
    card, again = load_teacher_card(teacher, manifests), again or Again()
    if not card.is_metric:
        raise CardError(f"{teacher}: affine-invariant, metres are audited: name a metric teacher")
    rows = rows_of(data, manifests)
    store = open_store(store_path(data, teacher), card=card)
    check_weights(store.path, store.info)
    records = records_of(store, rows)
    if not records:
        raise StoreError(f"{store.path} has no finished row: run `kdpipe teach` first")
    names, left_out = disagreement.split_relative(against, manifests)
    others = disagreement.open_others(names, rows, manifests)
    asked = _ask(store, rows, records, again)
    near = max(rows.card.min_depth, rows.card.max_depth / 100)
    edges = np.geomspace(near, rows.card.max_depth, HISTOGRAM_CELLS + 1)
    scope = Scope(rows=rows, store=store, records=records, others=others, edges=edges)
    images = list(look_at_all(scope, workers))
    summary: dict[str, object] = {
        "teacher": teacher,
        "data": data,
        "fingerprint": store.info.fingerprint,
        **summarise(images, edges),
        **asked.summary,
    }
    if against:
        compared = disagreement.summarise([one.disagreement for one in images], names)
        summary["disagreement"] = {"teachers": compared, "left_out": left_out}
    else:
        _tell_of_others(teacher, data)
    path = audit_path(data, teacher)
    write_table(path.with_suffix(".parquet"), images, _columns(images, asked.columns))
    write_summary(path, summary)
    return Audit(path=path, summary=summary, problem=asked.problem)


def run_each(
    teachers: Sequence[str],
    data: str,
    *,
    again: Again | None = None,
    workers: int | None = None,
    manifests: Path | None = None,
) -> list[Audit]:
    """Audits several teachers' stores of one data set, each compared with all others.

    Args:
        teachers: names of their cards; those without metres are left out, and said.
        data: name of the data set.
        again: what each teacher itself is asked.
        workers: threads; None: as many as there are processors.
        manifests: folder of the cards.

    Raises:
        CardError: none of them has metres.
        KdpipeError: as `run` does.
    """
    names, left_out = disagreement.split_relative(teachers, manifests)
    for name, reason in left_out.items():
        log.warning("%s is left out, it is %s", name, reason)
    if not names:
        raise CardError(
            f"{', '.join(left_out)}: affine-invariant, metres are audited: name a metric teacher"
        )
    done = []
    for name in names:
        against = [other for other in (*names, *left_out) if other != name]
        one = run(name, data, against=against, again=again, workers=workers, manifests=manifests)
        done.append(one)
    return done


def _ask(store: Store, rows: Rows, records: Mapping[int, Record], again: Again) -> _Asked:
    """Before anything else is read: what cannot be asked is said at once."""
    relived = choose(store, records, again.relive, again.seed)
    turned = choose(store, records, again.geometry, again.seed)
    if not relived and not turned:
        return _Asked(summary={}, columns={})
    witness = find_witness(store, rows, again)
    summary: dict[str, object] = {}
    columns: dict[int, dict[str, float]] = {number: {} for number in (*relived, *turned)}
    problem = None
    with Progress(f"{store.info.teacher} again", len(relived) + len(turned)) as bar:
        if relived:
            seen, terms = _relive(store, relived, witness, records, bar)
            for one in seen:
                columns[one.row] |= one.columns()
            found = reliving.summarise(seen, terms, witness.teacher.precision)
            summary["relive"] = {"seed": again.seed, **found}
            problem = _problem_of(store, seen, terms)
        if turned:
            from kdpipe.audit import geometry  # torch

            moved = []
            for number in turned:
                moved.append(geometry.turn(store, number, witness, again.seed))
                columns[number] |= moved[-1].columns()
                bar.advance(1)
            summary["geometry"] = {"seed": again.seed, **geometry.summarise(moved)}
    return _Asked(summary=summary, columns=columns, problem=problem)


def _relive(
    store: Store,
    numbers: Sequence[int],
    witness: Witness,
    records: Mapping[int, Record],
    bar: Progress,
) -> tuple[list[Relived], Terms]:
    shards = sorted({number // store.info.shard_rows for number in numbers})
    terms = reliving.terms_of(witness, [records[shard] for shard in shards])
    seen = []
    for number in numbers:
        seen.append(reliving.relive(store, number, witness, terms))
        bar.advance(1)
    return seen, terms


def _problem_of(store: Store, seen: Sequence[Relived], terms: Terms) -> str | None:
    beyond = [one for one in seen if one.beyond]
    if not beyond:
        return None
    named = ", ".join(
        f"{one.id!r} ({name} by {one.arrays[name].largest:.3g}, "
        f"{one.arrays[name].bound + terms.tolerance:.3g} allowed)"
        for one in beyond[:_NAMED]
        for name in one.beyond[:1]
    )
    rest = f" and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""
    where = "here as there" if terms.is_same else f"now another {' and '.join(terms.differences)}"
    return (
        f"{store.path}: {len(beyond)} of {len(seen)} images taught again differ by more than the "
        f"bound: {named}{rest}; environment: {where}. Run `kdpipe store verify {store.path}`; if "
        "it is sound, images, libraries or the teacher's code changed: restore them, or remove the "
        "store and its manifest and teach again"
    )


def _columns(
    images: Sequence[Looked], asked: Mapping[int, Mapping[str, float]]
) -> dict[int, dict[str, float]]:
    """Of the table, beyond what every audit has."""
    columns = {number: dict(values) for number, values in asked.items()}
    for one in images:
        for name, other in one.disagreement.items():
            mine = columns.setdefault(one.row, {})
            mine[f"abs_rel_to_{name}"], mine[f"log_to_{name}"] = other.abs_rel, other.log
    return columns


def _tell_of_others(teacher: str, data: str) -> None:
    """A comparison must be asked for: what DVC keeps of one store must not follow from another."""
    folder = manifest_path(data, teacher).parent
    others = sorted(path.stem for path in folder.glob("*.json") if path.stem != teacher)
    if others:
        names = ",".join([teacher, *others])
        log.info("other teachers of %s: `kdpipe audit --teacher %s` compares them", data, names)
