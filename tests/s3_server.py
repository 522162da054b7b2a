"""A server of S3 on this machine, moto's, and before it a gate that breaks connections."""

from __future__ import annotations

import http.client
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal

from moto.server import ThreadedMotoServer

from kdpipe.store import s3

if TYPE_CHECKING:
    import pytest

    from kdpipe.store.s3 import S3Path

BUCKET = "photos-bucket"
CONDITIONS = ("If-Match", "If-None-Match")
OF_THIS_MACHINE = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CA_BUNDLE"),
    *("AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    *("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
)
"""What would lead a client past the server, or give it credentials that a test takes away."""

Break = Literal["before", "after", "within"]
"""A connection: before the server has the request, when it has done it, or within its answer."""


class Gate:
    """Hands requests on to a server, and its answers back."""

    def __init__(self, host: str, port: int) -> None:
        self.asked: list[str] = []
        """Method and path of each request since the last `mend`."""

        self._breaks_at: range = range(0)
        self._how: Break = "before"
        self.forgets_conditions = False
        """As a server does that has none."""

        self._server = (host, port)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                outer.answer(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815, their names

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def breaks(self, at: range, how: Break = "before") -> None:
        """From now on requests of these numbers, counted from 0, break."""
        self.asked, self._breaks_at, self._how = [], at, how

    def mend(self) -> None:
        """All is well from now on."""
        self.breaks(range(0))
        self.forgets_conditions = False

    def close(self) -> None:
        """Stops listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        request.close_connection = True
        breaks = len(self.asked) in self._breaks_at
        self.asked.append(f"{request.command} {request.path}")
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if breaks and self._how == "before":
            return
        headers = {k: v for k, v in request.headers.items() if k != "Expect"}
        if self.forgets_conditions:
            headers = {k: v for k, v in headers.items() if k not in CONDITIONS}
        server = http.client.HTTPConnection(*self._server)
        server.request(request.command, request.path, body, headers)
        answer = server.getresponse()
        content = answer.read()
        server.close()
        if breaks and self._how == "after":
            return
        request.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                request.send_header(name, value)
        length = answer.getheader("Content-Length") if request.command == "HEAD" else None
        request.send_header("Content-Length", length or str(len(content)))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(content[: len(content) // 2] if breaks else content)


class Server:
    """A server of S3 with one bucket; what a process asks goes through its gate."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.gate = Gate(*self._moto.get_host_and_port())

    def serve(self, patch: pytest.MonkeyPatch) -> None:
        """Sends what this process asks of S3 from now on here, and empties the bucket."""
        self.gate.mend()
        for name in OF_THIS_MACHINE:
            patch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        patch.setenv("AWS_ENDPOINT_URL", self.gate.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        host, port = self._moto.get_host_and_port()
        for method, path in (("POST", "/moto-api/reset"), ("PUT", f"/{BUCKET}")):
            connection = http.client.HTTPConnection(host, port)
            connection.request(method, path, headers={"Host": f"{host}:{port}"})
            connection.getresponse().read()
            connection.close()

    def close(self) -> None:
        """Stops both."""
        self.gate.close()
        self._moto.stop()


def place(name: str = "stores") -> S3Path:
    """A name in the bucket."""
    return s3.S3Path("s3:", BUCKET, name)
