"""What distilling from the store adds to a training step, and whether the loader keeps up.

Run in a project whose data set is indexed and taught. Steps of several methods alternate, each on
samples that were not read before (no decoded image or map is kept yet): CPU seconds of loading, of
the store's share in it, and of the step itself; medians, and ratios to the first method. Then a
consumer that takes 20 ms a batch: how much of that time it is not left waiting, after some batches
(`--warm`; many epochs of them: from memory).

    python benchmarks/training_step.py --student mobilenetv2-small --data nyu \
        --teacher adabins-lite0 --size 144 192 --batch 8 --rounds 15 -o small.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdpipe.cards import load_method, load_student_card, load_teacher_card
from kdpipe.datasets.indexed import rows_of
from kdpipe.nets.allocator import keep_freed_memory
from kdpipe.params import load_params
from kdpipe.store import layout, open_store
from kdpipe.students import build_network
from kdpipe.training.augment import augment_of
from kdpipe.training.loop import seed_everything
from kdpipe.training.methods import loss_of, reads_bins
from kdpipe.training.samples import DistillDataset, Sample, Stream
from kdpipe.training.step import Step
from kdpipe.training.team import ALONE

if TYPE_CHECKING:
    from kdpipe.training.geometry import Transform

CONSUMER = 0.020
"""Seconds a batch."""


class Arm:
    """A student that learns by one method."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        card, method = load_student_card(options.student), load_method(name)
        height, width = options.size
        params = replace(
            load_params().distill_of(options.student),
            height=height,
            width=width,
            batch_size=options.batch,
            steps=10_000,
        )
        self.stream = Stream([dataset(name, options)], seed=0)
        self.batches = self.stream.batches(options.batch, 0, options.rounds + 1)
        seed_everything(0)
        rows = self.stream.parts[0].rows
        network = build_network(card, bins_domain=rows.card.domain).train()
        self.losses = loss_of(method)
        self.step = Step(network, card.fit, params, seed=0, device=torch.device("cpu"), team=ALONE)
        self.store = 0.0
        self._time_the_store()

    def _time_the_store(self) -> None:
        teachers = self.stream.parts[0].teachers
        sample = teachers.sample

        def timed(number: int, transform: Transform) -> dict[str, torch.Tensor]:
            began = time.process_time()
            found = sample(number, transform)
            self.store += time.process_time() - began
            return found

        teachers.sample = timed  # type: ignore[method-assign]

    def once(self, number: int) -> tuple[float, float, float]:
        """CPU seconds of loading, of the store in it, and of the step."""
        self.store, began = 0.0, time.process_time()
        batch = next(self.batches)
        loaded = time.process_time()
        self.step(batch, number, self._loss)
        return loaded - began, self.store, time.process_time() - loaded

    def _loss(self, network: torch.nn.Module, batch: Sample) -> torch.Tensor:
        return self.losses(network(batch["image"]), batch)


def dataset(name: str, options: argparse.Namespace) -> DistillDataset:
    """The train split, as `distill` makes it for a method."""
    method, rows = load_method(name), rows_of(options.data)
    params = load_params().distill_of(options.student)
    params = replace(params, height=options.size[0], width=options.size[1])
    card = load_student_card(options.student)
    path = layout.store_path(options.data, options.teacher)
    return DistillDataset(
        rows,
        stores=[open_store(path, card=load_teacher_card(options.teacher))]
        if method.teacher
        else [],
        transform=augment_of(params, rotation=card.fit.rotation, method=method),
        with_truth=bool(method.truth),
        with_bins=reads_bins(method),
    )


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", default="mobilenetv2-small")
    parser.add_argument("--data", default="nyu")
    parser.add_argument("--teacher", default="adabins-lite0")
    parser.add_argument("--methods", nargs="+", default=["none", "tie-kd-corrected", "bins", "hu"])
    parser.add_argument("--size", type=int, nargs=2, default=[144, 192])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--warm", type=int, nargs="*", default=[5])
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()

    keep_freed_memory()  # as in training
    result = {
        **{
            name: getattr(options, name) for name in ("student", "data", "teacher", "size", "batch")
        },
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "steps": steps(options),
        "loader": [
            busy(options, workers, warm) for warm in options.warm for workers in options.workers
        ],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def steps(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of each method, beside the first one."""
    arms = [Arm(name, options) for name in options.methods]
    taken: dict[str, list[tuple[float, float, float]]] = {arm.name: [] for arm in arms}
    for number in range(options.rounds + 1):
        for arm in arms:
            seconds = arm.once(number)
            if number:  # the first one warms up
                taken[arm.name].append(seconds)
    base = taken[arms[0].name]
    first = np.array(base).sum(axis=1)
    found = {}
    for name, each in taken.items():
        load, store, step = (statistics.median(part) for part in zip(*each, strict=True))
        ratios = np.array(each).sum(axis=1) / first
        found[name] = {
            "load_seconds": round(load, 4),
            "store_seconds": round(store, 4),
            "step_seconds": round(step, 4),
            "whole_over_first": round(float(np.median(ratios)), 3),
            "step_over_first": round(float(np.median(steps_of(each) / steps_of(base))), 3),
            "store_share": round(store / (load + step), 4),
        }
    return found


def steps_of(taken: list[tuple[float, float, float]]) -> np.ndarray:
    """CPU seconds of the steps alone."""
    return np.array(taken)[:, 2]


def busy(options: argparse.Namespace, workers: int, warm: int, count: int = 50) -> dict[str, float]:
    """A consumer of 20 ms a batch, fed by some loader processes after the first batches."""
    stream = Stream([dataset("tie-kd-corrected", options)], seed=0)
    batches = stream.batches(options.batch, 0, warm + count, workers=workers)
    cpu = _cpu_seconds()
    for _ in range(warm):
        next(batches)
    waited = 0.0
    for _ in range(count):
        began = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - began
        time.sleep(CONSUMER)
    del batches  # the workers end, and their CPU time is known
    return {
        "workers": workers,
        "after_batches": warm,
        "busy": round(count * CONSUMER / (count * CONSUMER + waited), 3),
        "cpu_seconds_per_batch": round((_cpu_seconds() - cpu) / (warm + count), 4),
    }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usages)


if __name__ == "__main__":
    main()
