"""A server of weights on this machine, an empty cache, and models saved as at the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.http_server import Server
from tests.tiny_hub import Save, made

from kdpipe.teachers import download


@pytest.fixture
def server() -> Iterator[Server]:
    """A server without files."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of cached weights, not made yet, in a place with a space; no pauses between tries."""
    monkeypatch.setenv("KDPIPE_HOME", str(tmp_path / "my cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return tmp_path / "my cache" / "weights"


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a tiny model as the hub has it, and gives its folder."""

    def saved(name: str) -> Path:
        folder, network = tmp_path / f"{name} folder", made(name)
        network.model.save_pretrained(folder)
        network.processor.save_pretrained(folder)
        return folder

    return saved
