"""Claim: a store takes a fortieth of float32 depth, and a fortieth of dense half-precision bins.

Fitted teachers look at test images; what they say is coded, packed in the store's way and in other
ways, and read back. A size resizes the images (NYU) or renders them so (rooms); `own` leaves them.

    M=artifacts/teachers
    python benchmarks/codecs.py adabins-small=$M/rooms/adabins-small/model.pt@rooms:288x384 \\
        adabins-lite0=$M/nyu/adabins-lite0/model.pt@nyu:288x384 \\
        --json benchmarks/results/codecs.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.pcodec import PCodec
from numcodecs.zstd import Zstd
from pcodec import ChunkConfig, DeltaSpec, ModeSpec
from pcodec.standalone import simple_compress
from PIL import Image as Pillow

from kdpipe.cards import load_teacher_card
from kdpipe.codecs import Companded, Log16
from kdpipe.codecs.rows import apart, columns_apart
from kdpipe.datasets import read_image, rooms
from kdpipe.rows import read_rows
from kdpipe.store import layout
from kdpipe.store.metadata import formats
from kdpipe.teachers import load_teacher
from kdpipe.teachers.base import Bins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdpipe.types import Image

Encode = Callable[["NDArray[Any]"], bytes]
Decode = Callable[[bytes], object]
LEVELS = (32, 48, 64, 128)


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teachers", nargs="+", help="CARD=CHECKPOINT@DATA:HxW, or :own")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    found = []
    for one in options.teachers:
        found.append({"teacher": one.partition("=")[0], **measure(one, options.images)})
        print(json.dumps(found[-1], indent=1), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(what: str, count: int) -> dict[str, Any]:
    """All figures of one teacher over so many images."""
    name, _, rest = what.partition("=")
    checkpoint, _, where = rest.rpartition("@")
    data, _, size = where.partition(":")
    card = load_teacher_card(name)
    teacher = load_teacher(
        card if size == "own" else replace(card, input_size=None), checkpoint=checkpoint
    )
    outs = [teacher.predict(image[None]) for image in images(data, size, count)]
    depths = [one.depth[0].numpy() for one in outs]
    result = {
        "data": data,
        "size": size,
        "images": count,
        "native": list(depths[0].shape),
        "depth": depth_table(depths),
    }
    free = [one.bins for one in outs if isinstance(one.bins, Bins)]
    if free:
        volumes = [one.probabilities()[0].numpy() for one in free]
        result["bins"] = bins_table(volumes, [one.centers()[0].numpy() for one in free])
    return result


def images(data: str, size: str, count: int) -> Iterator[Image]:
    """Of the test split."""
    shape = None if size == "own" else tuple(map(int, size.split("x")))
    if data == "rooms" and shape:
        for scene in range(count):
            options = rooms.Options(height=shape[0], width=shape[1])
            yield next(rooms.render_views(options, "test", scene)).image
        return
    rows = read_rows(layout.rows_path(data))
    numbers = rows.of_split("test")
    for number in numbers[:: max(1, len(numbers) // count)][:count]:
        image = read_image(rows, number)
        if shape:
            resized = Pillow.fromarray(image).resize((shape[1], shape[0]), Pillow.Resampling.BOX)
            image = np.asarray(resized)
        yield image


def depth_table(depths: list[NDArray[np.float32]]) -> dict[str, Any]:
    """Bytes a native pixel, and CPU time of a map, of each way to pack depth within 0.1 %."""
    near, far = 1e-3, 40.0
    plain = Log16(near, far)
    codes = plain.encode(depths[0])
    return {
        "largest_error_percent": 100
        * max(float(np.max(np.abs(plain.decode(plain.encode(d)) - d) / d)) for d in depths),
        "encode_ms": 1e3 * seconds(lambda: plain.encode(depths[0])),
        "decode_ms": 1e3 * seconds(lambda: plain.decode(codes)),
        **{
            name: packed(depths, plain, *way, dense=4)
            for name, way in depth_ways(codes.shape).items()
        },
    }


def depth_ways(shape: tuple[int, ...]) -> dict[str, tuple[Encode, Decode]]:
    """Of codes (h, w), in the order of the report's table."""
    stored = formats((shape[0], shape[1]), None)[0]
    before = replace(stored, packing="pcodec")
    ways: dict[str, tuple[Encode, Decode]] = {
        f"stored: {stored.packing}": (stored.encode, lambda b: stored.decode(b, "")),
        "stored before: pcodec 8": (before.encode, lambda b: before.decode(b, "")),
    }
    first: dict[str, Any] = {
        "mode_spec": "classic",
        "delta_spec": "try_consecutive",
        "delta_encoding_order": 1,
    }
    orders: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "differences down and along": columns_apart,
        "differences down, in their order": lambda codes: columns_apart(codes).T.copy(),
    }
    for order, arrange in orders.items():
        for level in (4, 8):
            pcodec = PCodec(level=level, **first)
            ways[f"{order}, pcodec {level}"] = (
                lambda codes, pcodec=pcodec, arrange=arrange: pcodec.encode(arrange(codes)),
                pcodec.decode,
            )
    back = PCodec(level=8, delta_spec="try_lookback")
    ways["pcodec 8, looking back"] = (back.encode, back.decode)
    for order in (4, 16):
        ways[f"differences along, pcodec 8 of {order} pixels above"] = (
            lambda codes, order=order: predicted(columns_apart(codes.T.copy()), order),
            PCodec().decode,
        )
    zstd, blosc = Zstd(19), Blosc("zstd", 9, Blosc.BITSHUFFLE)
    ways["2-D differences, byte planes, zstd 19"] = (
        lambda codes: zstd.encode(twice(codes).view(np.uint8).reshape(-1, 2).T.copy()),
        zstd.decode,
    )
    ways["2-D differences, blosc bitshuffle zstd 9"] = (
        lambda codes: blosc.encode(twice(codes)),
        blosc.decode,
    )
    ways["2-D differences, signs folded, blosc bitshuffle zstd 9"] = (
        lambda codes: blosc.encode(folded(twice(codes))),
        blosc.decode,
    )
    return ways


