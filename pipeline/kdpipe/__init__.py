"""kdpipe: depth teachers run once, their output kept in Zarr stores, students trained from them.

`import kdpipe` is instant: each public name loads the module it lives in when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kdpipe import losses as losses
    from kdpipe import metrics as metrics
    from kdpipe.store import open_store as open_store
    from kdpipe.students import load_student as load_student
    from kdpipe.teaching.weights import load_teacher as load_teacher
    from kdpipe.training.samples import DistillDataset as DistillDataset

_PUBLIC = {
    "DistillDataset": "kdpipe.training.samples",
    "load_student": "kdpipe.students",
    "load_teacher": "kdpipe.teaching.weights",
    "losses": "kdpipe.losses",
    "metrics": "kdpipe.metrics",
    "open_store": "kdpipe.store",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kdpipe' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    value = module if _PUBLIC[name] == f"kdpipe.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
