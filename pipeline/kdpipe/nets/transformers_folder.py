"""A folder as transformers saves a model: config.json and model.safetensors, read without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = "model.safetensors"


def read_config(folder: Path, kind: str) -> Mapping[str, object]:
    """Reads config.json.

    Args:
        folder: of the model.
        kind: its `model_type`.

    Raises:
        CheckpointError: it is missing or torn, or of another kind of model.
    """
    path = folder / "config.json"
    try:
        config: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({_say(error)}), expected a folder of transformers with "
            f"config.json and {_WEIGHTS}: download it again"
        ) from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(config, dict) or found != kind:
        raise CheckpointError(
            f"{path} is of model_type {found!r}, expected {kind!r}: take a card of its family"
        )
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Reads model.safetensors, names as they are.

    Raises:
        CheckpointError: it is missing or torn.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({_say(error)}), expected all weights in this file: download "
            "it again"
        ) from error


def _say(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or " ".join(str(error).split())[:120]
