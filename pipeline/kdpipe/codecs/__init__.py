"""Arrays to integers and back, numpy only; every codec states the bound of its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from kdpipe.codecs.companded import Companded
from kdpipe.codecs.log16 import Log16
from kdpipe.codecs.log_binomial import LogBinomial
from kdpipe.errors import StoreError
from kdpipe.strict import build

__all__ = ["CODECS", "Codec", "Companded", "Log16", "LogBinomial", "codec_of"]

Codec: TypeAlias = Log16 | Companded | LogBinomial
"""Any of them."""

CODECS: dict[str, type[Codec]] = {
    "log16": Log16,
    "companded": Companded,
    "log-binomial": LogBinomial,
}


def codec_of(values: Mapping[str, object], where: str) -> Codec:
    """Makes a codec from what its `to_json` gave.

    Args:
        values: its name under `codec`, its parameters beside it.
        where: file, for the message.

    Raises:
        StoreError: this version has no codec of this name.
        CardError: a parameter is unknown, missing or of a wrong type.
    """
    name = values.get("codec")
    if not isinstance(name, str) or name not in CODECS:
        raise StoreError(
            f"{where} needs the codec {name!r}, this version of kdpipe has "
            f"{', '.join(sorted(CODECS))}: open it with the version that wrote it"
        )
    rest = {key: value for key, value in values.items() if key != "codec"}
    codec: Codec = build(CODECS[name], rest, where)
    return codec
