"""Claim: a random training crop costs a sixth of TIE-KD's PNG, at an eleventh of its bytes.

A fitted BTS looks at rendered rooms; its depth becomes a store, PNG files as TIE-KD keeps them, and
a raw uint16 memmap, for frames of 480x640. Each reader gives the same random crops as metres, round
after round; what counts is CPU time. Native maps of half the frame's size are what AdaBins gives.

    python benchmarks/reader.py bts-small=artifacts/teachers/rooms/bts-small/model.pt \\
        --json benchmarks/results/reader.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from PIL import Image as Pillow

from kdpipe.cards import DataCard, TeacherCard
from kdpipe.codecs import Log16
from kdpipe.datasets import rooms
from kdpipe.store import Store, layout, open_store
from kdpipe.store.claims import Claim
from kdpipe.store.frame import BILINEAR, Window, resampling, to_frame
from kdpipe.store.identity import identity_of
from kdpipe.store.ledger import Record
from kdpipe.store.metadata import StoreInfo, formats, write_info
from kdpipe.store.writer import open_writer
from kdpipe.teachers import load_teacher

if TYPE_CHECKING:
    from kdpipe.types import Depth

FRAME, CROP = (480, 640), (416, 544)
SCENES, ROWS = 6, 64
CODEC = Log16(near=1e-3, far=40.0)
FULL_SCALE = 10.0
Read = Callable[[int, Window], "Depth"]


def main() -> None:
    """Measures, prints, and writes JSON."""
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr")
    warnings.filterwarnings("ignore", message="Combining a `sharding_indexed` codec")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", help="CARD=CHECKPOINT")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    name, _, checkpoint = options.teacher.partition("=")
    teacher = load_teacher(name, checkpoint=checkpoint)
    found = {}
    for height, width in ((240, 320), FRAME):
        said = [
            teacher.predict(view.image[None]).depth[0].numpy()
            for scene in range(SCENES)
            for view in rooms.render_views(
                rooms.Options(height=height, width=width), "test", scene, 1
            )
        ]
        with tempfile.TemporaryDirectory() as folder:
            found[f"native {height}x{width}"] = measure(Path(folder), teacher.card, said, options)
        print(json.dumps(found, indent=1), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(
    folder: Path, card: TeacherCard, said: list[Depth], options: argparse.Namespace
) -> dict[str, Any]:
    """Crops per CPU second of each reader, and how far ours is ahead."""
    store = write_store(folder / "depth.zarr", card, said)
    readers: dict[str, Read] = {
        "kdpipe": store.depth,
        "zarr-python, the same shards": zarr_reader(store),
        "TIE-KD's PNG": png_reader(folder, store),
        **{
            f"raw uint16 memmap, {what}": memmap_reader(folder, store, what)
            for what in ("native codes", "codes", "millimetres")
        },
    }
    rng, rates = np.random.default_rng(0), {name: [] for name in readers}
    for turn in range(options.rounds + 1):
        asked = [crop(rng) for _ in range(ROWS)]
        rows = rng.permutation(ROWS).tolist()
        for name, read in readers.items():
            began = time.process_time()
            for row, window in zip(rows, asked, strict=True):
                read(row, window)
            if turn:  # the first one opens files and indices
                rates[name].append(ROWS / (time.process_time() - began))
        check(readers, rows[0], asked[0])
    ours = np.array(rates["kdpipe"])
    bytes_of_png = sum(one.stat().st_size for one in folder.glob("*.png"))
    return {
        "crops_per_cpu_second": {name: float(np.median(one)) for name, one in rates.items()},
        "kdpipe_times": {
            name: float(np.median(ours / np.array(one)))
            for name, one in rates.items()
            if name != "kdpipe"
        },
        "bytes_per_image": {
            "kdpipe": store_bytes(store) / ROWS,
            "TIE-KD's PNG": bytes_of_png / ROWS,
            "raw uint16 memmaps": 2 * FRAME[0] * FRAME[1],
        },
    }


def write_store(path: Path, card: TeacherCard, said: list[Depth]) -> Store:
    """One shard of depth, the scenes over and over."""
    native = said[0].shape
    identity = identity_of(
        card,
        DataCard(name="rooms", family="rooms", domain="nyu"),
        weights={"sha256": "0" * 64, "source": "fitted"},
        rule=BILINEAR,
        codecs={"depth": CODEC},
        shard_rows=ROWS,
    )
    arrays = formats((native[0], native[1]), None)
    info = StoreInfo(identity=identity, rows=ROWS, arrays=arrays)
    write_info(path, info)
    claim = Claim.take(path, 0, "benchmark")
    with open_writer(info, claim) as writer:
        for number in range(ROWS):
            values = {
                layout.DEPTH: CODEC.encode(said[number % len(said)]),
                layout.EXTENT: np.array([*native, *FRAME, 0, 0, 500.0]),
            }
            writer.put(number, values)
        record = Record(
            store=info.digest,
            shard=0,
            start=0,
            stop=ROWS,
            row_digest="",
            ids=tuple(map(str, range(ROWS))),
            arrays={},
        )
        writer.commit(record)
    claim.release()
    return open_store(path)


def zarr_reader(store: Store) -> Read:
    """What zarr-python reads, brought to metres and to the frame by the same functions."""
    array: Any = zarr.open_group(str(store.path), mode="r")[layout.DEPTH]

    def read(row: int, window: Window) -> Depth:
        return to_frame(CODEC.decode(np.asarray(array[row])), FRAME, window)

    return read


def png_reader(folder: Path, store: Store) -> Read:
    """16-bit PNG of the frame, as TIE-KD's loader reads them: with Pillow, then scaled."""
    for row in range(ROWS):
        units = (store.depth(row) * (65535 / FULL_SCALE)).clip(0, 65535).astype(np.uint16)
        Pillow.fromarray(units).save(folder / f"{row}.png")

    def read(row: int, window: Window) -> Depth:
        units = np.asarray(Pillow.open(folder / f"{row}.png"), np.float32)
        top, left, height, width = window
        part = units[top : top + height, left : left + width]
        return part * np.float32(FULL_SCALE / 65535)

    return read


