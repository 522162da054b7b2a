"""The store's own teacher, asked again: same weights, same card, one image at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdpipe.errors import StaleStoreError, StoreError
from kdpipe.teaching.source import Source, subject_of

if TYPE_CHECKING:
    from torch import Tensor

    from kdpipe.rows import Rows
    from kdpipe.store import Store
    from kdpipe.teachers import Teacher, TeacherOutput
    from kdpipe.types import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What is asked of the teacher itself."""

    relive: int = 0
    """So many images are taught again and compared with the store."""

    geometry: int = 0
    """So many are moved before the teacher sees them, and compared with the store moved alike."""

    seed: int = 0
    """Decides which images."""

    device: str = "auto"
    """A torch device's name; `auto`: a GPU if there is one."""

    source: Source = field(default_factory=Source)
    """Where the weights are."""


@dataclass(frozen=True, slots=True)
class Witness:
    """The teacher that wrote a store, with the rows it looked at."""

    teacher: Teacher
    rows: Rows
    path: Path
    """Of the store."""

    rule: str
    """Of the store: native map to frame."""

    def look(self, number: int, images: Image | Tensor) -> TeacherOutput:
        """Asks it once.

        Args:
            number: of the row whose camera it is.
            images: (1, H, W, 3) or float32 (1, 3, H, W), as `Teacher.predict` takes them.

        Raises:
            DataError: it cannot take images of this size.
            StaleStoreError: it brings its map to the frame by another rule than the store.
        """
        focal = self.rows[number].fx
        out = self.teacher.predict(images, focal=np.array([focal], np.float32) if focal else None)
        if out.rule != self.rule:
            raise StaleStoreError(
                f"{self.path}: rule is {self.rule!r} in the store, expected {out.rule!r}: remove "
                "the store and teach again"
            )
        return out

    def environment(self) -> dict[str, object]:
        """What may change its numbers beside card and weights, as ledger records name it."""
        import torch

        gpu = self.teacher.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.teacher.device) if gpu else "cpu",
            "torch": torch.__version__,
            "numpy": np.__version__,
            "threads": torch.get_num_threads(),
        }


def find_witness(store: Store, rows: Rows, again: Again) -> Witness:
    """Loads the teacher that wrote a store.

    Raises:
        CheckpointError: its weights are not there any more; names the file.
        DeviceError: the device is not there.
        StaleStoreError: card or weights are not what wrote the store; names the field.
        StoreError: no teacher wrote it.
    """
    if "imported" in store.info.identity:
        raise StoreError(
            f"{store.path} was imported from pictures, no teacher wrote it: audit it without "
            "--relive and --geometry"
        )
    subject = subject_of(store.path, store.info, again.source)
    import torch

    from kdpipe.teachers import load_teacher

    device = again.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = load_teacher(
        subject.card,
        checkpoint=subject.weights.path,
        device=device,
        precision=subject.params.precision,
    )
    return Witness(teacher=teacher, rows=rows, path=store.path, rule=store.info.rule)
