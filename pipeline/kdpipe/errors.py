"""The error tree: every message says what was found, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class KdpipeError(Exception):
    """Root of the tree. The command line prints the message and exits 1, without a traceback."""


class UnknownNameError(KdpipeError):
    """No card, method, split or protocol answers to this name."""

    def __init__(self, where: str, name: str, known: Iterable[str], lacks: str = "") -> None:
        lacks = lacks or f"nothing called {name!r}"
        super().__init__(f"{where} has {lacks}. Known: {', '.join(sorted(known)) or 'none'}.")


class CardError(KdpipeError):
    """A card or params.yaml holds an unknown key, a wrong type or a value out of range."""


class DataError(KdpipeError):
    """An image, a depth map, a list or a rows file is missing or is not what its format says."""


class ChangedImageError(DataError):
    """An image is whole, and another one than `index` listed."""


class CheckpointError(KdpipeError):
    """Weights are missing, unreadable or belong to another network."""


class StoreError(KdpipeError):
    """A store is missing, torn, full, busy or not of the format this version reads."""


class StaleStoreError(StoreError):
    """A store was written by another teacher, other weights or other rows than asked for."""


class ClaimError(StoreError):
    """Another process holds, or took over, the claim of this shard."""


class LostClaimError(ClaimError):
    """This process held a shard's claim, and slept or was stopped for longer than its lease."""


class KeptShardError(StoreError):
    """A finished shard was to be taught again, and stays: the new one would hold less."""


class TrainingError(KdpipeError):
    """A training cannot start as asked, or its loss is no longer a number."""


class ExportError(KdpipeError):
    """A student has no ONNX form, its form gives another depth, or what makes it is missing."""


class DeviceError(KdpipeError):
    """The accelerator that was asked for is not there."""
