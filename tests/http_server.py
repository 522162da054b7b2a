"""A real HTTP server on this machine, in a thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Published:
    """What the server does with one file."""

    body: bytes
    ranges: bool = True
    """Whether it honours Range."""

    breaks: list[int] = field(default_factory=list)
    """Bytes after which each answer breaks off, in order; then they are whole."""

    statuses: list[int] = field(default_factory=list)
    """Instead of the first answers."""

    kind: str = "application/octet-stream"
    tag: str | None = '"1"'
    says_length: bool = True


class Server:
    """Serves `files`, by path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, Published] = {}
        self.asked: list[tuple[str, str | None]] = []
        """(path or, of a proxy, address; Range)"""

        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def put(self, path: str, body: bytes, **how: object) -> str:
        """Publishes a file; gives its address."""
        self.files[path] = Published(body, **how)  # type: ignore[arg-type]
        return self.address + path

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answers one GET."""
        asked = request.headers.get("Range")
        self.asked.append((request.path, asked))
        file = self.files.get("/" + request.path.rsplit("/", 1)[-1])
        if file is None or file.statuses:
            request.send_error(404 if file is None else file.statuses.pop(0))
            return
        start, same = 0, request.headers.get("If-Range")
        if asked and file.ranges and same in (None, file.tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(file.body) > 0:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(file.body)}")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            whole = len(file.body)
            request.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        request.send_header("Content-Type", file.kind)
        if file.tag is not None:
            request.send_header("ETag", file.tag)
        if file.says_length:
            request.send_header("Content-Length", str(len(file.body) - start))
        request.end_headers()
        body = file.body[start:]
        request.wfile.write(body[: file.breaks.pop(0)] if file.breaks else body)

    def close(self) -> None:
        """Stops it."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
