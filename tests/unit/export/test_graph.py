"""The ONNX graph: any size, RGB in and metres out, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import ExportError
from kdpipe.export import graph
from kdpipe.students import BINS, Student, StudentOutput, load_student

if TYPE_CHECKING:
    from tests.unit.conftest import ToyProject


@pytest.fixture
def student(toy: ToyProject) -> Student:
    return load_student(toy.add_student(toy.run, vivid=True))


def test_any_batch_height_and_width_gives_pytorchs_depth(student: Student) -> None:
    session = graph.open_session(graph.to_onnx(student, {}), threads=1)

    for shape in ((1, 3, 32, 48), (3, 3, 37, 53), (1, 3, 61, 20)):
        rgb = torch.rand(shape)
        (depth,) = session.run(["depth"], {"rgb": rgb.numpy()})
        with torch.no_grad():
            expected = student.network(rgb).depth.clamp(1e-3, 10).numpy()
        assert np.ptp(expected) > 0.5, "the student must see something"
        np.testing.assert_allclose(depth, expected, rtol=graph.TOLERANCE)


def test_the_input_is_rgb_from_0_to_1_and_the_output_metres(student: Student) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)
    model = graph.to_onnx(student, {})
    session = graph.open_session(model, threads=1)

    (depth,) = session.run(["depth"], {"rgb": image.transpose(0, 3, 1, 2).astype("f4") / 255})

    np.testing.assert_allclose(depth, student.predict(image).numpy(), rtol=graph.TOLERANCE)
    assert [one.type for one in session.get_inputs()] == ["tensor(float)"]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", "height", "width"]


def test_the_file_says_what_it_is_told_and_nothing_of_this_machine(student: Student) -> None:
    content = graph.to_onnx(student, {"unit": "metre"})

    model = onnx.load_from_string(content)
    assert {one.key: one.value for one in model.metadata_props} == {"unit": "metre"}
    assert model.opset_import[0].version == graph.OPSET
    assert b".py" not in content
    assert str(Path(__file__).parents[3]).encode() not in content


def test_the_comparison_has_odd_sizes_and_batches(student: Student) -> None:
    session = graph.open_session(graph.to_onnx(student, {}), threads=1)

    found = graph.check(student, session)

    assert (found[0].height, found[0].width) == (32, 48)
    assert len({(one.height, one.width) for one in found}) >= 3
    assert any(one.height % 2 and one.width % 2 and one.batch > 1 for one in found)
    assert max(one.max_relative for one in found) <= graph.TOLERANCE


def test_another_students_graph_is_refused(student: Student, toy: ToyProject) -> None:
    other = load_student(toy.add_student(toy.baseline, vivid=True))
    with torch.no_grad():
        other.network.get_parameter("decode_head.conv_out.0.bias").normal_()
    session = graph.open_session(graph.to_onnx(other, {}), threads=1)

    with pytest.raises(ExportError, match="deviates by"):
        graph.check(student, session)


class _Odd(nn.Module):
    """A network of one formula."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._formula = formula

    def forward(self, rgb: Tensor) -> StudentOutput:
        return StudentOutput(self._formula(rgb), None, torch.empty(0))


def test_depth_outside_the_range_is_clamped_as_predict_does(student: Student) -> None:
    odd = Student(student.card, _Odd(lambda rgb: 40 * rgb[:, 0] - 10), BINS["nyu"], (32, 48))
    rgb = torch.rand(1, 3, 32, 48)
    session = graph.open_session(graph.to_onnx(odd, {}), threads=1)

    (depth,) = session.run(["depth"], {"rgb": rgb.numpy()})

    assert (depth.min(), depth.max()) == (np.float32(1e-3), 10)
    np.testing.assert_allclose(depth, odd.predict(rgb).numpy(), rtol=1e-6)


def shrunk(rgb: Tensor) -> Tensor:
    """Halves the size, rounded up in a way that ONNX rounds down."""
    half = [-(-rgb.shape[2] // 2), -(-rgb.shape[3] // 2)]
    size = [rgb.shape[2], rgb.shape[3]]
    return F.interpolate(F.interpolate(rgb, half), size)[:, 0] + 1


def fixed(rgb: Tensor) -> Tensor:
    """Has the example's size, whatever it gets."""
    return F.interpolate(rgb, [int(rgb.shape[2]), int(rgb.shape[3])])[:, 0] + 1


def pasted(rgb: Tensor) -> Tensor:
    """Multiplies with a constant of the example's size."""
    return rgb[:, 0] * torch.ones(int(rgb.shape[2]), int(rgb.shape[3]))


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        pytest.param(shrunk, "deviates by", id="rounds-otherwise"),
        pytest.param(fixed, "gives", id="size-is-frozen"),
        pytest.param(pasted, "stops at 2x3x", id="stops-at-another-size"),
        pytest.param(
            lambda rgb: torch.linalg.eigvals(rgb @ rgb.mT).abs()[..., 0],
            "cannot become",
            id="no-such-operator",
        ),
    ],
)
def test_a_network_that_onnx_cannot_say_is_refused_in_one_line(
    student: Student,
    formula: Callable[[Tensor], Tensor],
    says: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    odd = Student(student.card, _Odd(formula), BINS["nyu"], (32, 48))

    with pytest.raises(ExportError, match=says) as caught:
        graph.check(odd, graph.open_session(graph.to_onnx(odd, {}), threads=1))

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "stdout is for --json, and the error says it all"


def test_what_is_no_onnx_is_refused() -> None:
    with pytest.raises(ExportError, match="onnxruntime cannot open"):
        graph.open_session(b"no graph", threads=1)
