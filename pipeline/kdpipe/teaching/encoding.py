"""A teacher's output -> the integers of a shard, and the statistics of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from kdpipe.codecs import LogBinomial
from kdpipe.errors import StoreError
from kdpipe.store import layout

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray
    from torch import Tensor

    from kdpipe.codecs import Companded, Log16
    from kdpipe.nets.log_binomial import LogBinomialBins
    from kdpipe.rows import Row
    from kdpipe.store.metadata import StoreInfo
    from kdpipe.store.shards import Array
    from kdpipe.store.writer import ShardWriter
    from kdpipe.teachers import Bins, TeacherOutput
    from kdpipe.types import Depth


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """One image, encoded, and what counts of it."""

    chunks: Mapping[str, bytes]
    nearest: float
    farthest: float
    total: float
    """Sum of its known depths [m]."""

    known: int
    pixels: int
    outside: int
    """Known pixels that the codec clamped."""

    bins_gap: float


class Encoder:
    """Encodes the images of one shard, and remembers what its record says of them.

    Args:
        info: of the store.
        writer: of the shard.
        threads: encode the images of a batch at the same time; numpy, zstd and pcodec let each
            other work. None: one after the other, to the same bytes.
    """

    def __init__(
        self, info: StoreInfo, writer: ShardWriter, threads: ThreadPoolExecutor | None = None
    ) -> None:
        self.info = info
        self.writer = writer
        self._map = map if threads is None else threads.map
        self._depth = cast("Log16", info.codec("depth"))
        self._bins = info.codec("bins") if info.has_bins else None
        self._nearest, self._farthest = np.inf, 0.0
        self._sum, self._known, self._pixels, self._outside = 0.0, 0, 0, 0
        self._bins_gap = 0.0

    def put(self, rows: Sequence[tuple[int, Row]], out: TeacherOutput) -> None:
        """Encodes and writes a batch.

        Args:
            rows: number and row of each of its images.
            out: what the teacher said of them.

        Raises:
            StoreError: a map is larger than the store's chunks, or the disk refuses.
        """
        depths = _numpy(out.depth)
        expected = self._expected(out.bins, len(rows))
        images = self._map(
            lambda at: self._image(rows[at][1], out, at, depths[at], expected[at]),
            range(len(rows)),
        )
        for (number, _), image in zip(rows, images, strict=True):
            self._count(image)
            self.writer.append(number, image.chunks)

    def put_bad(self, number: int, row: Row) -> None:
        """Notes a row without depth: frame and focal length only, code 0 everywhere."""
        self.writer.put(number, {layout.EXTENT: _extent(row, 0, 0)})

    def statistics(self) -> dict[str, float]:
        """Of the images put so far, six digits each, so that they repeat.

        Nearest, farthest and mean depth [m]; the share of pixels that are unknown, and of those
        that the codec clamped; the largest |sum(p * c) - depth| [m], which for a mirrored teacher
        says how far the averaged depth is from the unmirrored pass's bins.
        """
        pixels, known = max(self._pixels, 1), max(self._known, 1)
        values = {
            "nearest": self._nearest if self._known else 0.0,
            "farthest": self._farthest,
            "mean": self._sum / known,
            "unknown": 1 - self._known / pixels,
            "clamped": self._outside / pixels,
        }
        if self._bins is not None:
            values["bins_gap"] = self._bins_gap
        return {name: float(f"{value:.6g}") for name, value in values.items()}

    def _count(self, image: _Image) -> None:
        self._pixels += image.pixels
        self._known += image.known
        self._nearest = min(self._nearest, image.nearest)
        self._farthest = max(self._farthest, image.farthest)
        self._sum += image.total
        self._outside += image.outside
        self._bins_gap = max(self._bins_gap, image.bins_gap)

    def _expected(self, bins: Bins | LogBinomialBins | None, count: int) -> Sequence[Depth | None]:
        """Sum p * c of each image's log-binomial bins.

        On the teacher's device, of whose volumes nothing but a map leaves it, and one image after
        the other: those of a batch would not fit beside the next forward pass.
        """
        if bins is None or not isinstance(self._bins, LogBinomial):
            return [None] * count
        each = (cast("LogBinomialBins", bins).of(at) for at in range(count))
        return [_numpy(one.probabilities().mul_(one.centers()).sum(dim=1)[0]) for one in each]

    def _image(
        self, row: Row, out: TeacherOutput, at: int, depth: Depth, expected: Depth | None
    ) -> _Image:
        values: dict[str, Array] = {
            layout.DEPTH: self._padded(self._depth.encode(depth), layout.DEPTH),
            layout.EXTENT: _extent(row, depth.shape[0], depth.shape[1]),
        }
        gap = 0.0
        if self._bins is not None:
            if out.bins is None:
                raise StoreError(f"the teacher gave no bins for {row.id!r}, its card says so")
            codes, gap = self._encode(out.bins, at, depth, expected)
            values |= codes
        known = depth[np.isfinite(depth) & (depth > 0)]
        inside = (known >= self._depth.near) & (known <= self._depth.far)
        return _Image(
            chunks={name: self.info.array(name).encode(one) for name, one in values.items()},
            nearest=float(known.min(initial=np.inf)),
            farthest=float(known.max(initial=0)),
            total=float(known.sum(dtype=np.float64)),
            known=known.size,
            pixels=depth.size,
            outside=int(known.size - np.count_nonzero(inside)),
            bins_gap=gap,
        )

    def _encode(
        self, bins: Bins | LogBinomialBins, at: int, depth: Depth, expected: Depth | None
    ) -> tuple[dict[str, Array], float]:
        """One image's distribution, and how far its expectation is from the depth [m]."""
        if isinstance(self._bins, LogBinomial):
            one = cast("LogBinomialBins", bins).of(at)
            assert expected is not None
            gap = _gap(depth, expected)
            pair = self._bins.encode(_numpy(one.p[0]), _numpy(one.temperature[0]))
            maps = [_numpy(level[0]) for level in one.attractors]
            points = self._bins.encode_points(_numpy(one.seeds[0]), maps)
            return {
                layout.BIN_PAIR: self._padded(pair, layout.BIN_PAIR),
                layout.BIN_POINTS: self._padded(points, layout.BIN_POINTS),
            }, gap
        free = cast("Bins", bins)
        probabilities, centers = _numpy(free.probabilities()[at]), _numpy(free.centers()[at])
        gap = _gap(depth, centers @ probabilities.reshape(len(centers), -1))
        codes = cast("Companded", self._bins).encode(probabilities)
        return {
            layout.BIN_CODES: self._padded(codes, layout.BIN_CODES),
            layout.BIN_EDGES: _numpy(free.edges[at]),
        }, gap

    def _padded(self, codes: Array, name: str) -> Array:
        shape = self.info.array(name).shape
        if codes.shape == shape:
            return codes
        if any(own > largest for own, largest in zip(codes.shape, shape, strict=True)):
            raise StoreError(
                f"a map of {codes.shape} does not fit the store's {name} of {shape}: the data set "
                "grew by larger images; remove the store and teach again"
            )
        padded = np.zeros(shape, codes.dtype)
        padded[tuple(slice(0, side) for side in codes.shape)] = codes
        return padded


def _gap(depth: Depth, expected: NDArray[np.float32]) -> float:
    """The largest distance of two maps where it is a number [m]."""
    gaps = np.abs(expected.reshape(depth.shape) - depth)
    return float(np.max(gaps, where=np.isfinite(gaps), initial=0))


def _extent(row: Row, height: int, width: int) -> NDArray[np.float64]:
    values = (height, width, row.height, row.width, row.top, row.left, row.fx or 0.0)
    return np.array(values, np.float64)


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
