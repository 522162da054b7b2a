"""Writers of small NYU-like and KITTI-like sets; every test runs in its own working folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdpipe.cards import DataCard

Pair = Callable[..., tuple[str, str]]


def fill(root: Path, pair: Pair, numbers: range, name: str = "train.txt") -> None:
    """Writes pairs and the list that names them."""
    lines = [" ".join(pair(f"{n}.png", f"d{n}.png", units=1000 + n)) + " 5" for n in numbers]
    (root / name).write_text("\n".join(lines))


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for variable in ("NYU_DIR", "KITTI_DIR"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data set's folder."""
    folder = tmp_path / "some data"
    folder.mkdir()
    return folder


@pytest.fixture
def pair(root: Path) -> Pair:
    """Writes an image and its depth [units of the file], by name; gives both paths."""

    def write(
        image: str = "room/rgb_1.png",
        depth: str = "room/sync_depth_1.png",
        *,
        size: tuple[int, int] = (6, 8),
        units: int = 2000,
    ) -> tuple[str, str]:
        for name in (image, depth):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        ramp = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(*size, 3) + units
        Image.fromarray((ramp % 256).astype(np.uint8)).save(root / image)
        Image.fromarray(np.full(size, units, np.uint16)).save(root / depth)
        return image, depth

    return write


@pytest.fixture
def nyu() -> DataCard:
    """A card of NYU's family with one-word lists."""
    lists = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    return DataCard(name="toy", family="nyu", domain="nyu", lists=lists)
