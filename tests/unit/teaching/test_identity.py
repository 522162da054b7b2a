"""One field changed at a time, and no field left out: what decides a store is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.toy_teacher import TEACHER, ToyTeacher, load_toy, make_photos

from kdpipe import teachers, teaching
from kdpipe.cards import DataCard, TeacherCard, load_teacher_card
from kdpipe.errors import KdpipeError, StaleStoreError
from kdpipe.params import StoreParams
from kdpipe.rows import Row, make_rows
from kdpipe.store import identity as identities
from kdpipe.store import layout
from kdpipe.store.metadata import read_info
from kdpipe.teaching import Options
from kdpipe.teaching.plan import Subject, make_plan, open_existing
from kdpipe.teaching.weights import Weights, find_weights

if TYPE_CHECKING:
    from kdpipe.teachers import TeacherOutput

STORE = layout.store_path("photos", TEACHER)
RULE = "bilinear-align-corners"

# Every field: another value, and what is named; None: the store does not mind.
CARD: dict[str, tuple[object, str | None]] = {
    "name": ("other", "teacher.name"),
    "family": ("bts", "teacher.family"),
    "network": ({"bins": 5}, "teacher.network"),
    "min_depth": (0.01, "teacher.min_depth"),
    "max_depth": (12.0, "teacher.max_depth"),
    "input_size": ((32, 64), "teacher.input_size"),
    "mirror": (True, "teacher.mirror"),
    "bins": ("none", "teacher.bins"),
    "weights_sha256": ("1" * 64, "teacher.weights_sha256"),
    "fit": (None, None),
    "revision": (2, "teacher.revision"),
    "about": ({"licence": "other"}, "licences.teacher"),
}
WEIGHTS: dict[str, tuple[object, str | None]] = {
    "path": (Path("elsewhere.pt"), None),
    "sha256": ("1" * 64, "weights.sha256"),
    "source": ("file", "weights.source"),
}
PARAMS: dict[str, tuple[object, str | None]] = {
    "shard_rows": (4, "shard_rows"),
    "max_relative_error": (0.01, "codecs.depth.max_relative_error"),
    "bins": (False, "codecs.bins.codec"),
    "precision": ("bf16", "precision"),
    "root": ("s3://elsewhere", None),
}
DATA: dict[str, tuple[object, str | None]] = {
    "name": ("other", "data"),
    "crop": ("kitti-benchmark", "preprocessing.crop"),
    "about": ({"licence": "other"}, "licences.data"),
    "family": ("nyu", None),
    "domain": ("nyu", None),
    "root": ("elsewhere", None),
    "lists": ({"train": "list.txt"}, None),
    "min_depth": (0.5, None),
    "max_depth": (80.0, None),
    "protocol": ("nyu-eigen", None),
    "options": ({"rooms": 2}, None),
}
ROW: dict[str, tuple[object, str | None]] = {
    "id": ("other", "row 1 was '0001', now it is 'other'"),
    **dict.fromkeys(("top", "left", "height", "width"), (11, "frame or focal length of rows 0..7")),
    "fx": (7.0, "focal length of rows 0..7"),
    "image_digest": ("f" * 16, "an image, frame or focal length of rows 0..7"),
    **dict.fromkeys(("fy", "cx", "cy", "truth_scale"), (7.0, None)),
    **dict.fromkeys(("truth", "labels", "image"), ("elsewhere.png", None)),
    **dict.fromkeys(("image_height", "image_width", "bytes", "mtime_ns"), (7, None)),
    **dict.fromkeys(("truth_bytes", "truth_mtime_ns"), (7, None)),
    "split": ("test", None),
}
CONSTANT = {
    *("format", "units.depth", "preprocessing.colour", "preprocessing.range", "rule"),
    "teacher.fingerprint",
}
"""Leaves that follow from other ones, or from the code, or that the network itself says."""


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Subject]:
    """A store of two shards, and what it was taught of."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(teachers, "load_teacher", load_toy)
        rows, card = make_photos(16), load_teacher_card(TEACHER)
        weights = find_weights(card, "photos", None)
        teaching.run(TEACHER, "photos", options=Options(workers=0))
    return folder / STORE, Subject(card=card, rows=rows, weights=weights, params=StoreParams())


