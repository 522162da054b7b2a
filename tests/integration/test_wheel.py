"""The wheel puts our two names into site-packages, with the cards, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_the_wheel_holds_our_two_names_and_the_cards(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONWARNINGS": ""},
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "site")

    tops = {p.name for p in (tmp_path / "site").iterdir() if not p.name.endswith(".dist-info")}
    listed = subprocess.run(
        [sys.executable, "-c", "from kdpipe_stages.cli import main; main()", "list", "teachers"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )

    assert tops == {"kdpipe", "kdpipe_stages"}
    assert "adabins-nyu" in listed.stdout
    assert (tmp_path / "site/kdpipe/manifests/methods/none.yaml").is_file()
