"""What bf16 and fp16 change in a teacher's depth, and what they save.

Runs where teachers are ready: `kdpipe index --data rooms`, `kdpipe fit --teacher T --data rooms`.

    python benchmarks/precision.py --data rooms --teachers adabins-small,bts-small \\
        -o benchmarks/results/precision.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from kdpipe import metrics
from kdpipe.cards import load_teacher_card
from kdpipe.datasets import read_image, read_truth
from kdpipe.rows import Rows, read_rows
from kdpipe.store import layout
from kdpipe.teachers import Teacher, load_teacher
from kdpipe.teachers.base import PRECISIONS
from kdpipe.teaching.weights import find_weights


@dataclass(frozen=True)
class Line:
    """One teacher in one precision, beside itself in fp32."""

    teacher: str
    precision: str
    median_deviation: float
    """Of |depth - fp32 depth| / fp32 depth over all pixels."""

    p99_deviation: float
    abs_rel: float
    """Against the measured depth."""

    images_per_second: float
    """Of the forward pass, the median batch."""

    peak_megabytes: float | None
    """Of the GPU's memory; None on a CPU."""


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="rooms")
    parser.add_argument("--teachers", default="adabins-small")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = read_rows(layout.rows_path(options.data))
    test = [n for n, row in enumerate(rows) if row.split == "test" and row.truth][: options.images]
    lines: list[Line] = []
    for name in options.teachers.split(","):
        lines += compare(name, rows, test, options.device, options.batch_size)
    on_gpu = options.device.startswith("cuda")
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{options.data}, {len(test)} test images, {device}, torch {torch.__version__}\n")
    print("| teacher | precision | median | 99 % | AbsRel | images/s | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for one in lines:
        print(
            f"| {one.teacher} | {one.precision} | {one.median_deviation:.3%} | "
            f"{one.p99_deviation:.3%} | {one.abs_rel:.4f} | {one.images_per_second:.1f} | "
            f"{one.peak_megabytes or 0:.0f} |"
        )
    if options.output:
        result = {"data": options.data, "images": len(test), "device": device}
        result |= {"torch": torch.__version__, "teachers": [asdict(one) for one in lines]}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


def compare(name: str, rows: Rows, numbers: list[int], device: str, batch_size: int) -> list[Line]:
    """One teacher in all precisions, over the same images."""
    card = load_teacher_card(name)
    weights = find_weights(card, rows.name, None)
    lines, exact = [], None
    for precision in PRECISIONS:
        teacher = load_teacher(card, checkpoint=weights.path, device=device, precision=precision)
        depth, speed, peak = look(teacher, rows, numbers, batch_size)
        exact = depth if exact is None else exact
        deviation = np.abs(depth - exact) / exact
        errors = [
            metrics.depth_errors(one, read_truth(rows, number), protocol=rows.card.protocol)
            for one, number in zip(depth, numbers, strict=True)
        ]
        lines.append(
            Line(
                teacher=name,
                precision=precision,
                median_deviation=float(np.median(deviation)),
                p99_deviation=float(np.quantile(deviation, 0.99)),
                abs_rel=statistics.fmean(one["abs_rel"] for one in errors),
                images_per_second=speed,
                peak_megabytes=peak,
            )
        )
    return lines


def look(
    teacher: Teacher, rows: Rows, numbers: list[int], batch_size: int
) -> tuple[np.ndarray, float, float | None]:
    """Depth in the frame (N, H, W) [m], images a second, peak memory [MB]."""
    on_gpu, depths, speeds = teacher.device.type == "cuda", [], []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for start in range(0, len(numbers), batch_size):
        part = numbers[start : start + batch_size]
        images = np.stack([read_image(rows, number) for number in part])
        focal = np.array([rows[number].fx or 0 for number in part], np.float32)
        began = time.perf_counter()
        out = teacher.predict(images, focal=focal if focal.all() else None)
        if on_gpu:
            torch.cuda.synchronize()
        speeds.append(len(part) / (time.perf_counter() - began))
        depths.append(out.depth_in_frame(*images.shape[1:3]).cpu().numpy())
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None
    return np.concatenate(depths), statistics.median(speeds), peak


if __name__ == "__main__":
    main()
