"""The zarr.json files of a store: created once, resized as the data set grows.

Format: Zarr v3 core specification, with the sharding codec. Consolidated metadata in the root
spare zarr and xarray the listing of folders, where they would meet the ledger and warn.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kdpipe.codecs import Codec, Log16, LogBinomial, codec_of
from kdpipe.errors import CardError, StoreError
from kdpipe.store import layout
from kdpipe.store.disk import as_json, create_exclusively, read_json, write_atomically
from kdpipe.store.s3 import S3Path, check_conditions
from kdpipe.store.shards import ArrayFormat
from kdpipe.strict import build, digest_of

if TYPE_CHECKING:
    from kdpipe.store.identity import Identity

_SUM_OF_ROWS = "code of a row = sum of the values of the map's rows up to it, modulo 65536"
_DTYPE = re.compile("u?int(8|16|32|64)|float(16|32|64)")


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a store's attributes say."""

    identity: Identity
    """What decides its bytes; see identity.py."""

    rows: int
    """Length of axis 0, finished or not."""

    arrays: tuple[ArrayFormat, ...]

    @cached_property
    def digest(self) -> str:
        """Of the identity: ties ledger records to this store."""
        return digest_of(self.identity)

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.identity["data"])

    @property
    def teacher(self) -> str:
        """Name of the teacher's card."""
        return str(cast("Identity", self.identity["teacher"])["name"])

    @property
    def fingerprint(self) -> str:
        """Of the teacher's card."""
        return str(cast("Identity", self.identity["teacher"])["fingerprint"])

    @property
    def is_metric(self) -> bool:
        """Whether its depth is in metres; else it is a disparity, to be aligned image by image."""
        return cast("Identity", self.identity["units"])["depth"] == "m"

    @property
    def rule(self) -> str:
        """How a native map is brought to the frame."""
        return str(self.identity["rule"])

    @property
    def shard_rows(self) -> int:
        """Images in a shard."""
        return cast("int", self.identity["shard_rows"])

    @property
    def shards(self) -> int:
        """Number of shards, the last may be partial."""
        return -(-self.rows // self.shard_rows)

    @property
    def has_bins(self) -> bool:
        """Whether probabilities are kept."""
        return any(one.name in (layout.BIN_CODES, layout.BIN_PAIR) for one in self.arrays)

    def array(self, name: str) -> ArrayFormat:
        """One array's format.

        Raises:
            StoreError: the store has no such array.
        """
        for one in self.arrays:
            if one.name == name:
                return one
        raise StoreError(
            f"the store of {self.teacher} over {self.data} has no {name}: the teacher gives no "
            "bins, or params.yaml said store.bins: false when it was taught"
        )

    def codec(self, name: str) -> Codec:
        """The codec of `depth` or `bins`."""
        codecs = cast("dict[str, dict[str, object]]", self.identity["codecs"])
        return codec_of(codecs[name], f"the store of {self.teacher} over {self.data}")

    def file(self, path: Path, name: str, shard: int) -> Path:
        """The file of one array's shard."""
        return layout.shard_path(path, name, shard, 1 + len(self.array(name).shape))

    def rows_of(self, shard: int) -> tuple[int, int]:
        """Row numbers [start, stop) of a shard."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows)

    @property
    def raw_bytes(self) -> int:
        """Of one row before it is packed."""
        return sum(one.raw_bytes for one in self.arrays)


def formats(native: tuple[int, int], bins: int | LogBinomial | None) -> tuple[ArrayFormat, ...]:
    """The arrays of a store.

    Args:
        native: largest native height and width [pixels].
        bins: number K of a free distribution's bins, or the codec of a two-parameter one; None: no
            probabilities are kept.
    """
    h, w = native
    fields = (len(layout.EXTENT_FIELDS),)
    arrays = [
        ArrayFormat(layout.DEPTH, "uint16", (h, w), ("y", "x"), "delta-pcodec"),
        ArrayFormat(layout.EXTENT, "float64", fields, ("field",), "none"),
    ]
    if isinstance(bins, LogBinomial):
        points = (bins.points(native),)
        arrays += [
            ArrayFormat(layout.BIN_PAIR, "uint16", (2, h, w), ("parameter", "y", "x"), "pcodec"),
            ArrayFormat(layout.BIN_POINTS, "uint16", points, ("point",), "pcodec"),
        ]
    elif bins is not None:
        arrays += [
            ArrayFormat(layout.BIN_CODES, "uint8", (bins, h, w), ("bin", "y", "x"), "zstd-pixels"),
            ArrayFormat(layout.BIN_EDGES, "float32", (bins + 1,), ("edge",), "none"),
        ]
    return tuple(arrays)


def write_info(path: Path, info: StoreInfo) -> None:
    """Makes a store's groups and arrays, or gives them a new length. The root comes last."""
    for name, content in documents(info).items():
        write_atomically(layout.metadata_path(path, name), content)


def create_info(path: Path, info: StoreInfo) -> StoreInfo:
    """Makes a store, unless another process makes one at the same time.

    Returns:
        The attributes of the store that is there now.

    Raises:
        StoreError: the store is on a server of S3 that cannot tell two writers apart.
    """
    if isinstance(path, S3Path):
        check_conditions(path)
    *nodes, (_, root) = documents(info).items()
    for name, content in nodes:
        write_atomically(layout.metadata_path(path, name), content)
    if create_exclusively(layout.metadata_path(path), root):
        return info
    there = read_info(path)
    write_info(path, there)  # its arrays may be as ours since
    return there


def documents(info: StoreInfo) -> dict[str, bytes]:
    """The zarr.json of every group and array by its name; of the root, "", last."""
    nodes: dict[str, dict[str, object]] = {}
    for one in info.arrays:
        if "/" in one.name:
            nodes[one.name.rpartition("/")[0]] = _group({})
        nodes[one.name] = _array(one, info)
    attributes: dict[str, object] = {
        layout.ATTRIBUTES: {
            "identity": info.identity,
            "rows": info.rows,
            "arrays": [asdict(one) for one in info.arrays],
        }
    }
    root = _group(attributes)
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
    return {**{name: as_json(values) for name, values in nodes.items()}, "": as_json(root)}


def read_info(path: Path) -> StoreInfo:
    """Reads a store's attributes.

    Raises:
        StoreError: there is no store, or none of a format this version reads.
    """
    try:
        root = read_json(layout.metadata_path(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(f"{path} is no store of kdpipe: run `kdpipe teach` first") from error
    attributes = root.get("attributes")
    values = attributes.get(layout.ATTRIBUTES) if isinstance(attributes, dict) else None
    if not isinstance(values, dict):
        raise StoreError(f"{path} is a Zarr group that kdpipe did not write: give another path")
    identity = values.get("identity")
    found = identity.get("format") if isinstance(identity, dict) else None
    if not isinstance(identity, dict) or found != layout.FORMAT:
        raise StoreError(
            f"{path} has format {found!r}, this version of kdpipe reads {layout.FORMAT}: "
            "open it with the version that wrote it, or teach again"
        )
    try:
        arrays = tuple(build(ArrayFormat, one, str(path)) for one in values["arrays"])
        info = StoreInfo(identity=identity, rows=int(values["rows"]), arrays=arrays)
        _check(info)
    except (AttributeError, CardError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: its zarr.json was changed by hand ({error}): restore it, or try `kdpipe "
            "store repair`"
        ) from error
    return info


def _check(info: StoreInfo) -> None:
    """Looks at everything once that is read without looking later."""
    if info.rows < 0 or info.shard_rows < 1:
        raise ValueError(f"{info.rows} rows in shards of {info.shard_rows}")
    for one in info.arrays:
        if not _DTYPE.fullmatch(one.dtype) or min(one.shape) < 1:
            raise ValueError(f"{one.name} of {one.dtype} in chunks of {one.shape}")
    _ = (info.data, info.teacher, info.fingerprint, info.rule, info.codec("depth"))


def _group(attributes: dict[str, object]) -> dict[str, object]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _array(one: ArrayFormat, info: StoreInfo) -> dict[str, object]:
    crc: list[dict[str, object]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "crc32c"},
    ]
    sharding = {
        "chunk_shape": [1, *one.shape],
        "codecs": one.codecs,
        "index_codecs": crc,
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [info.rows, *one.shape],
        "data_type": one.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [info.shard_rows, *one.shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0 if one.dtype.startswith("float") else 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["row", *one.dimensions],
        "attributes": _attributes(one, info),
        "storage_transformers": [],
    }


def _attributes(one: ArrayFormat, info: StoreInfo) -> dict[str, object]:
    if one.name == layout.DEPTH:
        codec = info.codec("depth")
        what = "metres" if info.is_metric else "disparity"
        formula = f"{what} = near * exp(step * (code - 1)), code 0 is unknown"
        step = codec.step if isinstance(codec, Log16) else None
        return {"codec": codec.to_json(), "step": step, "formula": formula, "rule": info.rule}
    if one.name == layout.BIN_CODES:
        formula = "p ~ max((code / (levels - 1))**2, floor), divided by its sum over the bins"
        return {"codec": info.codec("bins").to_json(), "formula": formula}
    if one.name in (layout.BIN_PAIR, layout.BIN_POINTS):
        return _log_binomial(one, cast("LogBinomial", info.codec("bins")))
    if one.name == layout.EXTENT:
        return {"fields": list(layout.EXTENT_FIELDS)}
    return {"units": "m"}


def _log_binomial(one: ArrayFormat, codec: LogBinomial) -> dict[str, object]:
    *pair, point = codec.steps
    formula = (
        f"{_SUM_OF_ROWS}; logit p = steps[0] * (code - 1) - ln 1e4, ln T = steps[1] * (code - 1) + "
        "ln coldest, code 0 is no number; probability ~ exp((ln C(K - 1, k) + k * logit p) / T), "
        "ln C(n, k) = n ln n - k ln k - (n - k) ln(n - k)"
    )
    if one.name == layout.BIN_PAIR:
        return {"codec": codec.to_json(), "steps": pair, "formula": formula}
    formula = (
        "maps one after the other: K seeds, then attractors of each finer map; codes as in pair; "
        "point = offset * (exp(step * (code - 1)) - 1) [m, or part of the span]; on each map, "
        "resized with aligned corners, a centre c moves by the mean over its points a of (a - c) / "
        "(1 + 300 * (a - c)**2)"
    )
    values = {"step": point, "offset": codec.point_offset, "formula": formula}
    return {**values, "max_center_error": list(codec.max_center_error)}
