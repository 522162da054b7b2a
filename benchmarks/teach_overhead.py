"""`teach` beside a bare forward loop: an AdaBins of official size, images of 480x640.

Random weights, no mirrored pass (it would only make the teacher's share larger). The bare loop runs
before and after; the network's loading and Ray's start-up are reported apart.

    cd benchmarks
    python teach_overhead.py --images 4 --workers 0 -o results/teach_overhead.json
    python teach_overhead.py --images 4 --workers 1 -o results/teach_overhead_ray.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from kdpipe import teachers, teaching
from kdpipe.cards import DataCard, load_teacher_card
from kdpipe.datasets import read_image
from kdpipe.datasets.files import digest_of
from kdpipe.rows import Row, Rows, make_rows, write_rows
from kdpipe.store import layout

HEIGHT, WIDTH = 480, 640
DATA = "noise"


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    output = options.output and options.output.absolute()

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        card = prepare(options.images)
        rows = make_photos(options.images)
        teacher = teachers.load_teacher(card, checkpoint="weights.pt")
        read_and_look(teacher, rows, 1)
        before = read_and_look(teacher, rows, options.images)
        done = teaching.run(
            card,
            DATA,
            checkpoint=Path("weights.pt"),
            manifests=Path("manifests"),
            options=teaching.Options(workers=options.workers, batch_size=1),
        )
        after = read_and_look(teacher, rows, options.images)
        os.chdir("/")
    result = {
        "images": options.images,
        "workers": options.workers,
        "threads": torch.get_num_threads(),
        "bare_seconds": [round(one, 2) for one in (before, after)],
        "teach_seconds": round(done.seconds, 2),
        "teach_over_bare": round(2 * done.seconds / (before + after), 4),
        "forward_share": round(done.forward_seconds / done.seconds, 4),
        "start_seconds": round(done.start_seconds, 2),
        "bytes_per_image": done.bytes // options.images,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")


def prepare(seed: int) -> str:
    """Writes the card, without its mirrored pass, and random weights; gives its name."""
    card = replace(load_teacher_card("adabins-nyu"), mirror=False, fit=None)
    path = Path("manifests/teachers") / f"{card.name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({**asdict(card), "network": dict(card.network)}))
    torch.manual_seed(seed)
    torch.save(teachers.build_network(card).state_dict(), "weights.pt")
    return card.name


def make_photos(count: int) -> Rows:
    """Smooth random images as JPEG, as a camera's are; and their rows."""
    rng = np.random.default_rng(0)
    rows = []
    Path(DATA).mkdir()
    for number in range(count):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(
            f"{DATA}/{number}.jpg"
        )
        row = Row(
            id=str(number),
            split="train",
            image=f"{number}.jpg",
            image_height=HEIGHT,
            image_width=WIDTH,
            height=HEIGHT,
            width=WIDTH,
            image_digest=digest_of(Path(f"{DATA}/{number}.jpg").read_bytes()),
        )
        rows.append(row)
    made = make_rows(DataCard(name=DATA, family="folder", domain="nyu"), Path(DATA), rows)
    write_rows(layout.rows_path(DATA), made)
    return made


def read_and_look(teacher: teachers.Teacher, rows: Rows, count: int) -> float:
    """Seconds of the bare loop: the forward passes only."""
    seconds = 0.0
    for number in range(count):
        image = read_image(rows, number)[None]
        began = time.perf_counter()
        teacher.predict(image)
        seconds += time.perf_counter() - began
    return seconds


if __name__ == "__main__":
    main()
