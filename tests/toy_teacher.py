"""A teacher without a network, fast and exact; as a program it is `kdpipe teach` with that teacher.

TOY_SECONDS=0.01 python -m tests.toy_teacher --data photos --workers 0
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from kdpipe import teachers
from kdpipe.cards import DataCard, TeacherCard, load_teacher_card
from kdpipe.datasets.files import digest_of
from kdpipe.errors import DataError
from kdpipe.rows import Row, Rows, make_rows, write_rows
from kdpipe.store import layout
from kdpipe.store.disk import as_json, write_atomically
from kdpipe.teachers.base import Bins, Teacher, TeacherOutput

if TYPE_CHECKING:
    from kdpipe.types import Image

BINS = 6
TEACHER = "adabins-small"


class ToyTeacher(Teacher):
    """Depth follows the green channel, at half the frame's size; two bins share each pixel."""

    fails_on: int | None = None
    """Raises for an image whose first red value is this."""

    needs_focal: bool = False
    """Refuses images without a focal length."""

    fits: int = 1000
    """Images that the memory of its device holds."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """See Teacher."""
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")) * len(rgb))
        numbers = (rgb[:, 0, 0, 0] * 255).round().int().tolist()
        if int(os.environ.get("TOY_STARES_AT", "-1")) in numbers:
            time.sleep(600)  # until a signal comes
        if self.fails_on in numbers:
            raise RuntimeError("the toy broke")
        if self.needs_focal and focal is None:
            raise DataError("the toy found no focal length, expected one an image")
        if len(rgb) > self.fits:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(rgb)} images")
        depth = 0.5 + 9 * rgb[:, 1, ::2, ::2]
        edges = torch.linspace(0, 12, BINS + 1).repeat(len(rgb), 1)
        width = 12 / BINS
        place = depth / width - 0.5
        below = place.floor().clamp(0, BINS - 2)
        share = (place - below).clamp(0, 1)[:, None]
        index = below.long()[:, None]
        softmax = torch.zeros(len(rgb), BINS, *depth.shape[1:])
        softmax.scatter_(1, index, 1 - share)
        softmax.scatter_(1, index + 1, share)
        return TeacherOutput(depth, Bins(edges, softmax))


def load_toy(card: TeacherCard | str, **_: object) -> Teacher:
    """Stands in for kdpipe.teachers.load_teacher; reads no checkpoint."""
    if isinstance(card, str):
        card = load_teacher_card(card)
    return ToyTeacher(replace(card, mirror=False), nn.Identity(), "cpu")


def photo(number: int, height: int = 12, width: int = 16) -> Image:
    """Smooth, and different for each number."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(number)
    start, down, right = rng.uniform(0, 80, 3)
    green = start + down * y / height + right * x / width
    return np.stack([np.full_like(green, number), green, green[::-1]], axis=-1).astype(np.uint8)


def make_photos(
    count: int, *, name: str = "photos", sizes: tuple[tuple[int, int], ...] = ((12, 16),)
) -> Rows:
    """Writes a data set into the working folder: images, rows file, and the teacher's weights."""
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        file = folder / f"{number:04d}.png"
        Pillow.fromarray(photo(number, height, width)).save(file)
        rows.append(
            Row(
                id=f"{number:04d}",
                split="train",
                image=f"{number:04d}.png",
                image_height=height,
                image_width=width,
                height=height,
                width=width,
                fx=float(50 + number),
                image_digest=digest_of(file.read_bytes()),
            )
        )
    made = make_rows(DataCard(name=name, family="folder", domain="any"), folder, rows)
    write_rows(layout.rows_path(name), made)
    _write_weights(name)
    return made


def _write_weights(data: str) -> None:
    folder = layout.teacher_dir(data, TEACHER)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt").write_bytes(b"toy")
    noted = {
        "teacher": TEACHER,
        "fingerprint": load_teacher_card(TEACHER).fingerprint,
        "checkpoint": "model.pt",
        "sha256": hashlib.sha256(b"toy").hexdigest(),
        "source": "fitted",
    }
    write_atomically(layout.weights_path(data, TEACHER), as_json(noted))


def main() -> None:
    """Runs `kdpipe teach` with the toy."""
    from kdpipe_stages import cli

    teachers.load_teacher = load_toy
    sys.argv = ["kdpipe", "teach", "--teacher", TEACHER, *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
