"""Claim: ZoeDepth's distribution takes a hundredth of dense half precision, and hardly an error.

Teachers look at rendered rooms; what they say is stored and read back. Without a checkpoint a
network has random weights, which spread its bins wider and rougher than training does.

    kdpipe index --data rooms && kdpipe fit --teacher zoedepth-small --data rooms
    M=artifacts/teachers/rooms/zoedepth-small/model.pt
    python benchmarks/log_binomial.py zoedepth-small=$M@144x192 zoedepth-small=$M@480x640 \\
        zoedepth-n@480x640 zoedepth-k@384x1248 zoedepth-nk@480x640 \\
        --json benchmarks/results/log_binomial.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numcodecs.pcodec import PCodec
from numcodecs.zstd import Zstd

from kdpipe.cards import load_teacher_card
from kdpipe.codecs import LogBinomial
from kdpipe.datasets import rooms
from kdpipe.nets.log_binomial import LogBinomialBins
from kdpipe.store import layout
from kdpipe.store.metadata import formats
from kdpipe.teachers import Teacher, build_network, load_teacher, make_teacher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teachers", nargs="+", help="CARD[=CHECKPOINT]@HxW, size of the frames")
    parser.add_argument("--images", type=int, default=4, help="rooms a checkpoint looks at")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    lines = []
    for one in options.teachers:
        what, _, size = one.partition("@")
        name, _, checkpoint = what.partition("=")
        height, width = map(int, size.split("x"))
        trained = bool(checkpoint)
        teacher = load_teacher(name, checkpoint=checkpoint) if trained else random_teacher(name)
        count = options.images if trained else 1
        line = measure(teacher, height, width, count)
        lines.append({"teacher": name, "weights": "fitted" if trained else "random", **line})
        print(json.dumps(lines[-1], indent=1), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def random_teacher(name: str) -> Teacher:
    """Random weights, the last layers of the bins four times as large, so that bins differ."""
    card = load_teacher_card(name)
    torch.manual_seed(0)
    network = build_network(card)
    for key, value in network.named_parameters():
        if key.endswith("conv2.weight") or ".mlp.2." in key:
            value.data.mul_(4)
    return make_teacher(card, network, mirror=False)


def measure(teacher: Teacher, height: int, width: int, count: int) -> dict[str, Any]:
    """Bytes and errors, over all pixels of so many rooms."""
    seen = [look(teacher, height, width, scene) for scene in range(count)]
    return {
        **{name: seen[0][name] for name in ("native", "bins", "points_per_pixel", "codec")},
        "images": count,
        **{name: mean(one[name] for one in seen) for name in seen[0] if "bytes" in name},
        "smaller_than_dense_fp16": mean(one["dense"] for one in seen)
        / mean(one["stored_bytes"] for one in seen),
        "kl_mean": mean(one["kl"].mean() for one in seen),
        "kl_max": max(float(one["kl"].max()) for one in seen),
        "depth_error_mean_percent": 100 * mean(one["depth"].mean() for one in seen),
        "depth_error_p99_percent": 100 * mean(np.percentile(one["depth"], 99) for one in seen),
        "depth_error_max_percent": 100 * max(float(one["depth"].max()) for one in seen),
        "center_error_max_m": max(float(one["center"].max()) for one in seen),
        "center_error_max_of_bound": max(float(one["center_share"].max()) for one in seen),
        **{name: mean(one[name] for one in seen) for name in seen[0] if "seconds" in name},
    }


def look(teacher: Teacher, height: int, width: int, scene: int) -> dict[str, Any]:
    """What storing one room's output costs: bytes a native pixel, and errors as maps."""
    view = next(rooms.render_views(rooms.Options(height=height, width=width), "test", scene))
    out = teacher.predict(view.image[None])
    assert isinstance(out.bins, LogBinomialBins)
    p, temperature, seeds, *maps = (
        one[0].numpy()
        for one in (out.bins.p, out.bins.temperature, out.bins.seeds, *out.bins.attractors)
    )
    size = (p.shape[0], p.shape[1])
    counts = tuple(len(one) for one in maps)
    codec = LogBinomial(bins=len(seeds), attractors=counts, span=out.bins.span)
    began = time.process_time()
    pair, points = codec.encode(p, temperature), codec.encode_points(seeds, maps)
    arrays = {one.name: one for one in formats(size, codec)}
    packed = [
        len(arrays[name].encode(codes))
        for name, codes in ((layout.BIN_PAIR, pair), (layout.BIN_POINTS, points))
    ]
    encoded = time.process_time()
    probabilities, centers = codec.probabilities(pair), codec.centers(points, size)
    expanded = time.process_time()
    pixels, dense = p.size, 2 * 2 * len(seeds)
    return {
        "native": list(size),
        "bins": len(seeds),
        "points_per_pixel": points.size / pixels,
        "codec": codec.to_json(),
        "dense": dense,
        "stored_bytes": sum(packed) / pixels,
        "pair_bytes": packed[0] / pixels,
        "points_bytes": packed[1] / pixels,
        **alternatives(codec, pair, points, [seeds, *maps]),
        **errors(out.bins, probabilities, centers, codec),
        "encode_seconds": encoded - began,
        "expand_seconds": expanded - encoded,
    }


def alternatives(
    codec: LogBinomial,
    pair: NDArray[np.uint16],
    points: NDArray[np.uint16],
    maps: list[NDArray[np.float32]],
) -> dict[str, float]:
    """Bytes a native pixel of the same codes packed in other ways."""
    size, starts = (pair.shape[1], pair.shape[2]), np.cumsum([0, *(one.size for one in maps)])
    parts = [
        np.cumsum(points[start:stop].reshape(one.shape), axis=-2, dtype=np.uint16).ravel()
        for start, stop, one in zip(starts, starts[1:], maps, strict=False)
    ]
    assert codec.points(size) == points.size
    whole = {"pair": np.cumsum(pair, axis=-2, dtype=np.uint16), "points": np.concatenate(parts)}
    half = np.concatenate([one.ravel() for one in maps]).astype(np.float16).view(np.uint16)
    pcodec, zstd = PCodec(level=8), Zstd(level=3)
    lengths = {f"{name}_bytes_zstd_3": len(zstd.encode(one)) for name, one in whole.items()}
    lengths |= {
        f"{name}_bytes_pcodec_without_differences": len(pcodec.encode(one))
        for name, one in whole.items()
    }
    lengths["points_bytes_float16_pcodec"] = len(pcodec.encode(half))
    return {name: length / pair[0].size for name, length in lengths.items()}


def errors(
    bins: LogBinomialBins,
    probabilities: NDArray[np.float32],
    centers: NDArray[np.float32],
    codec: LogBinomial,
) -> dict[str, NDArray[np.float64]]:
    """Of the distribution [nats], its expectation [part], its centres [m, part of the bound]."""
    p, c = (one[0].numpy().astype(np.float64) for one in (bins.probabilities(), bins.centers()))
    expected, found = (p * c).sum(axis=0), (probabilities.astype(np.float64) * centers).sum(axis=0)
    ratio = np.where(p > 1e-15, p, 1) / np.where(p > 1e-15, np.maximum(probabilities, 1e-30), 1)
    relative, metres = codec.max_center_error
    wrong = np.abs(centers - c)
    return {
        "kl": (p * np.log(ratio)).sum(axis=0),
        "depth": np.abs(found - expected) / expected,
        "center": wrong,
        "center_share": wrong / (relative * c + metres),
    }


def mean(values: Iterable[float]) -> float:
    """Of numbers."""
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main()
