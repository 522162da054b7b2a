"""A training step with the teacher in the loop beside the same step from the store.

One student, crop, batch, loss: AdaBins of official size (random weights, no mirrored pass) looks at
the batch's own images, or its stored depth is read. S is the student's step with a target at hand,
its images read as in every step; T is the teacher's forward pass over them: what caching can save
is (S + T) / S. Rounds alternate; medians.

    python benchmarks/online.py --rounds 5 -o benchmarks/results/online.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from teach_overhead import DATA, make_photos, prepare
from torch import nn

from kdpipe import open_store, teachers, teaching
from kdpipe.cards import load_method, load_student_card
from kdpipe.store import layout
from kdpipe.students import build_network
from kdpipe.training.augment import Augment
from kdpipe.training.methods import BatchLoss, loss_of
from kdpipe.training.samples import DistillDataset, Sample, Stream

if TYPE_CHECKING:
    from kdpipe.rows import Rows
    from kdpipe.store import Store

METHODS = {"hu-mobilenetv2": "hu"}
"""Of a student; others learn by tie-kd-corrected."""


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--students", nargs="+", default=["mobilenetv2-small", "hu-mobilenetv2", "mobilenetv2"]
    )
    parser.add_argument("--size", type=int, nargs=2, default=[416, 544])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    output = options.output and options.output.absolute()

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        card = prepare(0)
        rows = make_photos(2 * options.batch)
        teaching.run(
            card,
            DATA,
            checkpoint=Path("weights.pt"),
            manifests=Path("manifests"),
            options=teaching.Options(workers=0, device=options.device),
        )
        teacher = teachers.load_teacher(card, checkpoint="weights.pt", device=options.device)
        compared = [compare(name, rows, teacher, options) for name in options.students]
        os.chdir("/")
    result = {
        "size": options.size,
        "batch": options.batch,
        "rounds": options.rounds,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "students": compared,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")


def compare(
    name: str, rows: Rows, teacher: teachers.Teacher, options: argparse.Namespace
) -> dict[str, object]:
    """Median seconds of each kind of step, and what caching saves of what it can."""
    device = torch.device(options.device)
    card, method = load_student_card(name), load_method(METHODS.get(name, "tie-kd-corrected"))
    network = build_network(card, bins_domain=rows.card.domain).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=device.type == "cuda")
    losses = loss_of(method)
    store = open_store(layout.store_path(DATA, teacher.card.name))
    cached = batches(rows, [store], options)
    unlabelled = batches(rows, [], options)
    kept = next(cached)
    target = {key: kept[key] for key in ("teacher", "known")}

    def student() -> None:
        step(network, optimizer, losses, {**next(unlabelled), **target}, device)

    def forward() -> None:
        teacher.predict(kept["image"])

    def from_store() -> None:
        step(network, optimizer, losses, next(cached), device)

    def in_the_loop() -> None:
        batch = next(unlabelled)
        depth = teacher.predict(batch["image"]).depth_in_frame(*options.size)
        batch = {**batch, "teacher": depth, "known": depth > 0}
        step(network, optimizer, losses, batch, device)

    steps: dict[str, Callable[[], None]] = {
        "student": student,
        "teacher": forward,
        "cached": from_store,
        "online": in_the_loop,
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for round_number in range(options.rounds + 1):
        for kind, run in steps.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number:  # the first one warms up
                seconds[kind].append(time.perf_counter() - began)
    median = {kind: statistics.median(values) for kind, values in seconds.items()}
    possible = (median["student"] + median["teacher"]) / median["student"]
    measured = median["online"] / median["cached"]
    return {
        "student": name,
        "method": method.name,
        "seconds": {kind: round(value, 4) for kind, value in median.items()},
        "online_over_cached": round(measured, 3),
        "possible": round(possible, 3),
        "reached": round(measured / possible, 3),
    }


def batches(rows: Rows, stores: list[Store], options: argparse.Namespace) -> Iterator[Sample]:
    """Batches without end."""
    part = DistillDataset(
        rows, stores=stores, transform=Augment(size=tuple(options.size), flip=0.5)
    )
    stream = Stream([part], seed=0)
    return stream.batches(options.batch, 0, 2 * options.rounds + 3)


def step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: BatchLoss,
    batch: Sample,
    device: torch.device,
) -> None:
    """One step of a student."""
    batch = {key: value.to(device) for key, value in batch.items()}
    optimizer.zero_grad(set_to_none=True)
    loss = losses(network(batch["image"]), batch)
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
