"""ImageNet weights of Swin by the names of timm, or of its authors, for our pyramid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_OURS = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
_MERGING = re.compile(r"layers\.(\d+)\.downsample\.(norm|reduction)\.")
_UNUSED = re.compile(r"^(head|norm)\.|attn_mask$|relative_position_index$")
"""The classifier, its norm, and what follows from the sizes."""

_KEPT = re.compile(r"^norm\d+\.|relative_position_index$")
"""What classifiers lack: each map's own norm starts anew, as in mmsegmentation."""


def from_published(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a classifier's weights, and reorders those that merge neighbours.

    Args:
        state: by the names of timm, of the authors' own files, or of mmcv already.
        own: of the pyramid, whose norms of the maps are kept where `state` has none.

    Returns:
        What the pyramid's state dict should be.
    """
    if not any(name.startswith("layers.") for name in state):
        return {**{name: value for name, value in own.items() if _KEPT.search(name)}, **state}
    first = 0 if any(name.startswith("layers.0.downsample.") for name in state) else 1
    named = {name: value for name, value in own.items() if _KEPT.search(name)}
    for name, value in state.items():
        if _UNUSED.search(name):
            continue
        merging = _MERGING.match(name)
        if merging:  # in timm's the next stage begins with it, elsewhere a stage ends with it
            stage = int(merging[1]) - first
            name = f"stages.{stage}" + name.removeprefix(f"layers.{merging[1]}")
            value = _neighbours_inside(value)
        for theirs, ours in _OURS:
            name = re.sub(theirs, ours, name)
        named[name] = value
    return named


def _neighbours_inside(value: Tensor) -> Tensor:
    """Entries (…, 4 C) by neighbour, columns first -> by channel, its neighbours row by row."""
    *outer, entries = value.shape
    if entries % 4:
        return value  # of another network, which its shape will tell
    by_column = value.reshape(*outer, 2, 2, entries // 4)
    return by_column.transpose(-3, -2).flatten(-3, -2).transpose(-2, -1).reshape(value.shape)
