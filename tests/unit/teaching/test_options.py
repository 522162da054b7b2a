"""What `teach` refuses to pass over in silence."""

from __future__ import annotations

from typing import Any

import pytest

from kdpipe.errors import DeviceError
from kdpipe.teaching import Options


@pytest.mark.parametrize("ignored", [{"gpus_per_worker": 0.5}, {"ray_address": "auto"}])
def test_what_only_ray_heeds_is_refused_without_ray(ignored: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match=r"--workers 0 is this process without Ray"):
        Options(workers=0, **ignored)
