"""Metric values recorded from the official evaluation code, on synthetic maps.

`metrics/maps.npz` holds one NYU-like and two KITTI-like truths with half-size predictions,
`metrics/golden.json` what the official code printed for each image.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdpipe.metrics import depth_errors
from kdpipe.metrics.protocols import resize_nearest

HERE = Path(__file__).parent / "metrics"
GOLDEN: dict[str, dict[str, list[float]]] = json.loads((HERE / "golden.json").read_text())
RELATIVE = 1e-4  # of the fixtures' description
NAMES = {
    "a1": "delta1",
    "a2": "delta2",
    "a3": "delta3",
    "log_10": "log10",
    "lg10": "log10",
}
PROTOCOLS = {
    "nyu_eigen_clip_then_resize": "nyu-eigen",
    "nyu_eigen_resize_then_clip": "nyu-eigen-zoe",
    "nyu_none_clip_then_resize": "none",
    "nyu_hu": "nyu-hu",
    **{
        f"kitti_{window}_on_{place}": f"kitti-{window}{ours}"
        for window in ("garg", "eigen", "none")
        for place, ours in (
            ("352x1216_crop", ""),
            ("352x1216_crop_resize_then_clip", "-zoe"),
            ("full_image", "-full"),
        )
        if (window, ours) != ("none", "-zoe")  # not recorded
    },
}


def test_every_recorded_protocol_is_compared() -> None:
    assert set(GOLDEN) == set(PROTOCOLS)


@pytest.mark.parametrize("official", sorted(PROTOCOLS))
def test_a_protocol_gives_the_official_values(official: str) -> None:
    maps = np.load(HERE / "maps.npz")
    recorded = {
        NAMES.get(name.lower(), name.lower()): values for name, values in GOLDEN[official].items()
    }
    count = len(recorded["abs_rel"])

    for number in range(count):
        if official.startswith("nyu"):
            truth = (maps[f"nyu/truth_mm/{number}"] / 1000).astype(np.float32)
            pred = maps[f"nyu/pred/{number}"]
        else:
            truth = (maps[f"kitti/truth_256/{number}"] / 256).astype(np.float32)
            pred = maps[f"kitti/pred/{number}"]
        if official == "nyu_hu":
            truth = resize_nearest(truth, 228, 304)  # as the fixture was made
        errors = depth_errors(pred, truth, PROTOCOLS[official])
        errors["mse"] = errors["rmse"] ** 2

        for name, values in recorded.items():
            assert errors[name] == pytest.approx(values[number], rel=RELATIVE), name