def memmap_reader(folder: Path, store: Store, what: str) -> Read:
    """Uncompressed: whole frames in codes or in millimetres, or native maps in codes."""
    read_one = store.native_depth if what == "native codes" else store.depth
    raw = np.stack([read_one(row) for row in range(ROWS)])
    raw = (1000 * raw).round() if what == "millimetres" else CODEC.encode(raw)
    shape, path = raw.shape, folder / what
    raw.astype(np.uint16).tofile(path)
    kept = np.memmap(path, np.uint16, "r", shape=shape)

    def read(row: int, window: Window) -> Depth:
        if what == "native codes":
            how = resampling((shape[1], shape[2]), FRAME, window)
            return how.mix(CODEC.decode(kept[row, how.rows, how.columns]))
        top, left, height, width = window
        part = kept[row, top : top + height, left : left + width]
        return part * np.float32(1e-3) if what == "millimetres" else CODEC.decode(part)

    return read


def crop(rng: np.random.Generator) -> Window:
    """A random one."""
    top, left = (
        int(rng.integers(0, whole - part + 1)) for whole, part in zip(FRAME, CROP, strict=True)
    )
    return Window(top, left, *CROP)


def check(readers: dict[str, Read], row: int, window: Window) -> None:
    """All give the same metres: ours bit by bit those of zarr-python.

    Raises:
        ValueError: one does not.
    """
    ours, other, *rest = (read(row, window) for read in readers.values())
    if not np.array_equal(ours, other) or any(np.abs(one - ours).max() > 2e-2 for one in rest):
        raise ValueError(f"row {row}, {window}: the readers differ")


def store_bytes(store: Store) -> int:
    """Of its depth."""
    return store.info.file(store.path, layout.DEPTH, 0).stat().st_size


if __name__ == "__main__":
    main()
