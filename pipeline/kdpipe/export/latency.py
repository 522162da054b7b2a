"""How long one image takes, in PyTorch and in onnxruntime."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kdpipe.export.graph import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnxruntime
    from torch import Tensor, nn

    from kdpipe.students import Student

_WARM_UPS = 3
_MOST, _FEWEST = 50, 5
_SECONDS = 10.0
"""After so long a measurement ends, once it has the fewest repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one image through one engine."""

    median_ms: float
    fastest_ms: float
    repeats: int


def measure(engines: Mapping[str, Callable[[], object]], threads: int) -> dict[str, Latency]:
    """Times each engine, one after the other; PyTorch's own have `threads` threads."""
    with _torch_threads(threads):
        return {name: _time(run) for name, run in engines.items()}


def torch_engines(student: Student, rgb: Tensor) -> dict[str, Callable[[], object]]:
    """The student's network on the CPU and, where there is one, on a GPU.

    Args:
        student: on the CPU; it stays there.
        rgb: what it sees, (B, 3, H, W) in [0, 1].
    """
    engines: dict[str, Callable[[], object]] = {"PyTorch, CPU": _forward(student.network, rgb)}
    if torch.cuda.is_available():
        network = copy.deepcopy(student.network).to("cuda")
        engines["PyTorch, GPU"] = _forward(network, rgb.to("cuda"))
    return engines


def onnx_engine(session: onnxruntime.InferenceSession, rgb: Tensor) -> Callable[[], object]:
    """The same image through onnxruntime."""
    fed = {INPUT: rgb.numpy()}
    return lambda: session.run([OUTPUT], fed)


def _forward(network: nn.Module, rgb: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            depth: Tensor = network(rgb).depth
            if depth.is_cuda:
                torch.cuda.synchronize()
            return depth

    return run


def _time(run: Callable[[], object]) -> Latency:
    for _ in range(_WARM_UPS):
        run()
    seconds: list[float] = []
    while len(seconds) < _MOST and (len(seconds) < _FEWEST or sum(seconds) < _SECONDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return Latency(
        median_ms=1000 * statistics.median(seconds),
        fastest_ms=1000 * min(seconds),
        repeats=len(seconds),
    )


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
