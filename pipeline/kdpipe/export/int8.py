"""The same graph in 8-bit integers, and what that costs in accuracy on real images.

Convolutions run on integers, their scales taken from train images; the last two stay float: one
gives the logits of the bins, or the map before the depth; the other the mean over the bins, or the
depth. Weights have 7 bits: with 8, processors without VNNI instructions overflow in between, which
costs three times the deviation.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from kdpipe.datasets import read_image, read_truth
from kdpipe.errors import DataError
from kdpipe.export.graph import INPUT, OnnxNetwork, deviation_of
from kdpipe.metrics.protocols import errors_of_image, find_protocol
from kdpipe.students.base import as_rgb

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    from kdpipe.metrics.protocols import Protocol
    from kdpipe.rows import Rows
    from kdpipe.students import Student

CALIBRATED, JUDGED = 32, 100
"""At most so many images, evenly over their split."""

_FLOAT_CONVOLUTIONS = 2
_SPLITS = ("val", "test", "train")
"""The first that a data set has is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What 8 bits change on a data set's images."""

    data: str
    split: str
    images: int
    calibrated_on: int
    """Images of the train split."""

    mean_deviation: float
    """Mean of `graph.deviation_of` all pixels."""

    p99_deviation: float
    """The same, exceeded by one pixel of a hundred; the mean over images."""

    max_deviation: float
    protocol: str
    labelled: int
    """Images with measured depth that counts."""

    abs_rel_float: float | None
    """Mean over them; None: there is none."""

    abs_rel_int8: float | None


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Images as the student's network sees them, one at a time."""

    def __init__(self, student: Student, rows: Rows) -> None:
        self._student, self._rows = student, rows
        self._numbers = iter(_evenly(rows.of_split("train"), CALIBRATED))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        number = next(self._numbers, None)
        if number is None:
            return None
        rgb = self._student.resize(as_rgb(read_image(self._rows, number)[None]))
        return {INPUT: rgb.numpy()}


def to_int8(model: bytes, student: Student, rows: Rows) -> bytes:
    """Turns a float ONNX file into one of 8 bits, calibrated on the train split.

    Raises:
        DataError: there is no train split, or an image is missing or torn.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole, ready, small = (Path(folder) / f"{name}.onnx" for name in ("f", "p", "q"))
        whole.write_bytes(model)
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        nodes = onnx.load(ready).graph.node
        convolutions = [node.name for node in nodes if node.op_type == "Conv"]
        quantize_static(
            str(ready),
            str(small),
            _Images(student, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=convolutions[-_FLOAT_CONVOLUTIONS:],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return small.read_bytes()


def measure_loss(student: Student, session: onnxruntime.InferenceSession, rows: Rows) -> Loss:
    """Compares the float student with its 8 bits on images of the val split, at their own size.

    Args:
        student: in PyTorch.
        session: of its 8 bits.
        rows: of the data set.

    Raises:
        DataError: an image or its truth is missing or torn.
    """
    splits = set(rows.table["split"].to_pylist())
    split = next((one for one in _SPLITS if one in splits), None)
    if split is None:
        raise DataError(f"{rows.name} has no row of split {', '.join(_SPLITS)}: index it again")
    card = rows.card
    rules = find_protocol(card.protocol).within(card.min_depth, card.max_depth)
    small = dataclasses.replace(student, network=OnnxNetwork(session))
    numbers = _evenly(rows.of_split(split), JUDGED)
    compared = [_compare(student, small, rows, number, rules) for number in numbers]
    found = np.array([deviations for deviations, _ in compared])
    errors = [pair for _, pair in compared if pair is not None]
    means = np.mean(errors, axis=0).tolist() if errors else [None, None]
    return Loss(
        data=rows.name,
        split=split,
        images=len(numbers),
        calibrated_on=len(_evenly(rows.of_split("train"), CALIBRATED)),
        mean_deviation=float(found[:, 0].mean()),
        p99_deviation=float(found[:, 1].mean()),
        max_deviation=float(found[:, 2].max()),
        protocol=rules.name,
        labelled=len(errors),
        abs_rel_float=means[0],
        abs_rel_int8=means[1],
    )


def _compare(
    student: Student, small: Student, rows: Rows, number: int, rules: Protocol
) -> tuple[tuple[float, float, float], tuple[float, float] | None]:
    """Deviations of an image (mean, percentile 99, max), and abs_rel of both where it has truth."""
    image = read_image(rows, number)[None]
    exact, coarse = (np.asarray(one.predict(image))[0] for one in (student, small))
    deviation = deviation_of(coarse, exact, student.bins.far)
    deviations = (
        float(deviation.mean()),
        float(np.percentile(deviation, 99)),
        float(deviation.max()),
    )
    if rows[number].truth is None:
        return deviations, None
    truth = read_truth(rows, number)
    before, after = (errors_of_image(depth, truth, rules) for depth in (exact, coarse))
    if before is None or after is None:  # no pixel counts
        return deviations, None
    return deviations, (before["abs_rel"], after["abs_rel"])


def _evenly(numbers: Sequence[int], most: int) -> list[int]:
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).astype(int)
    return [numbers[at] for at in places]
