"""The first import of timm, which needs a process of its own."""

from __future__ import annotations

import subprocess
import sys


def test_timm_and_torchvision_import_without_a_warning() -> None:
    code = (
        "from kdpipe.nets.torchvision_shim import make_torchvision_importable as make\n"
        "make(); make()\n"
        "import timm, torchvision.transforms.v2\n"
        "make()\n"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
