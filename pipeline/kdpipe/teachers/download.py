"""Published files, brought to this machine: resumed, checked, and there whole or not at all.

A file grows as `<name>.part` beside its place. Who writes it holds its lock, so of several
processes one downloads and the others wait. What was broken off is continued, also by a later
process, if the server still has the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import requests
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError

from kdpipe.errors import CheckpointError

logger = logging.getLogger(__name__)

TRIES = 5
"""Of a body that breaks off, without a byte between two of them."""

PAUSE = 0.5
"""Before the second try [seconds]; doubled before each further one."""

_TIMEOUT = (10.0, 60.0)
"""To connect, and between two bytes [seconds]."""

_CHUNK = 1 << 16  # what a break costs at most
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file at a direct address, and what is known of it."""

    url: str
    sha256: str | None = None
    size: int | None = None
    """[bytes]"""


class _RefusedError(CheckpointError):
    """What the server gives is not the file: nothing of it is kept."""


Keep: TypeAlias = Callable[[Path, Path], None]
"""Makes the second, final file from the first, which is whole and checked."""


def fetch(remote: Remote, path: Path, target: Path, keep: Keep) -> None:
    """Downloads a file, unless `target` is there already or appears meanwhile.

    Proxies are taken from the environment: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.

    Args:
        remote: what is downloaded.
        path: where to; it grows as `<path>.part`.
        target: what must be there in the end: `path`, or what is in it.
        keep: makes `target` of the download; what it refuses is not kept.

    Raises:
        CheckpointError: no network, no such file, a web page, another size or digest, a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    note = path.with_name(f"{path.name}.part.json")
    with _owned(part, target) as file:
        if file is None:
            return
        try:
            _Transfer(remote, path, file, note).run()
            file.flush()
            os.fsync(file.fileno())
            _check(remote, part)
            _keep(keep, part, target)
            _forget(part, note)
        except _RefusedError:
            _forget(part, note)
            raise
        except BaseException:
            if part.exists() and not part.stat().st_size:
                _forget(part, note)
            raise


class _Transfer:
    """Fills a file that may have its first bytes already."""

    def __init__(self, remote: Remote, path: Path, file: BinaryIO, note: Path) -> None:
        self.remote, self.path, self.file, self.note = remote, path, file, note
        self.total: int | None = None

    def run(self) -> None:
        """Asks for what is missing until it is all there."""
        stalls = 0
        with _session() as session, _bar(self.path.name) as advance:
            while True:
                before = self._have()
                try:
                    self._once(session, advance)
                except requests.RequestException as error:
                    stalls = 0 if self._have() > before else stalls + 1
                    if stalls >= TRIES or not _broke_off(error):
                        raise self._unreachable(error) from error
                    time.sleep(PAUSE * 2**stalls)
                else:
                    return

    def _once(self, session: requests.Session, advance: Callable[[int, int | None], None]) -> None:
        have, same = self._have(), self._validator()
        if have and same is None and self.remote.sha256 is None and self.total is None:
            have = self._restart()  # of an earlier process, and nothing tells if it is the same
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": same} if same else {})
        with session.get(
            self.remote.url, headers=headers, stream=True, timeout=_TIMEOUT
        ) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable and have:
                if _whole_size(response) == have:
                    return
                self._restart()
                raise requests.ConnectionError("the file is shorter than before")
            self._check_head(response)
            if response.status_code != requests.codes.partial_content:
                self._restart()
            elif _start(response) != have:
                self._restart()
                raise requests.ConnectionError("the server sent another range")
            self._note(response)
            self.total = _whole_size(response) or self.remote.size
            self._check_size()
            advance(self._have(), self.total)
            for chunk in response.iter_content(_CHUNK):
                if not self._have() and chunk.lstrip()[:1] == b"<":
                    raise self._web_page()
                self.file.write(chunk)
                advance(self._have(), self.total)
        if self.total is not None and self._have() < self.total:
            raise requests.ConnectionError(f"broken off after {self._have()} bytes")

    def _check_head(self, response: requests.Response) -> None:
        code, page = response.status_code, response.headers.get("Content-Type", "")
        if code not in (requests.codes.ok, requests.codes.partial_content):
            reason = f"{code} {response.reason or ''}".strip()
            text = f"{self.remote.url} answers {reason}, expected a file: {_by_hand(self.path)}"
            # A busy server keeps what was got so far; one that has no such file does not.
            raise (CheckpointError if code in _BUSY else _RefusedError)(text)
        if page.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
            raise self._web_page()

    def _check_size(self) -> None:
        total, expected = self.total, self.remote.size
        if total is None:
            return
        if expected is not None and total != expected:
            raise _RefusedError(
                f"{self.remote.url} has {total} bytes, expected {expected}: the file was changed "
                f"where it is published, {_by_hand(self.path)}"
            )
        free = shutil.disk_usage(self.path.parent).free
        if total - self._have() > free:
            raise CheckpointError(
                f"{self.path} needs {_megabytes(total - self._have())} more, its disk has "
                f"{_megabytes(free)}: make room, or set KDPIPE_HOME to another disk"
            )

    def _web_page(self) -> CheckpointError:
        return _RefusedError(
            f"{self.remote.url} is a web page, expected a file: a login or a confirmation stands "
            f"before it; open it in a browser, and {_by_hand(self.path)}"
        )

    def _unreachable(self, error: Exception) -> CheckpointError:
        kept = f" ({_megabytes(self._have())} are kept to go on from)" if self._have() else ""
        return CheckpointError(
            f"{self.remote.url} cannot be downloaded, {_reason(error)}{kept}: check the network "
            f"and HTTPS_PROXY and run the same command again, or {_by_hand(self.path)}"
        )

    def _have(self) -> int:
        return self.file.tell()

    def _restart(self) -> int:
        self.file.seek(0)
        self.file.truncate()
        return 0

    def _validator(self) -> str | None:
        """What the server called the file that the first bytes are of."""
        try:
            noted = json.loads(self.note.read_bytes())
            return str(noted["same"]) if noted["url"] == self.remote.url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _note(self, response: requests.Response) -> None:
        tag = response.headers.get("ETag", "")
        same = response.headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
        if same is None:
            self.note.unlink(missing_ok=True)
        else:
            self.note.write_text(json.dumps({"url": self.remote.url, "same": same}))


@contextlib.contextmanager
def _owned(part: Path, target: Path) -> Iterator[BinaryIO | None]:
    """The `.part` file, locked, at its end; None once `target` is there."""
    while not target.exists():
        with part.open("ab") as file:
            _lock(file, part)  # goes with the process, however that ends
            if target.exists():
                _forget_if_same(file, part)
            elif _is_same(file, part):
                file.seek(0, os.SEEK_END)  # it may have grown while we waited
                yield file
                return
    yield None


def _lock(file: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("another process downloads %s, waiting for it", part.with_suffix(""))
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_same(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _forget_if_same(file: BinaryIO, part: Path) -> None:
    if _is_same(file, part):  # made by the open above, after the owner had finished
        part.unlink()


def _forget(part: Path, note: Path) -> None:
    part.unlink(missing_ok=True)
    note.unlink(missing_ok=True)


def _keep(keep: Keep, part: Path, target: Path) -> None:
    try:
        keep(part, target)
    except CheckpointError as error:
        raise _RefusedError(str(error)) from error


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["User-Agent"] = "kdpipe"
    retry = Retry(
        total=4,
        connect=2,
        backoff_factor=PAUSE,
        status_forcelist=_BUSY,
        raise_on_status=False,
        respect_retry_after_header=False,  # it may ask for hours
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task(name, total=None)
    with bar:
        yield lambda have, total: bar.update(task, completed=have, total=total)


def _check(remote: Remote, part: Path) -> None:
    if remote.sha256 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256.lower():
        raise _RefusedError(
            f"{remote.url} has SHA-256 {found[:16]}…, its card says {remote.sha256[:16].lower()}…: "
            "nothing was kept; download it again, or take the card of this file"
        )


def _whole_size(response: requests.Response) -> int | None:
    ranged = re.fullmatch(r"bytes .*/(\d+)", response.headers.get("Content-Range", ""))
    if ranged:
        return int(ranged[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and response.status_code == requests.codes.ok else None


def _start(response: requests.Response) -> int | None:
    ranged = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(ranged[1]) if ranged else None


def _broke_off(error: requests.RequestException) -> bool:
    """While the body came; whatever fails before that was tried again by urllib3."""
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return True
    inner = error.args[0] if error.args else None
    return isinstance(error, requests.ConnectionError) and not isinstance(inner, MaxRetryError)


def _reason(error: BaseException) -> str:
    """The innermost message, without the library's names and addresses."""
    inner: object = error
    while isinstance(inner, BaseException):
        text = str(inner)
        deeper = getattr(inner, "reason", None) or next(
            (one for one in inner.args if isinstance(one, BaseException)), None
        )
        if deeper is None or deeper is inner:
            break
        inner = deeper
    text = text if isinstance(inner, BaseException) else str(inner)
    text = re.sub(r"^<[^>]*>: |^\w+\([^)]*\): ", "", " ".join(text.split()))
    return text[:160] or type(error).__name__


def _by_hand(path: Path) -> str:
    return f"save the file yourself as {path}, or give it with --checkpoint FILE"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
