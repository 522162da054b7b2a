"""Early pictures of a training: image | truth | prediction, on one fixed colour scale."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image as Pillow

from kdpipe.training.checkpoint import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from kdpipe.training.validation import Validation
    from kdpipe.types import Depth, Image

FOLDER = "pictures"
ROWS = 4
"""Images of one picture."""


def write_picture(
    folder: Path, step: int, network: nn.Module, validation: Validation, max_depth: float
) -> None:
    """Writes pictures/step_<step>.png: the first images of the val split, one a line.

    Args:
        folder: of the training.
        step: of the training, for the file's name.
        network: in evaluation mode.
        validation: has the images, and asks the network.
        max_depth: the colour scale's far end [m]; black is unknown.
    """
    batch = validation.some(ROWS)
    if batch is None:
        return
    predicted = validation.predict(network, batch).numpy()
    lines = [
        np.concatenate(
            [
                (image * 255).round().astype(np.uint8).transpose(1, 2, 0),
                colours(truth, max_depth),
                colours(depth, max_depth),
            ],
            axis=1,
        )
        for image, truth, depth in zip(
            batch["image"].numpy(), batch["truth"].numpy(), predicted, strict=True
        )
    ]
    picture = Pillow.fromarray(np.concatenate(lines))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    path = folder / FOLDER / f"step_{step:06d}.png"
    write_whole(path, lambda sink: sink.write(content.getvalue()))


def colours(depth: Depth, max_depth: float) -> Image:
    """Depth (H, W) [m] as RGB: evenly from 0 to `max_depth`, near is bright, unknown is black."""
    share = np.clip(depth / max_depth, 0, 1)
    table: NDArray[np.float64] = np.asarray(matplotlib.colormaps["magma_r"](np.linspace(0, 1, 256)))
    painted = (table[(share * 255).astype(np.uint8), :3] * 255).astype(np.uint8)
    return np.where(depth[..., None] > 0, painted, np.uint8(0))
