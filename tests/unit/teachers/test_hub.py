"""Models named at the hub: from its own cache, else from a server that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from kdpipe.cards import TeacherCard
from kdpipe.errors import CheckpointError
from kdpipe.teachers import hub
from kdpipe.teachers.weights import find_published, is_here

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "preprocessor_config.json": b"{ }",
    "model.safetensors": b"weights" * 1000,
    "README.md": b"# A model",
    "pytorch_model.bin": b"the same weights",
}
NAME = "someone/some-depth"
CARD = TeacherCard(name="toy", family="huggingface", network={"hub": NAME})


class Hub:
    """Answers as https://huggingface.co does for one model."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.sent: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self, body=True)

            def do_HEAD(self) -> None:
                outer.answer(self, body=False)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        """Answers one request."""
        path = request.path.partition("?")[0]
        model, resolve = f"/api/models/{NAME}", f"/{NAME}/resolve/{COMMIT}/"
        if path.startswith(f"{model}/revision/") or path == model:
            content = json.dumps({"id": NAME, "modelId": NAME, "sha": COMMIT}).encode()
        elif path.startswith(f"{model}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(held), "oid": "0" * 40}
                for name, held in self.files.items()
            ]
            content = json.dumps(tree).encode()
        elif path.startswith(resolve) and path.removeprefix(resolve) in self.files:
            content = self.files[path.removeprefix(resolve)]
            if body:
                self.sent.append(path.removeprefix(resolve))
        else:
            request.send_response(404)
            request.send_header("X-Error-Code", "RepoNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(200)
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content)

    def close(self) -> None:
        """Stops it."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache, empty; online."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    return tmp_path / "hub"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", made.address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        made.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield made
    made.close()


def test_a_model_is_downloaded_once_and_only_what_is_needed(server: Hub) -> None:
    assert hub.find(NAME, download=False) is None
    assert not is_here(CARD)

    folder = hub.find(NAME)

    assert folder is not None
    assert sorted(path.name for path in hub.files_of(folder)) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert sorted(server.sent) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    server.close = lambda: None  # type: ignore[method-assign]
    Hub.close(server)  # what is in the cache needs no network
    assert hub.find(NAME) == folder
    assert is_here(CARD)


def test_a_digest_is_that_of_sha256sum_of_the_files(server: Hub) -> None:
    found = find_published(CARD)

    names = ("config.json", "model.safetensors", "preprocessor_config.json")
    lines = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in names)
    assert found is not None
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert found.source == f"https://huggingface.co/{NAME}"


def test_a_model_that_changed_at_the_hub_is_refused(server: Hub) -> None:
    card = TeacherCard(
        name="toy", family="huggingface", network={"hub": NAME}, weights_sha256="ab" * 32
    )

    with pytest.raises(CheckpointError, match=r"its card says abab.*network\.revision"):
        find_published(card)


def test_without_safetensors_the_older_weights_are_taken(server: Hub) -> None:
    del server.files["model.safetensors"]

    folder = hub.find(NAME)

    assert folder is not None
    assert "pytorch_model.bin" in [path.name for path in hub.files_of(folder)]
    assert hub.find(NAME, download=False) == folder


def test_a_model_that_the_hub_does_not_have_is_one_line(server: Hub, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be downloaded") as caught:
        hub.find("someone/no-depth")

    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*"))


def test_without_network_it_is_one_line_and_nothing_is_left(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(CheckpointError, match="HTTPS_PROXY and HF_HUB_OFFLINE") as caught:
            find_published(CARD)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not list(cache.rglob("*"))


def test_offline_the_hub_is_not_asked(
    server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(CheckpointError, match="not in the hub's cache and cannot be downloaded"):
        hub.find(NAME)

    assert not list(cache.rglob("*"))


def test_a_name_that_is_none_is_one_line(cache: Path) -> None:
    for name in ("a/b/c", "../up", "/models/gone"):
        with pytest.raises(CheckpointError, match="no folder here, and no name of the hub"):
            hub.find(name)
