"""What decides the bytes of a store, and the refusal to mix two of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.errors import StaleStoreError
from kdpipe.store import layout

if TYPE_CHECKING:
    from kdpipe.cards import DataCard, TeacherCard
    from kdpipe.codecs import Codec

RELATIVE = "disparity without unit"
"""Of a teacher whose inverse depth is right but for a scale and a shift of each image."""

Identity = dict[str, object]
"""Plain JSON values, nested; every leaf is compared."""


def identity_of(
    teacher: TeacherCard,
    data: DataCard,
    *,
    weights: Mapping[str, str],
    rule: str,
    codecs: Mapping[str, Codec],
    shard_rows: int,
    precision: str = "fp32",
) -> Identity:
    """Puts together what decides a store's bytes, but for the rows themselves.

    Args:
        teacher: card of the network.
        data: card of the data set.
        weights: `sha256` of the checkpoint, and its `source`.
        rule: how a native map is brought to the frame.
        codecs: codec of `depth`, and of `bins` where they are kept.
        shard_rows: images in a shard.
        precision: in which the network computes: `fp32`, `bf16` or `fp16`.
    """
    values = {
        "format": layout.FORMAT,
        "data": data.name,
        "units": {"depth": "m" if teacher.is_metric else RELATIVE},
        "teacher": teacher_identity(teacher),
        "weights": dict(weights),
        "preprocessing": {"colour": "RGB", "range": [0, 1], "crop": data.crop},
        "precision": precision,
        "rule": rule,
        "codecs": {name: codec.to_json() for name, codec in codecs.items()},
        "shard_rows": shard_rows,
        "licences": {
            "teacher": str(teacher.about.get("licence", "unknown")),
            "data": str(data.about.get("licence", "unknown")),
        },
    }
    return _plain(values)


def teacher_identity(card: TeacherCard) -> Identity:
    """The part of a card that decides its output, with the fingerprint."""
    values = {k: v for k, v in asdict(card).items() if k not in ("about", "fit")}
    return _plain({**values, "fingerprint": card.fingerprint})


def compare(path: Path, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Refuses a store that something else wrote.

    Args:
        path: of the store, for the message.
        found: identity in its attributes, or the same part of it as `expected`.
        expected: what this process would write.

    Raises:
        StaleStoreError: names the first field that differs, with both values.
    """
    one, other = dict(_leaves(found)), dict(_leaves(expected))
    names = one.keys() | other.keys()
    # The fingerprint and a codec's range follow from the card: name the card's own field first.
    for name in sorted(names, key=_named_last):
        if one.get(name) != other.get(name) or (name in one) != (name in other):
            raise StaleStoreError(
                f"{path}: {name} is {_say(one, name)} in the store, expected {_say(other, name)}: "
                f"go back to what wrote it, or `kdpipe store rm {path}` and teach again"
            )


def _named_last(name: str) -> tuple[bool, bool, str]:
    return name.endswith("fingerprint"), name.startswith("codecs."), name


def _leaves(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _say(leaves: Mapping[str, object], name: str) -> str:
    return repr(leaves[name]) if name in leaves else "missing"


def _plain(values: Mapping[str, object]) -> Identity:
    plain: Identity = json.loads(json.dumps(values))  # tuples become lists, as they come back
    return plain
