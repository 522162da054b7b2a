"""How a training ended, as its folder says; read without torch."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

METRICS = "metrics.json"


def is_finished(folder: Path) -> bool | None:
    """Whether a folder's training took its last step; None: nothing says it."""
    try:
        said = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # weights from elsewhere have no such file
    found = said.get("finished") if isinstance(said, dict) else None
    return found if isinstance(found, bool) else None


def warn_if_unfinished(folder: Path, command: Literal["distill", "fit"] = "distill") -> None:
    """Says so where a folder's training was stopped before its last step."""
    if is_finished(folder) is False:
        logger.warning("%s was trained in part: run the same `kdpipe %s` to go on", folder, command)
