"""Lets timm import torchvision where its compiled part cannot load: call before the first import.

timm imports torchvision. The registry's torchvision is built for CUDA; beside a CPU-only torch its
compiled part does not load, and `import torchvision` stops with "operator torchvision::nms does not
exist", although nothing here calls that operator. Declaring the operator's schema cures it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []
"""Keeps the declaration alive: it goes when the library object goes."""


def make_torchvision_importable() -> None:
    """Declares torchvision's two operators, only where torch has no CUDA and they are missing.

    Real non-maximum suppression and `torchvision.io` stay unusable there; kdpipe needs neither.
    """
    if _declared or "torchvision" in sys.modules or torch.version.cuda is not None:
        return
    if not _compiled_part_loads():
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)


def _compiled_part_loads() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    for compiled in sorted(Path(found.origin).parent.glob("_C*.*")):
        try:
            torch.ops.load_library(str(compiled))  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return True
    return False
