"""The arrays that kdpipe passes on: each one's shape and unit, said once."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""RGB (H, W, 3), 0..255."""

Depth: TypeAlias = NDArray[np.float32]
"""Metres along the optical axis (H, W); 0 is unknown."""

Depths: TypeAlias = NDArray[np.floating[Any]]
"""Metres (N,) of valid pixels only, all > 0."""

Codes: TypeAlias = NDArray[np.uint16]
"""The integers on disk (H, W); 0 is unknown."""

BinCodes: TypeAlias = NDArray[np.uint8]
"""The integers of one image's bin probabilities (K, h, w)."""

PairCodes: TypeAlias = NDArray[np.uint16]
"""The integers of one image's two-parameter distributions (2, h, w): of logit p and of ln T."""

PointCodes: TypeAlias = NDArray[np.uint16]
"""The integers of what one image's centres follow from (M,): seeds, then attractor points."""

Valid: TypeAlias = NDArray[np.bool_]
"""Pixels that count (H, W)."""

Labels: TypeAlias = NDArray[np.uint8]
"""Semantic classes (H, W): 0 unlabelled, 1..13 of the NYU-13 list."""

Metres: TypeAlias = float
Pixels: TypeAlias = float
Seconds: TypeAlias = float
