"""What `teach` refuses to pass over in silence, and what a worker of a cluster may use."""

from __future__ import annotations

from typing import Any

import pytest

from kdpipe.errors import DeviceError
from kdpipe.teaching import Options
from kdpipe.teaching.pool import share_of


@pytest.mark.parametrize("ignored", [{"gpus_per_worker": 0.5}, {"ray_address": "auto"}])
def test_what_only_ray_heeds_is_refused_without_ray(ignored: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match=r"--workers 0 is this process without Ray"):
        Options(workers=0, **ignored)


@pytest.mark.parametrize(
    ("gpus", "of", "threads", "expected"),
    [
        pytest.param(0, 0, "1", 1, id="what-ray-counts"),
        pytest.param(0, 8, "4", 4, id="what-the-user-says"),
        pytest.param(1, 8, "1", 4, id="one-gpu-of-eight"),
        pytest.param(0.5, 1, "1", 16, id="half-a-gpu"),
        pytest.param(0.01, 8, "", 1, id="at-least-one"),
    ],
)
def test_a_worker_of_a_cluster_leaves_cores_to_its_neighbours(
    gpus: float, of: float, threads: str, expected: int
) -> None:
    assert share_of(gpus=gpus, of=of, cores=32, threads=threads) == expected
