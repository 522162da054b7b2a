"""Two teachers over the same rows: how far they are from each other, image by image."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.unit.conftest import TEACHER, ToyProject

from kdpipe import audit
from kdpipe.audit.disagreement import disagree
from kdpipe.errors import CardError, StaleStoreError, StoreError
from kdpipe.rows import make_rows, write_rows
from kdpipe.store import open_store
from kdpipe.store.layout import audit_path, rows_path
from kdpipe_stages import cli

OTHER = "bts-small"
RELATIVE = "depth-anything-v2-small"


def lines_of(teacher: str) -> list[dict[str, Any]]:
    table = pq.read_table(audit_path("toy", teacher).with_suffix(".parquet"))
    return [dict(one) for one in table.to_pylist()]


def test_two_teachers_are_compared_both_ways(toy: ToyProject) -> None:
    toy.add_store(factor=1.1)
    toy.add_store(factor=1.0, teacher=OTHER)

    one, other = audit.run_each([TEACHER, OTHER, TEACHER], "toy")

    found: Any = one.summary["disagreement"]
    back: Any = other.summary["disagreement"]
    assert json.loads(one.path.read_text()) == one.summary
    assert found["left_out"] == {}
    assert found["teachers"][OTHER]["images"] == 8
    # Within the bound of both stores.
    assert found["teachers"][OTHER]["abs_rel"] == pytest.approx(0.1, abs=2.5e-3)
    assert back["teachers"][TEACHER]["abs_rel"] == pytest.approx(1 - 1 / 1.1, abs=2.5e-3)
    assert found["teachers"][OTHER]["log"] == pytest.approx(math.log(1.1), abs=2.5e-3)
    assert back["teachers"][TEACHER]["log"] == found["teachers"][OTHER]["log"]
    assert found["teachers"][OTHER]["ratio"] == pytest.approx(1.1, abs=2.5e-3)
    assert lines_of(TEACHER)[3][f"abs_rel_to_{OTHER}"] == pytest.approx(0.1, abs=2.5e-3)
    assert lines_of(OTHER)[3][f"log_to_{TEACHER}"] == pytest.approx(math.log(1.1), abs=2.5e-3)


def test_only_rows_that_both_have_are_compared(toy: ToyProject) -> None:
    toy.add_store(bad=[1])
    toy.add_store(taught=4, teacher=OTHER)

    one, _ = audit.run_each([TEACHER, OTHER], "toy")

    found: Any = one.summary["disagreement"]
    assert found["teachers"][OTHER]["images"] == 3
    known = [line[f"abs_rel_to_{OTHER}"] is not None for line in lines_of(TEACHER)]
    assert known == [True, False, True, True] + [False] * 4


def test_unknown_pixels_are_not_compared(toy: ToyProject) -> None:
    store = open_store(toy.add_store()[0])
    depth = store.depth(3)
    depth[:, :7] = 0

    found = disagree(depth, 3, [store])

    assert (found[TEACHER].abs_rel, found[TEACHER].log, found[TEACHER].ratio) == (0, 0, 1)


def test_a_teacher_without_metres_is_left_out_and_said(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    toy.add_store()

    (one,) = audit.run_each([TEACHER, RELATIVE], "toy")

    found: Any = one.summary["disagreement"]
    assert found["teachers"] == {}
    assert "affine-invariant" in found["left_out"][RELATIVE]
    assert f"{RELATIVE} is left out" in caplog.text
    with pytest.raises(CardError, match="affine-invariant, metres are audited"):
        audit.run_each([RELATIVE], "toy")


def test_a_store_that_is_not_there_or_of_other_rows_is_refused(toy: ToyProject) -> None:
    toy.add_store()
    with pytest.raises(StoreError, match=rf"{OTHER}\.zarr is no store"):
        audit.run_each([TEACHER, OTHER], "toy")
    toy.add_store(taught=0, teacher=OTHER)
    with pytest.raises(StoreError, match=rf"{OTHER}\.zarr has no finished row"):
        audit.run(TEACHER, "toy", against=[OTHER])
    toy.add_store(taught=8, teacher="zoedepth-small")
    write_rows(rows_path("toy"), make_rows(toy.card, toy.rows.root, list(toy.rows)[::-1]))
    with pytest.raises(StaleStoreError, match="row 0 was '0', now it is '7'"):
        audit.run(TEACHER, "toy", against=["zoedepth-small"])


def test_the_command_says_all_of_it(toy: ToyProject, capsys: pytest.CaptureFixture[str]) -> None:
    toy.add_store(factor=1.1)
    toy.add_store(factor=1.0, teacher=OTHER)
    arguments = ["audit", "--data", "toy", "--teacher"]

    assert cli.run([*arguments, f"{TEACHER},{OTHER}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert cli.run([*arguments, f"{TEACHER},{OTHER}", "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert cli.run([*arguments, TEACHER, "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)

    assert f"from {OTHER} 10.0%" in lines[0]
    assert [one["teacher"] for one in both["audits"]] == [TEACHER, OTHER]
    assert alone["teacher"] == TEACHER
    assert "disagreement" not in alone


def test_the_command_fails_with_the_images_that_differ(
    toy: ToyProject, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.add_store()
    run = audit.run_each

    def differing(*args: Any, **options: Any) -> list[audit.Audit]:
        (one,) = run(*args, **options)
        return [audit.Audit(path=one.path, summary=one.summary, problem="image '3' differs")]

    monkeypatch.setattr(audit, "run_each", differing)

    status = cli.run(["audit", "--data", "toy", "--teacher", TEACHER, "--json"])

    said = capsys.readouterr()
    assert status == 1
    assert said.err == "kdpipe: image '3' differs\n"
    assert json.loads(said.out)["rows"] == 8
