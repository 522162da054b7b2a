"""Export: what it leaves in a run's folder, its timing, and what 8 bits cost."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tests.unit.conftest import ToyProject

from kdpipe import evaluate, export
from kdpipe.errors import CheckpointError, DataError, ExportError, UnknownNameError
from kdpipe.export import graph, int8, latency
from kdpipe.rows import make_rows
from kdpipe.store import layout
from kdpipe.students import load_student

RUN = ToyProject.run.name


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed matters here, not how well."""
    monkeypatch.setattr(latency, "_MOST", 5)


@pytest.fixture
def toy(toy: ToyProject) -> ToyProject:
    """With a student whose depth follows the image."""
    toy.add_student(toy.run, vivid=True)
    return toy


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_gets_its_model_and_what_was_measured(toy: ToyProject) -> None:
    folder = layout.student_dir(RUN)

    done = export.run(RUN, threads=1)

    assert left(folder) == ["card.json", "export.json", "model.onnx", "model.safetensors"]
    said = json.loads((folder / "export.json").read_text())
    timing = said["latency"]
    assert set(timing["engines"]) == {"PyTorch, CPU", "onnxruntime, CPU"}
    assert (timing["height"], timing["width"], timing["threads"]) == (32, 48, 1)
    for one in timing["engines"].values():
        assert one["repeats"] == 5
        assert 0 < one["fastest_ms"] <= one["median_ms"]
    assert len(said["deviations"]) >= 3
    assert said["bytes"] == {"model.onnx": (folder / "model.onnx").stat().st_size}
    assert said["int8"] is None
    assert done.path == folder / "model.onnx"
    model = onnx.load(done.path)
    facts = {one.key: one.value for one in model.metadata_props}
    assert facts == said["model"]
    assert (facts["run"], facts["unit"], facts["near"], facts["far"]) == (
        RUN,
        "metre",
        "0.001",
        "10",
    )
    assert "[0, 1]" in facts["input"]
    assert facts["trained_at"].startswith("32x48")


def test_the_students_own_threads_come_back(toy: ToyProject) -> None:
    before = torch.get_num_threads()

    export.run(RUN, threads=before + 1)

    assert torch.get_num_threads() == before


def test_8_bits_are_smaller_and_their_loss_is_measured(toy: ToyProject) -> None:
    folder = layout.student_dir(RUN)

    done = export.run(RUN, int8=True, threads=1)

    assert done.bytes["model-int8.onnx"] < 0.6 * done.bytes["model.onnx"]
    assert set(done.latencies) == {"PyTorch, CPU", "onnxruntime, CPU", "onnxruntime, CPU, 8 bits"}
    loss = done.loss
    assert loss is not None
    assert (loss.data, loss.split, loss.images, loss.calibrated_on) == ("toy", "test", 5, 3)
    assert 0 < loss.mean_deviation <= loss.p99_deviation <= loss.max_deviation
    judged = evaluate.run(run=RUN, split="test").summary
    assert loss.labelled == judged.images == 3
    assert loss.abs_rel_float == pytest.approx(judged.metrics["abs_rel"], rel=1e-5)
    assert loss.abs_rel_int8 != loss.abs_rel_float
    assert json.loads((folder / "export.json").read_text())["int8"]["labelled"] == 3
    facts = onnx.load(folder / "model-int8.onnx").metadata_props
    assert {one.key: one.value for one in facts}["run"] == RUN


def test_all_but_the_last_two_convolutions_have_8_bits(toy: ToyProject) -> None:
    student = load_student(layout.student_dir(RUN))

    small = onnx.load_from_string(int8.to_int8(graph.to_onnx(student, {}), student, toy.rows))

    made = {name: node for node in small.graph.node for name in node.output}
    nodes = [node for node in small.graph.node if node.op_type == "Conv"]
    coarse = [
        made[node.input[1]].op_type == "DequantizeLinear" for node in nodes if node.input[1] in made
    ]
    assert len(coarse) == len(nodes) - 2
    assert all(coarse)


def test_without_a_difference_there_is_no_loss(toy: ToyProject) -> None:
    student = load_student(layout.student_dir(RUN))
    session = graph.open_session(graph.to_onnx(student, {}), threads=1)

    loss = int8.measure_loss(student, session, toy.rows)

    assert loss.max_deviation <= graph.TOLERANCE
    assert loss.abs_rel_int8 == pytest.approx(loss.abs_rel_float, rel=graph.TOLERANCE)


def test_images_without_truth_have_no_abs_rel(toy: ToyProject) -> None:
    rows = make_rows(toy.card, Path("toy"), [replace(row, truth=None) for row in toy.rows])
    student = load_student(layout.student_dir(RUN))
    session = graph.open_session(graph.to_onnx(student, {}), threads=1)

    loss = int8.measure_loss(student, session, rows)

    assert (loss.labelled, loss.abs_rel_float, loss.abs_rel_int8) == (0, None, None)
    assert loss.images == 5


def test_8_bits_of_an_earlier_export_do_not_stay(toy: ToyProject) -> None:
    folder = layout.student_dir(RUN)
    (folder / "model-int8.onnx").write_bytes(b"of other weights")

    export.run(RUN, threads=1)

    assert left(folder) == ["card.json", "export.json", "model.onnx", "model.safetensors"]


def test_a_model_that_deviates_is_not_written(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = layout.student_dir(RUN)
    (folder / "model.onnx").write_bytes(b"the one before")
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)

    with pytest.raises(ExportError, match="deviates by"):
        export.run(RUN, threads=1)

    assert left(folder) == ["card.json", "model.onnx", "model.safetensors"]
    assert (folder / "model.onnx").read_bytes() == b"the one before"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named_with_what_to_do(
    toy: ToyProject, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python marks what cannot be imported

    with pytest.raises(ExportError, match=rf"{package} is not .*pip install 'kdpipe\[export\]'"):
        export.run(RUN)


@pytest.mark.parametrize(
    ("wish", "error", "says"),
    [
        pytest.param({"run": "toy_x"}, UnknownNameError, RUN, id="run"),
        pytest.param({"run": "unfinished"}, CheckpointError, "finished run", id="unfinished-run"),
        pytest.param({"int8": True, "data": "toi"}, UnknownNameError, "toy", id="data"),
        pytest.param({"int8": True, "run": "moved"}, DataError, "--data", id="whose-images"),
    ],
)
def test_a_wrong_wish_is_one_line_and_writes_nothing(
    toy: ToyProject, wish: dict[str, Any], error: type[Exception], says: str
) -> None:
    Path("unfinished").mkdir()
    Path("moved").mkdir()

    with pytest.raises(error, match=says) as caught:
        export.run(**{"run": RUN, **wish})

    assert "\n" not in str(caught.value)
    assert left(layout.student_dir(RUN)) == ["card.json", "model.safetensors"]
