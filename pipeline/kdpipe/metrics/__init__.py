"""Depth against measured truth: formulas, published protocols, tables. numpy and pyarrow only."""

from __future__ import annotations

from kdpipe.metrics.depth import LOWER_IS_BETTER, METRICS, depth_errors_of_valid
from kdpipe.metrics.protocols import (
    PROTOCOLS,
    Protocol,
    depth_errors,
    errors_of_image,
    find_protocol,
    resize_bilinear,
)

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "PROTOCOLS",
    "Protocol",
    "depth_errors",
    "depth_errors_of_valid",
    "errors_of_image",
    "find_protocol",
    "resize_bilinear",
]
