"""`kdpipe store info`: what wrote a store, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdpipe_stages.output import Json, StorePath, say

if TYPE_CHECKING:
    from kdpipe.store.contents import Contents

_SHOWN = 10
"""Bad images in the text; --json has all."""


def info(path: StorePath, json: Json = False) -> None:
    """Say what wrote the store at PATH, what it holds, and how full it is."""
    from kdpipe.store.contents import read_contents

    found = read_contents(path)
    say("\n".join(_lines(found)), asdict(found), json=json)


def _lines(found: Contents) -> Iterator[str]:
    identity: Any = found.identity
    teacher, weights, done = identity["teacher"], identity["weights"], found.summary
    yield f"store       {found.path}, format {identity['format']}, identity {found.identity_digest}"
    how = f"mirror {'yes' if teacher['mirror'] else 'no'}, precision {identity['precision']}"
    yield f"teacher     {teacher['name']} ({teacher['family']}, {teacher['fingerprint']}), {how}"
    yield f"data        {identity['data']}"
    yield f"weights     {weights['source']}, SHA-256 {weights['sha256'][:16]}…"
    if "imported" in identity:
        png = identity["imported"]
        yield f"imported    {png['format']} pictures, {png['full_scale']:g} m are 65535"
    seen = identity["preprocessing"]
    yield f"images      {seen['colour']}, crop {seen['crop']}; to the frame: {identity['rule']}"
    licences = ", ".join(f"{what} {which}" for what, which in identity["licences"].items())
    yield f"licences    {licences}"
    yield (
        f"holds       {done.images} of {done.rows} rows, {done.finished} of {done.shards} shards "
        f"of {identity['shard_rows']}; {done.bad} without depth; {_size(done.bytes)}"
    )
    for one in found.arrays:
        codec = dict(one.codec or {})
        bounds = [f"{key} {_short(value)}" for key, value in codec.items() if "max_" in key]
        said = f"; {codec['codec']}: {', '.join(bounds)}" if codec else ""
        yield (
            f"  {one.name:<11} {one.dtype} {'x'.join(map(str, one.shape))}, {one.packing}: "
            f"{_size(one.bytes_per_image)} an image, {one.ratio:.1f}x smaller than float32{said}"
        )
    for row, reason in list(found.bad.items())[:_SHOWN]:
        yield f"  no depth    {row}: {reason}"
    if len(found.bad) > _SHOWN:
        yield f"  no depth    {len(found.bad) - _SHOWN} more, see --json"
    yield (
        f"took        {done.seconds:.1f} s of workers, {done.forward_seconds:.1f} s of forward; "
        f"{found.first} to {found.last}"
    )
    for name, values in found.environment.items():
        yield f"  {name:<11} {', '.join(map(str, values))}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _short(value: object) -> str:
    if isinstance(value, tuple | list):
        return " + ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