def predicted(differences: NDArray[np.uint16], order: int) -> bytes:
    """What pcodec makes of them by linear prediction, which numcodecs reads but does not write."""
    config = ChunkConfig(
        compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.try_conv1(order)
    )
    return bytes(simple_compress(differences.view(np.int16).ravel(), config))


def twice(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Differences along both axes, modulo 2**16."""
    return np.diff(apart(codes), axis=1, prepend=np.uint16(0))


def folded(differences: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """0, -1, 1, -2, … as 0, 1, 2, 3, …, which no codec of Zarr does."""
    signed = differences.view(np.int16)
    return ((signed << 1) ^ (signed >> 15)).view(np.uint16)


def bins_table(
    volumes: list[NDArray[np.float32]], centers: list[NDArray[np.float32]]
) -> dict[str, Any]:
    """Bytes and errors by the number of levels, and by the way they are packed."""
    count, height, width = volumes[0].shape
    stored = formats((height, width), count)[2]
    table: dict[str, Any] = {"bins": count}
    for levels in LEVELS:
        codec = Companded(levels)
        line = errors(codec, volumes, centers)
        line["encode_ms"] = 1e3 * seconds(lambda codec=codec: codec.encode(volumes[0]))
        for name, (encode, decode) in bins_ways(stored.encode).items():
            if levels == Companded().levels or name.startswith("stored"):
                line[name] = packed(volumes, codec, encode, decode, dense=2)
        table[f"{levels} levels"] = line
    return table


def bins_ways(stored: Encode) -> dict[str, tuple[Encode, Decode]]:
    """Of codes (K, h, w)."""
    ways: dict[str, tuple[Encode, Decode]] = {
        "stored: bins side by side, zstd 7": (stored, lambda b: Zstd().decode(b[:-4]))
    }
    for level in (1, 3, 12):
        zstd = Zstd(level)
        ways[f"bins side by side, zstd {level}"] = (
            lambda codes, zstd=zstd: zstd.encode(np.ascontiguousarray(np.moveaxis(codes, 0, -1))),
            zstd.decode,
        )
    for level in (1, 9):
        zstd = Zstd(level)
        ways[f"bin by bin, zstd {level}"] = (zstd.encode, zstd.decode)
        ways[f"bin by bin, row differences, zstd {level}"] = (
            lambda codes, zstd=zstd: zstd.encode(np.diff(codes, axis=1, prepend=np.uint8(0))),
            zstd.decode,
        )
    blosc = Blosc("zstd", 5, Blosc.BITSHUFFLE)
    ways["bin by bin, blosc bitshuffle zstd 5"] = (blosc.encode, blosc.decode)
    return ways


def packed(
    maps: list[NDArray[np.float32]],
    codec: Log16 | Companded,
    encode: Encode,
    decode: Decode,
    *,
    dense: int,
) -> dict[str, float]:
    """Bytes a native pixel, ratio to `dense` bytes a value, CPU milliseconds of one image."""
    codes = [codec.encode(one) for one in maps]
    chunks = [encode(one) for one in codes]
    per_pixel = sum(map(len, chunks)) / (len(maps) * maps[0].shape[-1] * maps[0].shape[-2])
    values = maps[0].size / (maps[0].shape[-1] * maps[0].shape[-2])
    return {
        "bytes_per_pixel": per_pixel,
        "smaller": dense * values / per_pixel,
        "pack_ms": 1e3 * seconds(lambda: encode(codes[0])),
        "unpack_ms": 1e3 * seconds(lambda: decode(chunks[0])),
    }


def errors(
    codec: Companded, volumes: list[NDArray[np.float32]], centers: list[NDArray[np.float32]]
) -> dict[str, float]:
    """Kullback-Leibler divergence [nats] and error of the expected depth [%], over all pixels."""
    nats, depth = [], []
    for p, c in zip(volumes, centers, strict=True):
        q = codec.decode(codec.encode(p))
        nats.append((p * np.log(np.maximum(p, 1e-12) / q)).sum(axis=0))
        expected = np.tensordot(c, p, 1)
        depth.append(np.abs(np.tensordot(c, q, 1) - expected) / expected)
    return {
        "kl_mean": float(np.mean(nats)),
        "kl_max": float(np.max(nats)),
        "depth_error_mean_percent": 100 * float(np.mean(depth)),
        "depth_error_p99_percent": 100 * float(np.percentile(depth, 99)),
    }


def seconds(work: Callable[[], object], times: int = 5) -> float:
    """CPU time, the median of some."""
    took = []
    for _ in range(times):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return float(np.median(took))


if __name__ == "__main__":
    main()
