"""Models of the Hugging Face hub: their folder in the hub's own cache, or anywhere, and its digest.

HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT and the proxy variables mean what they mean
everywhere. A model is asked for online only while it is not in the cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from kdpipe.errors import CheckpointError

SITE = "https://huggingface.co"
CONFIGS = ("config.json", "preprocessor_config.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Weights in one file, best first."""

PARTS = ("model.safetensors.index.json", "model-*-of-*.safetensors")
"""Weights in several files."""


def find(name: str, revision: str | None = None, *, download: bool = True) -> Path | None:
    """Folder of a model.

    Args:
        name: a folder, or `owner/model` at the hub.
        revision: commit, branch or tag at the hub; None: the cached, else the newest.
        download: False: only look on this machine.

    Returns:
        None where it is not on this machine and must not be downloaded.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such model.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    cached = _cached(name, revision)
    if cached is not None or not download:
        return cached
    folder = _download(name, revision, [*CONFIGS, SINGLE[0], *PARTS])
    if not _weights(folder):
        folder = _download(name, revision, [SINGLE[1]])
    return folder


def files_of(folder: Path) -> list[Path]:
    """The files that decide a model's output: its two configurations and its weights, sorted.

    Raises:
        CheckpointError: one is missing.
    """
    missing = [name for name in CONFIGS if not (folder / name).is_file()]
    weights = _weights(folder)
    if missing or not weights:
        wanted = ", ".join(missing or [" or ".join(SINGLE)])
        raise CheckpointError(
            f"{folder} has no {wanted}, expected a model as transformers saves it: give the folder "
            "of save_pretrained, of model and image processor"
        )
    return sorted([*(folder / name for name in CONFIGS), *weights])


def digest_of(folder: Path) -> str:
    """SHA-256 of a model: that of the lines `sha256sum` prints of its files, sorted by name.

    Raises:
        CheckpointError: it has no weights, or a file cannot be read.
    """
    weights = _weights(folder)
    if not weights:
        raise CheckpointError(
            f"{folder} has no {' or '.join(SINGLE)}, expected a model as transformers saves it: "
            "give the folder of save_pretrained"
        )
    configs = [folder / name for name in CONFIGS if (folder / name).is_file()]
    lines = []
    for path in sorted([*configs, *weights]):
        try:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror}): check its permissions"
            ) from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _weights(folder: Path) -> list[Path]:
    parts = [path for pattern in PARTS for path in folder.glob(pattern)]
    single = [folder / name for name in SINGLE if (folder / name).is_file()]
    if single and single[0].suffix == ".safetensors":
        return single[:1]
    return parts or single[:1]


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = [*CONFIGS, *SINGLE[:1], *PARTS]
    for patterns in (wanted, [*CONFIGS, SINGLE[1]]):
        try:
            folder = snapshot_download(
                name, revision=revision, local_files_only=True, allow_patterns=patterns
            )
        except HFValidationError as error:
            raise CheckpointError(
                f"{name!r} is no folder here, and no name of the hub ({_line(error)}): expected "
                "owner/model, or a folder"
            ) from error
        except OSError:  # not there, or not all of it
            continue
        if _weights(Path(folder)) and all((Path(folder) / one).is_file() for one in CONFIGS):
            return Path(folder)
    return None


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # of httpx, of the hub, of its transfer library: they share no root
        raise CheckpointError(
            f"{name} is not in the hub's cache and cannot be downloaded ({_line(error)}): check "
            "the network, HTTPS_PROXY and HF_HUB_OFFLINE, or give its folder with --checkpoint"
        ) from error


def _line(error: BaseException) -> str:
    """The cause, on one line and short; the hub's own messages are paragraphs."""
    cause = error.__cause__ if error.__cause__ is not None and len(str(error)) > 200 else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:200]
