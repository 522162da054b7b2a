"""Each path is composed once: dvc.yaml names the very paths that the code writes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from kdpipe.store import layout
from kdpipe.store.layout import Run

PROJECT = Path(__file__).parents[2]


def stages() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    return read


def outs(stage: str, **item: str) -> set[str]:
    """Outputs of a stage with the matrix's values filled in."""
    found = itertools.chain(stages()[stage]["outs"], stages()[stage].get("metrics", []))
    names = [one if isinstance(one, str) else next(iter(one)) for one in found]
    return {re.sub(r"\$\{item\.(\w+)\}", lambda m: item[m[1]], name) for name in names}


def test_dvc_tracks_the_paths_that_the_code_writes() -> None:
    item = {"data": "D", "teacher": "T", "student": "S", "method": "M", "seed": "3", "aux": "A"}
    plain = Run(data="D", teacher="T", student="S", method="M", seed=3)
    aux = Run(data="D", aux=("A",), teacher="T", student="S", method="M", seed=3)
    labels = Run(data="D", student="S", method="none", seed=3)

    assert outs("index", **item) == {str(layout.rows_path("D"))}
    assert outs("index-aux", **item) == {str(layout.rows_path("D"))}
    assert outs("fit", **item) == {str(layout.teacher_dir("D", "T"))}
    assert outs("teach", **item) == {str(layout.manifest_path("D", "T"))}
    assert outs("teach-aux", **item) == {str(layout.manifest_path("D", "T"))}
    audit = layout.audit_path("D", "T")
    assert outs("audit", **item) == {str(audit), str(audit.with_suffix(".parquet"))}
    assert outs("baseline", **item) == {str(layout.student_dir(labels.name))}
    assert outs("distill", **item) == {str(layout.student_dir(plain.name))}
    assert outs("distill-aux", **item) == {str(layout.student_dir(aux.name))}
    for stage, run in [
        ("evaluate-teacher", layout.teacher_run("D", "T")),
        ("evaluate-baseline", labels.name),
        ("evaluate-distill", plain.name),
        ("evaluate-distill-aux", aux.name),
    ]:
        assert outs(stage, **item) == {str(layout.evaluation_path(run, "D", "test", "p").parent)}
    assert outs("report") == {str(layout.report_dir())}


def test_every_stage_that_takes_long_keeps_what_it_had() -> None:
    for stage in ("fit", "baseline", "distill", "distill-aux"):
        (out,) = stages()[stage]["outs"]
        assert next(iter(out.values()))["persist"]


def test_teach_does_not_depend_on_source_files() -> None:
    for stage in ("teach", "teach-aux"):
        assert not [d for d in stages()[stage]["deps"] if d.startswith(("pipeline", "stages"))]
