"""Teaching again: the same teacher says the same, any other is caught or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pyarrow.parquet as pq
import pytest
import torch
from tests.toy_teacher import TEACHER, ToyTeacher
from tests.unit.audit.conftest import PHOTOS
from torch import Tensor

from kdpipe import audit
from kdpipe.audit.again import Witness
from kdpipe.audit.records import choose, records_of
from kdpipe.audit.relive import ELSEWHERE, STRAYS, TOLERANCES, Terms
from kdpipe.audit.relive import relive as relive_one
from kdpipe.codecs import LogBinomial
from kdpipe.errors import CheckpointError, StaleStoreError, StoreError
from kdpipe.store import Store, layout, open_store
from kdpipe.store.disk import as_json, read_json, write_atomically
from kdpipe.teachers.base import Bins, TeacherOutput

if TYPE_CHECKING:
    from tests.unit.conftest import ToyProject

    from kdpipe.nets.log_binomial import LogBinomialBins
    from kdpipe.rows import Rows
    from kdpipe.teachers import Teacher

WEIGHTS = layout.teacher_dir("photos", TEACHER) / "model.pt"


def relive(count: int, seed: int = 0) -> tuple[Mapping[str, Any], str | None]:
    done = audit.run(TEACHER, "photos", again=audit.Again(relive=count, seed=seed))
    assert json.loads(done.path.read_text()) == done.summary
    found: Any = done.summary["relive"]
    return found, done.problem


def change(monkeypatch: pytest.MonkeyPatch, **factors: float) -> None:
    """From now on the toy says something else: depth, an edge or a probability times a factor."""
    look = ToyTeacher.look

    def changed(self: ToyTeacher, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        out = look(self, rgb, focal)
        assert isinstance(out.bins, Bins)
        softmax = out.bins.softmax.clone()
        softmax[:, 0] *= factors.get("probability", 1)
        edges = out.bins.edges * factors.get("edges", 1)
        return TeacherOutput(out.depth * factors.get("depth", 1), Bins(edges, softmax))

    monkeypatch.setattr(ToyTeacher, "look", changed)


def test_the_same_teacher_says_the_same(taught: tuple[Rows, Store]) -> None:
    found, problem = relive(6)

    assert problem is None
    assert found["beyond"] == {}
    assert found["environment"]["same"]
    assert (found["tolerance"], found["strays_allowed"]) == (TOLERANCES["fp32"], 0)
    assert set(found["arrays"]) == {"depth", "bins/codes", "bins/edges"}
    for one in found["arrays"].values():
        assert one["largest"] <= one["bound"] + 1e-6
    assert found["arrays"]["depth"]["mean"] > 1e-5  # it is the store that is compared
    assert found["expectation"] < 0.02


def test_the_table_says_what_was_taught_again(taught: tuple[Rows, Store]) -> None:
    found, _ = relive(6)

    table = pq.read_table(layout.audit_path("photos", TEACHER).with_suffix(".parquet")).to_pylist()
    lines = [line for line in table if line["relive_depth"] is not None]
    assert [line["id"] for line in lines] == found["ids"]
    assert len(table) == PHOTOS
    assert max(line["relive_depth"] for line in lines) == found["arrays"]["depth"]["largest"]
    assert all(line["relive_bins_codes"] < 0.01 for line in lines)


@pytest.mark.parametrize(
    ("changes", "array"),
    [
        ({"depth": 1.0025}, "depth"),
        ({"probability": 0.95}, "bins/codes"),
        ({"edges": 1.001}, "bins/edges"),
    ],
)
def test_a_teacher_that_says_something_else_is_named_with_the_images(
    changes: dict[str, float],
    array: str,
    taught: tuple[Rows, Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(monkeypatch, **changes)

    found, problem = relive(4)

    assert set(found["beyond"]) <= set(found["ids"])
    assert {name for names in found["beyond"].values() for name in names} == {array}
    assert problem is not None
    assert "\n" not in problem
    assert all(repr(one) in problem for one in found["beyond"])
    assert f"{array} by " in problem


def test_a_small_difference_is_allowed_only_in_another_environment(
    taught: tuple[Rows, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, depth=1 + ELSEWHERE / 2)
    _, here = relive(4)
    monkeypatch.setattr(torch, "__version__", "1.0")

    found, elsewhere = relive(4)

    assert here is not None
    assert elsewhere is None
    assert not found["environment"]["same"]
    assert found["environment"]["differences"]["torch"]["now"] == "1.0"
    assert (found["tolerance"], found["strays_allowed"]) == (ELSEWHERE, STRAYS)


def test_images_are_spread_over_the_shards_and_repeat(taught: tuple[Rows, Store]) -> None:
    rows, store = taught
    records = records_of(store, rows)

    chosen = [choose(store, records, 3, seed) for seed in (0, 0, 1)]

    assert chosen[0] == chosen[1] != chosen[2]
    for one in chosen:
        assert {number // 8 for number in one} == {0, 1, 2}
    assert set(chosen[0]) < set(choose(store, records, 4, 0))
    assert choose(store, records, PHOTOS, 0) == list(range(PHOTOS))
    assert choose(store, records, 0, 0) == []


def test_more_images_than_there_are_is_one_line(taught: tuple[Rows, Store]) -> None:
    with pytest.raises(StoreError, match="20 images with depth in its finished shards, 21 are"):
        relive(21)
    _, store = taught
    layout.record_path(store.path, 1).unlink()
    with pytest.raises(StoreError, match="ask for at most 12"):
        relive(13)


def test_a_partial_store_is_asked_where_it_is_finished(taught: tuple[Rows, Store]) -> None:
    _, store = taught
    layout.record_path(store.path, 1).unlink()

    found, problem = relive(12)

    assert problem is None
    assert not {f"{number:04d}" for number in range(8, 16)} & set(found["ids"])


def test_weights_that_are_gone_are_named(taught: tuple[Rows, Store]) -> None:
    WEIGHTS.unlink()

    with pytest.raises(CheckpointError, match=r"model\.pt"):
        relive(2)


def test_a_teacher_that_was_fitted_again_is_refused(taught: tuple[Rows, Store]) -> None:
    noted = layout.weights_path("photos", TEACHER)
    WEIGHTS.write_bytes(b"others")
    digest = hashlib.sha256(b"others").hexdigest()
    write_atomically(noted, as_json({**read_json(noted), "sha256": digest}))

    for ask in (lambda: relive(2), lambda: audit.run(TEACHER, "photos")):
        with pytest.raises(StaleStoreError, match=r"weights\.sha256 is '.*' in the store"):
            ask()


def test_without_a_question_no_teacher_is_needed(taught: tuple[Rows, Store]) -> None:
    WEIGHTS.unlink()

    done = audit.run(TEACHER, "photos")

    assert "relive" not in done.summary
    assert "geometry" not in done.summary


def test_another_rule_is_refused(
    taught: tuple[Rows, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = ToyTeacher.look
    monkeypatch.setattr(
        ToyTeacher, "look", lambda *args: replace(look(*args), rule="bicubic-padded")
    )

    with pytest.raises(StaleStoreError, match="rule is 'bilinear-align-corners' in the store"):
        relive(1)


class Parrot:
    """A teacher that says what it was given."""

    precision = "fp32"

    def __init__(self, out: TeacherOutput) -> None:
        self.out = out

    def predict(self, *_: object, **__: object) -> TeacherOutput:
        return self.out


@pytest.mark.parametrize(
    ("part", "allowed", "too_far"),
    [("logit", 1.5e-4, 4e-3), ("ln T", 5e-5, 8e-3), ("points", 5e-5, 4e-3)],
)
def test_each_part_of_two_parameters_has_its_own_bound(
    part: str, allowed: float, too_far: float, toy: ToyProject
) -> None:
    path, _ = toy.add_store(bins=LogBinomial(bins=16, attractors=(1,)))
    store, terms = open_store(path), Terms(tolerance=1e-4, strays=0, is_same=True, differences={})
    said = toy.say(3, 1.1, two_parameters=True)
    bins = cast("LogBinomialBins", said.bins)

    def beyond(by: float) -> tuple[str, ...]:
        changed = {
            "logit": replace(bins, p=(bins.p.logit() + by).sigmoid()),
            "ln T": replace(bins, temperature=bins.temperature * (1 + by)),
            "points": replace(bins, seeds=bins.seeds * (1 + by)),
        }[part]
        teacher = cast("Teacher", Parrot(replace(said, bins=changed)))
        witness = Witness(teacher=teacher, rows=toy.rows, path=path, rule=said.rule)
        return relive_one(store, 3, witness, terms).beyond

    assert beyond(0) == beyond(allowed) == ()
    name = "bins/points" if part == "points" else f"bins/pair {part}"
    assert beyond(too_far) == beyond(-too_far) == (name,)
