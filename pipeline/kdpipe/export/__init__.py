"""A student as ONNX, checked against itself; its latency, and what 8 bits cost."""

from __future__ import annotations

import importlib
import logging
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdpipe import __version__
from kdpipe.datasets.indexed import rows_of
from kdpipe.errors import DataError, ExportError
from kdpipe.store.disk import as_json, write_atomically
from kdpipe.store.layout import find_student, parse_run
from kdpipe.students import EXPORTS, load_student, weights_digest
from kdpipe.training.outcome import warn_if_unfinished

if TYPE_CHECKING:
    from kdpipe.export.graph import Deviation
    from kdpipe.export.int8 import Loss
    from kdpipe.export.latency import Latency
    from kdpipe.rows import Rows
    from kdpipe.students import Student

logger = logging.getLogger(__name__)

FLOAT_FILE, INT8_FILE, SUMMARY = EXPORTS
_VERSIONS = ("torch", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What `run` gives."""

    path: Path
    """Of the float model; export.json and the 8-bit model are beside it."""

    deviations: list[Deviation]
    """From PyTorch."""

    size: tuple[int, int]
    """(H, W) of the image that was timed [pixels]."""

    threads: int
    latencies: Mapping[str, Latency]
    """By engine."""

    bytes: Mapping[str, int]
    """Of each file."""

    loss: Loss | None
    """What 8 bits change; None: not asked for."""


def run(
    run: str,
    *,
    int8: bool = False,
    data: str | None = None,
    threads: int | None = None,
    manifests: Path | None = None,
) -> Exported:
    """Writes model.onnx and export.json into a run's folder, once it agrees with PyTorch.

    Args:
        run: name of a run of `distill`, or its folder.
        int8: also write model-int8.onnx, calibrated and judged on images of the data set.
        data: whose images; None: those of the run's own name.
        threads: of the timing; None: as many as PyTorch takes.
        manifests: folder of the cards.

    Raises:
        ExportError: onnx or onnxruntime is not installed, the network has no ONNX form, or the
            form gives another depth.
        UnknownNameError: no such run or data set.
        CheckpointError: the run has no finished student.
        DataError: images for 8 bits are missing.
    """
    _check_installed()
    folder = find_student(run)
    rows = _rows(folder, data, manifests) if int8 else None
    student = load_student(folder)
    warn_if_unfinished(folder)
    return _export(folder, student, rows, threads or torch.get_num_threads())


def _export(folder: Path, student: Student, rows: Rows | None, threads: int) -> Exported:
    from kdpipe.export import graph, latency  # here: they need the extra packages

    facts = _facts(folder, student)
    model = graph.to_onnx(student, facts)
    session = graph.open_session(model, threads)
    deviations = graph.check(student, session)
    rgb = torch.rand(1, 3, *graph.network_size(student), generator=torch.Generator().manual_seed(0))
    engines = latency.torch_engines(student, rgb)
    engines["onnxruntime, CPU"] = latency.onnx_engine(session, rgb)
    files, loss = {FLOAT_FILE: model}, None
    if rows is not None:
        from kdpipe.export import int8

        files[INT8_FILE] = int8.to_int8(model, student, rows)
        session = graph.open_session(files[INT8_FILE], threads)
        loss = int8.measure_loss(student, session, rows)
        engines["onnxruntime, CPU, 8 bits"] = latency.onnx_engine(session, rgb)
    done = Exported(
        path=folder / FLOAT_FILE,
        deviations=deviations,
        size=graph.network_size(student),
        threads=threads,
        latencies=latency.measure(engines, threads),
        bytes={name: len(content) for name, content in files.items()},
        loss=loss,
    )
    _write(folder, files, {"model": facts, **_summary(done)})
    return done


def _check_installed() -> None:
    for name in ("onnx", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"package {name} is not installed here ({error}), export needs it: "
                "pip install 'kdpipe[export]'"
            ) from error


def _rows(folder: Path, data: str | None, manifests: Path | None) -> Rows:
    named = parse_run(folder.resolve().name)
    if data is None and named is None:
        raise DataError(
            f"{folder} is not called DATA_TEACHER_STUDENT_METHOD_sSEED: say whose images "
            "calibrate the 8 bits with --data"
        )
    return rows_of(data or str(named and named.data), manifests)


def _facts(folder: Path, student: Student) -> dict[str, str]:
    """What the ONNX file says of itself; all of it text, as the format wants."""
    size = student.size
    return {
        "made_by": f"kdpipe {__version__}",
        "run": folder.resolve().name,
        "student": student.card.name,
        "weights_sha256": str(weights_digest(folder)),
        "input": "rgb: float32 (batch, 3, height, width), RGB in [0, 1]; it is normalised inside",
        "output": "depth: float32 (batch, height, width), at the input's size",
        "unit": "metre",
        "near": f"{student.bins.near:g}",
        "far": f"{student.bins.far:g}",
        "trained_at": "any size" if size is None else f"{size[0]}x{size[1]} (height x width)",
    }


def _summary(done: Exported) -> Mapping[str, object]:
    versions = {name: importlib.import_module(name).__version__ for name in _VERSIONS}
    return {
        "bytes": done.bytes,
        "deviations": [asdict(one) for one in done.deviations],
        "latency": {
            "batch": 1,
            "height": done.size[0],
            "width": done.size[1],
            "threads": done.threads,
            "machine": platform.machine(),
            "versions": versions,
            "engines": {name: asdict(one) for name, one in done.latencies.items()},
        },
        "int8": None if done.loss is None else asdict(done.loss),
    }


def _write(folder: Path, files: Mapping[str, bytes], summary: Mapping[str, object]) -> None:
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_atomically(folder / SUMMARY, as_json(summary))
    if INT8_FILE not in files and (folder / INT8_FILE).exists():
        (folder / INT8_FILE).unlink()
        logger.info("%s was of an earlier export and is removed", folder / INT8_FILE)
