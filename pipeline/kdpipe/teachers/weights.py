"""A teacher's checkpoint, published or fitted here, into its network; else one line says why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.errors import CheckpointError
from kdpipe.nets import checkpoint
from kdpipe.nets.checkpoint import sha256_of_file

if TYPE_CHECKING:
    from torch import nn

    from kdpipe.cards import TeacherCard

__all__ = ["load_state", "missing_weights", "sha256_of_file"]


def load_state(
    network: nn.Module,
    path: Path,
    *,
    renames: Sequence[tuple[str, str]] = (),
    sha256: str | None = None,
) -> None:
    """Fills a network from a checkpoint; every entry must be there, and no other.

    A wrapper `{model | state_dict: …}`, the prefix `module.` and half precision are accepted. What
    `network.is_unused(key)`, where it has that, says the forward pass never reads may be absent.

    Args:
        network: changed only if everything fits.
        path: what `torch.save` wrote; nothing in it is run.
        renames: start of an entry's name in older files -> its start in `network`.
        sha256: the file's expected digest; None: not checked.

    Raises:
        CheckpointError: missing, another digest, torn, no checkpoint, unsafe, or of another
            network.
    """
    state = checkpoint.read_state(path, sha256=sha256)
    renamed = {_rename(key, renames): value for key, value in state.items()}
    unused = getattr(network, "is_unused", lambda _key: False)
    checkpoint.load_state(network, renamed, str(path), unused=unused)


def missing_weights(card: TeacherCard, looked: Sequence[Path] = ()) -> CheckpointError:
    """The error for weights that are not there: where they are published, and what to do.

    Args:
        card: its `about` says where the weights are.
        looked: places that were searched.
    """
    published = str(card.about.get("weights", "see its card"))
    file = card.about.get("file")
    named = f", file {file}" if file else ""
    searched = f" Looked for {', '.join(map(str, looked))}." if looked else ""
    advice = "give the file with --checkpoint FILE (checkpoint= in Python)"
    if file is None and card.fit is not None:
        advice = f"run `kdpipe fit --teacher {card.name}` first, or {advice}"
    return CheckpointError(
        f"{card.name} has no weights here.{searched} Published: {published}{named}. "
        f"To go on, {advice}."
    )


def _rename(key: str, renames: Sequence[tuple[str, str]]) -> str:
    for old, new in renames:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
