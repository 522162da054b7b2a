"""Audit: what a store holds is counted, and what it lacks is said."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.unit.conftest import TEACHER, ToyProject

from kdpipe import audit
from kdpipe.codecs import LogBinomial
from kdpipe.errors import StaleStoreError, StoreError, UnknownNameError
from kdpipe.nets.log_binomial import LogBinomialBins
from kdpipe.rows import make_rows, write_rows
from kdpipe.store.layout import audit_path, rows_path


def _run(**options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    done = audit.run(TEACHER, "toy", **options)
    summary = json.loads(done.path.read_text())
    assert summary == done.summary
    return summary, pq.read_table(done.path.with_suffix(".parquet")).to_pylist()


def test_a_whole_store_is_covered_and_compared(toy: ToyProject) -> None:
    toy.add_store(factor=1.1)

    summary, lines = _run()

    assert (summary["rows"], summary["finished"], summary["bad"]) == (8, 8, 0)
    assert summary["coverage"] == summary["known_pixels"] == 1
    assert summary["depth"]["nearest"] == pytest.approx(1.1, rel=1e-3)  # the store's own bound
    assert summary["depth"]["farthest"] == pytest.approx(1.1 * 10, rel=1e-3)
    assert summary["truth"]["train"]["images"] == 3
    assert summary["truth"]["test"]["images"] == 3
    assert summary["truth"]["test"]["abs_rel"] == pytest.approx(0.1, abs=2e-3)
    assert summary["truth"]["test"]["delta1"] == 1
    assert sum(summary["histogram"]["share"]) == pytest.approx(1, abs=1e-4)
    assert [line["id"] for line in lines] == [str(number) for number in range(8)]
    assert lines[0]["abs_rel"] == pytest.approx(0.1, abs=2e-3)
    assert lines[7]["abs_rel"] is None


def test_bins_are_summed_up(toy: ToyProject) -> None:
    toy.add_store()

    summary, lines = _run()

    # Two bins of 16 share each pixel as q and 1 - q, q evenly in 0..1.
    q = np.linspace(1e-6, 1 - 1e-6, 10001)
    entropy = float(np.mean(-(q * np.log(q) + (1 - q) * np.log(1 - q))))
    assert summary["entropy"] == pytest.approx(entropy, abs=0.05)
    assert summary["confidence"] == pytest.approx(0.75, abs=0.03)
    assert summary["expectation_error"] < 0.02
    assert all(0 < line["entropy"] < math.log(2) + 0.01 for line in lines)


def test_bins_of_two_parameters_are_summed_up_too(toy: ToyProject) -> None:
    toy.add_store(bins=LogBinomial(bins=16, attractors=(1,)))

    summary, lines = _run()

    for line in lines:
        out = toy.say(line["row"], 1.1, two_parameters=True)
        assert isinstance(out.bins, LogBinomialBins)
        p, centers = out.bins.probabilities(), out.bins.centers()
        entropy = float(torch.special.entr(p).sum(1).mean())
        assert line["entropy"] == pytest.approx(entropy, rel=1e-2)
        assert line["confidence"] == pytest.approx(float(p.amax(1).mean()), rel=1e-2)
        error = ((p * centers).sum(1) - out.depth).abs() / out.depth
        assert line["expectation_error"] == pytest.approx(float(error.mean()), abs=2e-3)
    assert summary["entropy"] == pytest.approx(np.mean([line["entropy"] for line in lines]))


def test_bad_and_unfinished_rows_are_named(toy: ToyProject) -> None:
    toy.add_store(bad=[2], taught=4)

    summary, lines = _run()

    assert (summary["rows"], summary["finished"], summary["bad"]) == (8, 4, 1)
    assert summary["coverage"] == pytest.approx(3 / 8)
    assert lines[2]["bad"] == "torn JPEG"
    assert lines[2]["known"] is None
    assert [line["finished"] for line in lines] == [True] * 4 + [False] * 4


def test_threads_and_repetition_change_no_byte(toy: ToyProject) -> None:
    toy.add_store()
    _run(workers=1)
    path = audit_path("toy", TEACHER)
    before = path.read_bytes(), path.with_suffix(".parquet").read_bytes()

    _run(workers=4)

    assert (path.read_bytes(), path.with_suffix(".parquet").read_bytes()) == before


def test_what_cannot_be_audited_is_one_line(toy: ToyProject) -> None:
    with pytest.raises(StoreError, match="kdpipe teach"):
        audit.run(TEACHER, "toy")
    with pytest.raises(UnknownNameError, match="toy"):
        audit.run(TEACHER, "toi")
    with pytest.raises(UnknownNameError, match=TEACHER):
        audit.run("adabin", "toy")
    toy.add_store(taught=0)
    with pytest.raises(StoreError, match="no finished row"):
        audit.run(TEACHER, "toy")


def test_a_store_of_other_rows_is_refused(toy: ToyProject) -> None:
    toy.add_store()
    write_rows(rows_path("toy"), make_rows(toy.card, toy.rows.root, list(toy.rows)[1:]))

    with pytest.raises(StaleStoreError, match=r"row 0 was '0', now it is '1'"):
        audit.run(TEACHER, "toy")


def test_a_changed_byte_is_seen(toy: ToyProject) -> None:
    path, info = toy.add_store()
    file = info.file(path, "depth", 0)
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(bytes(content))

    with pytest.raises(StoreError, match="checksum"):
        audit.run(TEACHER, "toy")