@dataclass(frozen=True)
class Change:
    """One field of one of the things that are taught."""

    part: str
    field: str
    value: object
    named: str | None

    def of(self, before: Subject) -> Subject:
        part: Any = before.rows.card if self.part == "data" else getattr(before, self.part)
        changed: Any = replace(part, **{self.field: self.value})
        if self.part == "data":
            return replace(before, rows=make_rows(changed, before.rows.root, before.rows[:]))
        return replace(before, **{self.part: changed})


PARTS = {"card": CARD, "weights": WEIGHTS, "params": PARAMS, "data": DATA}
CHANGES = [
    Change(part, field, *change) for part, table in PARTS.items() for field, change in table.items()
]


@pytest.mark.parametrize(
    ("kind", "table"),
    [(TeacherCard, CARD), (Weights, WEIGHTS), (StoreParams, PARAMS), (DataCard, DATA), (Row, ROW)],
)
def test_no_field_is_forgotten_here(kind: type[Any], table: Mapping[str, object]) -> None:
    assert set(table) == {one.name for one in fields(kind)}


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: f"{one.part}-{one.field}")
def test_a_change_of_one_field_is_refused_by_its_name_or_does_not_matter(
    change: Change, taught: tuple[Path, Subject]
) -> None:
    path, before = taught
    root = layout.metadata_path(path).read_bytes()

    after = change.of(before)

    if change.named is None:
        assert open_existing(path, after, 16) is not None
    else:
        with pytest.raises(StaleStoreError) as caught:
            open_existing(path, after, 16)
        assert str(caught.value).startswith(f"{path}: {change.named}")
    assert layout.metadata_path(path).read_bytes() == root


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_each_value_of_the_identity_is_compared_also_where_it_is_missing(
    taught: tuple[Path, Subject],
) -> None:
    wanted = read_info(taught[0]).identity
    named = {one.named for one in CHANGES}

    for leaf in leaves(wanted):
        is_part = leaf.startswith(("teacher.network.", "codecs."))  # of what has one name above
        assert leaf in named | CONSTANT or is_part, leaf
        for change in ("other", "missing", "more"):
            found, expected = copy.deepcopy(wanted), leaf
            *folders, key = leaf.split(".")
            at: Any = found
            for folder in folders:
                at = at[folder]
            if change == "missing":
                del at[key]
                expected = leaf if at else folders[-1]
            else:
                expected = leaf if change == "other" else f"{leaf}_too"
                at[expected.rpartition(".")[2]] = "other"
            with pytest.raises(StaleStoreError, match=rf": {expected} is "):
                identities.compare(STORE, found, wanted)


@pytest.mark.parametrize("field", ROW)
def test_a_change_of_one_row_is_refused_or_does_not_matter(
    field: str, taught: tuple[Path, Subject]
) -> None:
    (path, subject), (value, named) = taught, ROW[field]
    rows = subject.rows[:]
    rows[1] = replace(rows[1], **{field: value})
    changed = make_rows(subject.rows.card, subject.rows.root, rows)

    if named is None:
        assert make_plan(path, read_info(path), changed).missing == ()
    else:
        with pytest.raises(StaleStoreError, match=named):
            make_plan(path, read_info(path), changed)


def test_rows_in_another_order_are_refused_by_the_first_that_moved(
    taught: tuple[Path, Subject],
) -> None:
    path, subject = taught
    rows = subject.rows[:]
    rows[9], rows[10] = rows[10], rows[9]

    with pytest.raises(StaleStoreError, match="row 9 was '0009', now it is '0010'"):
        make_plan(path, read_info(path), make_rows(subject.rows.card, subject.rows.root, rows))


def test_a_teacher_that_says_another_rule_than_its_store_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos(16)
    teaching.run(TEACHER, "photos", options=Options(workers=0, limit=8))
    look = ToyTeacher.look

    def otherwise(self: ToyTeacher, *seen: Any) -> TeacherOutput:
        return replace(look(self, *seen), rule="bicubic-padded")

    monkeypatch.setattr(ToyTeacher, "look", otherwise)

    with pytest.raises(KdpipeError, match="rule is 'bilinear-align-corners' in the store"):
        teaching.run(TEACHER, "photos", options=Options(workers=0))
    assert read_info(STORE).rule == RULE
