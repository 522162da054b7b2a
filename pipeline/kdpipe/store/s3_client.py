"""Requests to a server of S3: settings and credentials by the AWS_* variables, errors in one line.

botocore repeats what failed (AWS_MAX_ATTEMPTS, AWS_RETRY_MODE); it is imported when it is needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from kdpipe.errors import StoreError

if TYPE_CHECKING:
    from kdpipe.store.s3 import S3Path

_SECONDS_TO_CONNECT = 10
_CONNECTIONS = 32
_ABSENT = ("404", "NoSuchKey", "NotFound")
_REFUSED = ("412", "PreconditionFailed")
CONFLICT = ("409", "ConditionalRequestConflict")
"""Codes of a write that met another one of the same name."""

_FORBIDDEN = ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken")


def ask_or_none(path: S3Path, what: str, **asked: Any) -> dict[str, Any] | None:
    """An answer of S3.

    Args:
        path: of the object, or of a folder.
        what: botocore's name of the request.
        asked: its arguments but for the bucket.

    Returns:
        None where there is no such object; only `Code` where a condition failed.

    Raises:
        StoreError: the server does not answer, or refuses.
    """
    errors = _errors()
    with one_line(path):
        try:
            answer: dict[str, Any] = getattr(_client(), what)(Bucket=path.bucket, **asked)
        except errors.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code in _ABSENT:
                return None
            if code in _REFUSED + CONFLICT:
                return {"Code": code}
            raise
        return answer


def ask(path: S3Path, what: str, **asked: Any) -> dict[str, Any]:
    """The same.

    Raises:
        FileNotFoundError: there is no such object.
        StoreError: see ask_or_none.
    """
    answer = ask_or_none(path, what, **asked)
    if answer is None:
        raise FileNotFoundError(str(path))
    return answer


@contextlib.contextmanager
def one_line(path: S3Path, *, is_last: bool = True) -> Iterator[None]:
    """Turns botocore's errors into one line; where it is not the last attempt, a broken one ends.

    Raises:
        StoreError: instead of botocore's.
    """
    errors = _errors()
    try:
        yield
    except errors.NoCredentialsError as error:
        raise StoreError(
            f"{path}: no credentials for S3 were found: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except errors.ClientError as error:
        raise StoreError(refusal(path, error.response.get("Error", {}))) from error
    except errors.ParamValidationError as error:
        raise StoreError(f"{path} is no name of S3, expected s3://bucket/prefix") from error
    except (errors.BotoCoreError, errors.HTTPClientError) as error:
        if is_last:
            raise StoreError(
                f"{path}: S3 at {endpoint()} does not answer ({_line(error)}): check the network "
                "and AWS_ENDPOINT_URL, and run the same command again; finished shards stay"
            ) from error


def refusal(path: S3Path, error: dict[str, Any]) -> str:
    """What to say of the server's `Error`."""
    code, said = str(error.get("Code")), str(error.get("Message", "")).rstrip(".")
    if code == "NoSuchBucket":
        return (
            f"{path}: S3 at {endpoint()} has no bucket {path.bucket!r}: make it, or mend the path"
        )
    if code in _FORBIDDEN:
        return (
            f"{path}: S3 at {endpoint()} does not permit it ({code}: {said}): check the "
            "credentials and the bucket's policy"
        )
    return f"{path}: S3 at {endpoint()} refused ({code}: {said}): run the same command again"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _errors() -> Any:
    try:
        import botocore.exceptions as errors
    except ImportError as error:
        raise StoreError("a store on S3 needs botocore: pip install 'kdpipe[s3]'") from error
    return errors


def endpoint() -> str:
    """Where the server is, for messages."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return os.environ[name]
    return "its own address"


def _client() -> Any:
    """One for each process (a connection is not inherited) and setting; threads share it."""
    settings = ((k, v) for k, v in os.environ.items() if k.startswith("AWS_"))
    return _client_of(os.getpid(), *sorted(settings))


@cache
def _client_of(_pid: int, *_settings: tuple[str, str]) -> Any:
    import botocore.session
    from botocore.config import Config

    config = Config(connect_timeout=_SECONDS_TO_CONNECT, max_pool_connections=_CONNECTIONS)
    return botocore.session.get_session().create_client("s3", config=config)
