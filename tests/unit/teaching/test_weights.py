"""Which checkpoint a teacher gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.toy_teacher import TEACHER, make_photos

from kdpipe.cards import load_teacher_card
from kdpipe.errors import CheckpointError
from kdpipe.store import layout
from kdpipe.teaching.weights import find_weights

CARD = load_teacher_card(TEACHER)


def note(**changes: object) -> None:
    path = layout.weights_path("photos", TEACHER)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_fitted_weights_are_found_and_a_copy_of_them_is_the_same_weights() -> None:
    make_photos(1)
    Path("copy.pt").write_bytes(b"toy")

    fitted = find_weights(CARD, "photos", None)
    copy = find_weights(CARD, "photos", Path("copy.pt"))

    assert fitted.path == layout.teacher_dir("photos", TEACHER) / "model.pt"
    assert (copy.sha256, copy.source) == (fitted.sha256, "fitted")


def test_a_source_that_is_a_path_stays_on_its_machine() -> None:
    make_photos(1)

    note(source="/home/someone/AdaBins.pt")
    assert find_weights(CARD, "photos", None).source == "file"
    note(source="https://example.org/AdaBins.pt")
    assert find_weights(CARD, "photos", None).source == "https://example.org/AdaBins.pt"


def test_weights_that_changed_or_belong_to_another_card_are_refused() -> None:
    make_photos(1)

    note(fingerprint="0" * 12)
    with pytest.raises(CheckpointError, match="fingerprint '000000000000'"):
        find_weights(CARD, "photos", None)
    (layout.teacher_dir("photos", TEACHER) / "model.pt").write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="SHA-256"):
        find_weights(CARD, "photos", None)
    layout.weights_path("photos", TEACHER).write_text("{")
    with pytest.raises(CheckpointError, match="torn"):
        find_weights(CARD, "photos", None)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pt cannot be read"):
        find_weights(CARD, "photos", Path("nowhere.pt"))
