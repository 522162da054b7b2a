"""A student as an ONNX graph, and how far onnxruntime's depth is from PyTorch's."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.errors import ExportError
from kdpipe.students.base import StudentOutput

if TYPE_CHECKING:
    from kdpipe.students import Student
    from kdpipe.types import Depth

OPSET = 17
"""Has all that a student needs, and onnxruntime reads it since 1.12 (2022)."""

INPUT, OUTPUT = "rgb", "depth"
TOLERANCE = 1e-4
"""Largest deviation from PyTorch; sums in another order stay below a tenth of it."""

_NETWORK_SIZE = (144, 192)
"""Of the example, where a student has no size of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Of one comparison."""

    batch: int
    height: int
    width: int
    max_relative: float
    """Largest `deviation_of` the pixels."""


class OnnxNetwork(nn.Module):
    """An ONNX file in the place of a student's network."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self._session = session

    def forward(self, rgb: Tensor) -> StudentOutput:
        """RGB (B, 3, H, W) in [0, 1] to depth (B, H, W) [m], without bins."""
        (depth,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(rgb.numpy())})
        return StudentOutput(torch.from_numpy(depth), None, torch.empty(0))


class _Metres(nn.Module):
    """The student's network, its depth clamped as `Student.predict` does."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self._network = student.network
        self._near, self._far = student.bins.near, student.bins.far

    def forward(self, rgb: Tensor) -> Tensor:
        depth: Tensor = self._network(rgb).depth
        return depth.clamp(self._near, self._far)


def to_onnx(student: Student, facts: Mapping[str, str]) -> bytes:
    """Turns a student into an ONNX file of any batch, height and width.

    PyTorch's tracing exporter does it: on the same network the newer one takes forty times longer
    (its algebra of shapes), needs two more packages and gives the same graph. What tracing froze
    would show in `check`.

    Args:
        student: on the CPU.
        facts: what the file's metadata says beside what it computes.

    Raises:
        ExportError: the network does what ONNX has no word for.
    """
    metres = _Metres(student).eval()
    example = torch.rand(1, 3, *network_size(student))
    free = {0: "batch", 2: "height", 3: "width"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _silent_exporter():
        warnings.simplefilter("ignore")  # that it traces; that there is a newer exporter
        path = Path(folder) / "model.onnx"
        try:
            with torch.no_grad():
                torch.onnx.export(
                    metres,
                    (example,),
                    str(path),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_axes={INPUT: free, OUTPUT: {0: "batch", 1: "height", 2: "width"}},
                )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise ExportError(
                f"student {student.card.name} cannot become ONNX: {_first_line(error)}; `kdpipe "
                "predict` runs it all the same, and students of convolutions have an ONNX form"
            ) from error
        model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(facts))
    model.producer_name = "kdpipe"
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _silent_exporter() -> Iterator[None]:
    """Of what fails, the exporter's C++ prints hundreds of lines, by default where --json goes."""
    torch._C._jit_set_onnx_log_output_stream("stderr")
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def open_session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Opens an ONNX file on the CPU.

    Raises:
        ExportError: onnxruntime refuses it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what stops it is raised as well
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds derive from nothing but Exception
        raise ExportError(f"onnxruntime cannot open the student: {_first_line(error)}") from error


def check(student: Student, session: onnxruntime.InferenceSession) -> list[Deviation]:
    """Compares with PyTorch at four sizes, among them odd ones and batches.

    Raises:
        ExportError: somewhere the depth is another one, or onnxruntime stops.
    """
    found = []
    metres, onnx_network = _Metres(student).eval(), OnnxNetwork(session)
    for batch, height, width in _sizes(*network_size(student)):
        rgb = _smooth(batch, height, width)
        try:
            with torch.no_grad():
                expected, depth = metres(rgb), onnx_network(rgb).depth
        except Exception as error:
            raise ExportError(
                f"student {student.card.name} as ONNX stops at {batch}x3x{height}x{width}: "
                f"{_first_line(error)}"
            ) from error
        if depth.shape != expected.shape:
            raise ExportError(
                f"student {student.card.name} as ONNX gives {tuple(depth.shape)} at {height}x"
                f"{width}, expected {tuple(expected.shape)}: its network cannot be traced"
            )
        deviation = float(deviation_of(depth.numpy(), expected.numpy(), student.bins.far).max())
        if not deviation <= TOLERANCE:
            raise ExportError(
                f"student {student.card.name} as ONNX deviates by {deviation:.2g} at {height}x"
                f"{width}, expected at most {TOLERANCE:g}: its network depends on the size that "
                "it was traced at"
            )
        found.append(Deviation(batch=batch, height=height, width=width, max_relative=deviation))
    return found


def deviation_of(depth: Depth, exact: Depth, far: float) -> Depth:
    """|depth - exact| / exact (…), where exact is nearer than far / 100, / (far / 100).

    Rounding is of the network's own size of numbers, that of its range; a student that clamps at
    1 mm would show a thousandth of a millimetre as 0.1 %.
    """
    return np.asarray(np.abs(depth - exact) / np.maximum(exact, far / 100), dtype=np.float32)


def network_size(student: Student) -> tuple[int, int]:
    """(H, W) in pixels that the network sees."""
    return student.size or _NETWORK_SIZE


def _sizes(height: int, width: int) -> list[tuple[int, int, int]]:
    """(batch, height, width): the own size; both odd; another shape; a smaller one."""
    return [
        (1, height, width),
        (2, height * 2 // 3 | 1, width * 3 // 4 | 1),
        (1, height * 5 // 4, width * 4 // 5),
        (3, height // 2, width // 2),
    ]


def _smooth(batch: int, height: int, width: int) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] of soft blotches and a little noise."""
    draw = torch.Generator().manual_seed(height)
    blotches = torch.rand(batch, 3, 7, 9, generator=draw)
    wide = F.interpolate(blotches, (height, width), mode="bilinear", align_corners=False)
    return (wide + 0.05 * torch.randn(wide.shape, generator=draw)).clamp(0, 1)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
