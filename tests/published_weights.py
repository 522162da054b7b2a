"""Small checkpoints, cards that publish them, and what is said of those that are refused."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdpipe.cards import TeacherCard
from kdpipe.errors import CheckpointError
from kdpipe.teachers.weights import find_published


def saved(value: object) -> bytes:
    held = io.BytesIO()
    torch.save(value, held)
    return held.getvalue()


def weights_of(first: float) -> bytes:
    """A checkpoint of about 2 MiB."""
    return saved({"model": {"weight": first + torch.arange(512 * 1024)}})


BODY = weights_of(0.0)
WEIGHTS = saved({"weight": torch.ones(1)})
CARD = TeacherCard(name="toy", family="adabins", about={"weights": "somewhere"})


def card_of(**about: object) -> TeacherCard:
    return replace(CARD, about={**CARD.about, **about})


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def zip_of(**members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return held.getvalue()


def refused(card: TeacherCard) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_published(card)
    assert "\n" not in str(caught.value)
    return str(caught.value)
