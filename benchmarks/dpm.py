"""Memory and time of the losses over bins beside the plain formula, in one run.

Bins (B, N, H, W) come from logits, as in a student; depth from bins. `fused` is kdpipe's
expectation and divergence, `plain` the formula left to autograd, `network` the softmax alone with a
gradient for it: what the network holds whatever the loss. Peak of what torch allocates beyond the
logits, in units of one tensor (B, N, H, W) in float32; CPU seconds of a forward and a backward
pass, rounds alternate, medians; the difference of the gradients towards the logits.

    python benchmarks/dpm.py --rounds 5 -o benchmarks/results/dpm.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kdpipe.losses.dpm import DpmMode, dpm_loss, dpm_target
from kdpipe.nets.allocator import keep_freed_memory
from kdpipe.students.base import BINS
from kdpipe.students.distribution import distribution

Loss = Callable[[Tensor, Tensor, Tensor, float, DpmMode], Tensor]

CASES: list[tuple[str, tuple[int, int, int], DpmMode, float]] = [
    ("nyu", (2, 208, 272), "normalized", 0.15),
    ("nyu", (2, 208, 272), "published", 0.5),
    ("kitti", (1, 176, 352), "normalized", 0.8),
    ("kitti", (1, 176, 352), "published", 0.5),
]
"""Bins, (B, H, W), form of the target, sigma [m]."""


def fused(logits: Tensor, teacher: Tensor, centers: Tensor, sigma: float, mode: DpmMode) -> Tensor:
    """Depth's error and the divergence, as a student and its loss compute them."""
    probabilities, depth = distribution(logits.permute(0, 2, 3, 1), centers)
    divergence = dpm_loss(probabilities, teacher, centers, sigma=sigma, mode=mode)
    return (depth - teacher).square().mean() + divergence


def plain(logits: Tensor, teacher: Tensor, centers: Tensor, sigma: float, mode: DpmMode) -> Tensor:
    """The same, each formula in one line."""
    probabilities = torch.softmax(logits, 1)
    depth = (probabilities * centers.view(1, -1, 1, 1)).sum(1)
    q = dpm_target(teacher, centers, sigma=sigma, mode=mode)
    terms = q * torch.log(q / (probabilities + 1e-7) + 1e-7)
    divergence = torch.where(probabilities == 0, 0, terms).sum(1).mean()
    return (depth - teacher).square().mean() + divergence


def network(logits: Tensor, _: Tensor, __: Tensor, ___: float, ____: DpmMode) -> Tensor:
    """The softmax, with a gradient of its own size."""
    probabilities = torch.softmax(logits, 1)
    return (probabilities * 2).sum()


LOSSES: dict[str, Loss] = {"network": network, "plain": plain, "fused": fused}


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()

    keep_freed_memory()  # as in training
    torch.manual_seed(0)
    result = {
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "cases": [compare(*case, options.rounds) for case in CASES],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def compare(
    bins: str, shape: tuple[int, int, int], mode: DpmMode, sigma: float, rounds: int
) -> dict[str, object]:
    """Peaks, seconds, and how far the gradients are apart."""
    centers = BINS[bins].centers()
    batch, height, width = shape
    values = 3 * torch.randn(batch, len(centers), height, width)
    logits = values.contiguous(memory_format=torch.channels_last).requires_grad_()
    teacher = torch.rand(shape) * centers[-1]

    def once(loss: Loss) -> Tensor:
        (gradient,) = torch.autograd.grad(loss(logits, teacher, centers, sigma, mode), logits)
        return gradient

    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    for number in range(rounds + 1):
        for name, loss in LOSSES.items():
            began = time.process_time()
            once(loss)
            if number:  # the first one warms up
                seconds[name].append(time.process_time() - began)
    peaks = {name: peak(lambda loss=loss: once(loss)) for name, loss in LOSSES.items()}  # type: ignore[misc]
    unit = values.numel() * 4
    expected, found = once(plain), once(fused)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "bins": [bins, len(centers)],
        "shape": [batch, len(centers), height, width],
        "mode": mode,
        "peak": {name: round(each / unit, 2) for name, each in peaks.items()},
        "peak_beside_network": {
            name: round((peaks[name] - peaks["network"]) / unit, 2) for name in ("plain", "fused")
        },
        "cpu_seconds": {name: round(each, 4) for name, each in median.items()},
        "plain_over_fused": round(median["plain"] / median["fused"], 2),
        "gradient_difference": float((found - expected).norm() / expected.norm()),
    }


def peak(work: Callable[[], object]) -> int:
    """Most bytes that torch has allocated at once during `work`, beyond what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    most = held = 0
    for _, change in sorted(changes, key=lambda each: each[0]):
        held += change
        most = max(most, held)
    return most


if __name__ == "__main__":
    main()
