"""Picture sheets: image, truth, teacher, students and their errors, on fixed colour scales."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from kdpipe.types import Depth, Image

DEPTH_COLOURS = "magma_r"
ERROR_COLOURS = "viridis"
LARGEST_ERROR = 0.5
"""Relative; the error scale's far end, the same in every report."""

UNKNOWN = "#d9d9d9"
_CELL = 1.9
"""Width of a cell [inch]; a very wide image takes more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One image of a sheet."""

    name: str
    image: Image
    truth: Depth
    """(H, W) [m], 0 unknown."""

    depths: dict[str, Depth]
    """Column -> depth (H, W) [m], 0 unknown."""


def draw_sheet(path: Path, title: str, columns: Sequence[str], seen: Sequence[Seen]) -> None:
    """Writes a PNG with two lines an image: depths, and below them their errors.

    Args:
        path: of the PNG.
        title: above everything.
        columns: names of the depths, in order.
        seen: the images; all depths of all of them share one scale, that of the truth.
    """
    near, far = depth_range([one.truth for one in seen])
    depth_scale, error_scale = Normalize(near, far), Normalize(0, LARGEST_ERROR)
    aspect = float(np.mean([one.image.shape[1] / one.image.shape[0] for one in seen]))
    width = max(_CELL, min(1.1 * aspect, 4.0))
    height = width / aspect
    across, down = 2 + len(columns), 2 * len(seen)
    size = (across * (width + 0.06) + 1.15, down * (height + 0.06) + 0.95)
    figure = Figure(figsize=size, dpi=110)
    grid = figure.add_gridspec(
        down,
        across,
        left=0.1 / size[0],
        right=1 - 1.05 / size[0],
        bottom=0.1 / size[1],
        top=1 - 0.85 / size[1],
        wspace=0.03,
        hspace=0.04,
    )
    axes = np.array([[figure.add_subplot(grid[r, c]) for c in range(across)] for r in range(down)])
    for one in axes.ravel():
        one.set_axis_off()
    for number, one in enumerate(seen):
        above, below = axes[2 * number], axes[2 * number + 1]
        _draw_image(above, below, one, columns, depth_scale, error_scale)
    for column, name in enumerate(("image", "measured", *columns)):
        axes[0, column].set_title(_wrapped(plain(name), int(13 * width)), fontsize=8)
    figure.text(
        0.1 / size[0], 1 - 0.12 / size[1], plain(title), fontsize=10, va="top", weight="bold"
    )
    _draw_scales(figure, size, depth_scale, error_scale)
    figure.savefig(path, metadata={"Software": None})


def depth_range(truths: Sequence[Depth]) -> tuple[float, float]:
    """The colour scale of a sheet [m]: percentiles 1 and 99 of known truth, rounded out."""
    known = np.concatenate([truth[truth > 0] for truth in truths])
    if known.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(known, [1, 99])
    step = 0.5 if high <= 20 else 5.0
    near, far = float(np.floor(low / step) * step), float(np.ceil(high / step) * step)
    return near, max(far, near + step)


def relative_error(depth: Depth, truth: Depth) -> Depth:
    """|depth - truth| / truth (H, W); NaN where either is unknown."""
    known = (truth > 0) & (depth > 0)
    return np.where(known, np.abs(depth - truth) / np.where(known, truth, 1), np.nan)


def plain(text: str) -> str:
    """Keeps matplotlib from reading a name as a formula."""
    return text.replace("$", r"\$")


def _draw_image(
    above: Sequence[Axes],
    below: Sequence[Axes],
    one: Seen,
    columns: Sequence[str],
    depth_scale: Normalize,
    error_scale: Normalize,
) -> None:
    above[0].imshow(one.image)
    truth = np.where(one.truth > 0, one.truth, np.nan)
    above[1].imshow(_bolder(truth), cmap=_map(DEPTH_COLOURS), norm=depth_scale)
    below[1].text(0.96, 0.5, "error →", fontsize=8, ha="right", va="center", color="#444444")
    below[0].text(0.0, 0.94, plain(one.name), fontsize=6, ha="left", va="top", color="#444444")
    for axes in (below[0], below[1]):
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
    for column, name in enumerate(columns, start=2):
        depth = one.depths.get(name)
        if depth is None:
            above[column].text(0.5, 0.5, "n/a", ha="center", va="center", fontsize=8)
            continue
        shown = np.where(depth > 0, depth, np.nan)
        above[column].imshow(shown, cmap=_map(DEPTH_COLOURS), norm=depth_scale)
        error = relative_error(depth, one.truth)
        below[column].imshow(_bolder(error), cmap=_map(ERROR_COLOURS), norm=error_scale)
        if np.isfinite(error).any():
            below[column].text(
                0.02,
                0.04,
                f"{np.nanmean(error):.3f}",
                transform=below[column].transAxes,
                fontsize=7,
                color="white",
                bbox={"facecolor": "black", "alpha": 0.55, "pad": 1.2, "linewidth": 0},
            )


def _draw_scales(
    figure: Figure, size: tuple[float, float], depth_scale: Normalize, error_scale: Normalize
) -> None:
    left, thick = 1 - 0.92 / size[0], 0.13 / size[0]
    tall, middle = min(2.2 / size[1], 0.38), (1 - 0.85 / size[1]) / 2
    scales = (
        (middle + 0.1 / size[1], DEPTH_COLOURS, depth_scale, "depth [m]", "both"),
        (middle - tall - 0.1 / size[1], ERROR_COLOURS, error_scale, "|error| / measured", "max"),
    )
    for bottom, colours, scale, label, extend in scales:
        axes = figure.add_axes((left, max(bottom, 0.02), thick, tall))
        bar = figure.colorbar(ScalarMappable(scale, _map(colours)), cax=axes, extend=extend)
        bar.set_label(label, fontsize=7)
        bar.ax.tick_params(labelsize=6)


def _map(name: str) -> Colormap:
    return mpl.colormaps[name].with_extremes(bad=UNKNOWN)


def _bolder(values: Depth) -> Depth:
    """Makes the points of a sparse map (LiDAR) large enough to be seen; dense ones stay."""
    if np.isfinite(values).mean() > 0.25:
        return values
    padded = np.pad(values, 1, constant_values=np.nan)
    height, width = values.shape
    grown = values.copy()
    for top in range(3):
        for left in range(3):
            part = padded[top : top + height, left : left + width]
            grown = np.where(np.isfinite(grown), grown, part)
    return grown


def _wrapped(name: str, longest: int) -> str:
    """Breaks a long heading where it may be broken."""
    lines, line = [], ""
    for word in re.findall(r"[^-+ ]*[-+ ]*", name):
        if line and len(line + word) > longest:
            lines.append(line)
            line = ""
        line += word
    return "\n".join(part.strip() for part in [*lines, line])
