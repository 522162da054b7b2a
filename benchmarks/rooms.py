"""Claim: `rooms` renders at least 20 images/s on one core at 240x320.

    OMP_NUM_THREADS=1 python benchmarks/rooms.py --json benchmarks/results/rooms.json
    python benchmarks/rooms.py --sheet rooms.png       # colour | depth | classes, to be looked at

The peer is writing the same images as JPEG and PNG: what any rendered set pays beside rendering.
Seconds are those of the process (not of the wall), so other work on the machine counts little; the
best of some repetitions is taken for each room.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from PIL import Image as PillowImage

from kdpipe.datasets import rooms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.datasets.render.view import View


def measure(options: rooms.Options, scenes: int, repeats: int) -> dict[str, float]:
    """Images per second of one core, without and with writing them."""
    rendering, writing = 0.0, 0.0
    next(rooms.render_views(options, "train", 0))  # makes the textures
    for scene in range(scenes):
        best, views = np.inf, []
        for _ in range(repeats):
            start = time.process_time()
            views = list(rooms.render_views(options, "train", scene))
            best = min(best, time.process_time() - start)
        rendering += best
        start = time.process_time()
        for seen in views:
            _encode(seen)
        writing += time.process_time() - start
    images = scenes * rooms.VIEWS
    return {
        "images": images,
        "height": options.height,
        "width": options.width,
        "images_per_second": images / rendering,
        "images_per_second_with_writing": images / (rendering + writing),
        "rendering_over_writing": rendering / writing,
        "load_average": os.getloadavg()[0],
    }


def _encode(seen: View) -> None:
    PillowImage.fromarray(seen.image).save(BytesIO(), "JPEG", quality=95, subsampling=0)
    codes = np.rint(seen.depth / rooms.UNIT).astype(np.uint16)
    PillowImage.fromarray(codes).save(BytesIO(), "PNG", compress_level=3)
    PillowImage.fromarray(seen.labels).save(BytesIO(), "PNG", compress_level=3)


def contact_sheet(options: rooms.Options, part: str, first: int, count: int) -> PillowImage.Image:
    """One view of each of `count` rooms, two rooms a line: colour | depth 0.5..10 m | classes."""
    tiles = []
    for scene in range(first, first + count):
        seen = next(rooms.render_views(options, part, scene))
        near = np.log(seen.depth / 0.5) / np.log(20)
        tiles.append(
            np.concatenate(
                [seen.image, _paint(near, "turbo"), _paint(seen.labels / 20, "tab20")], 1
            )
        )
    lines = [np.concatenate(tiles[i : i + 2], 1) for i in range(0, count - 1, 2)]
    return PillowImage.fromarray(np.concatenate(lines))


def _paint(values: NDArray[np.floating], colours: str) -> NDArray[np.uint8]:
    painted = mpl.colormaps[colours](np.clip(values, 0, 1))[..., :3]
    return np.asarray(np.rint(painted * 255), np.uint8)


def main() -> None:
    """Prints the measurement, or writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", type=Path, help="write a contact sheet, measure nothing")
    parser.add_argument("--part", default="train", choices=("train", "val", "test", "pool"))
    parser.add_argument("--first", type=int, default=0, help="first room of the sheet")
    parser.add_argument("--count", type=int, default=12, help="rooms of the sheet (even)")
    parser.add_argument("--scenes", type=int, default=12, help="rooms that are measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    options = rooms.Options(height=args.height, width=args.width)
    if args.sheet is not None:
        contact_sheet(options, args.part, args.first, args.count).save(args.sheet)
        return
    figures = measure(options, args.scenes, args.repeats)
    print(json.dumps(figures, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
