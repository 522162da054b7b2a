"""The folder of published weights: where it is, what was put there by hand, what changed since."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.published_weights import CARD, WEIGHTS, card_of, digest, names, refused, zip_of

from kdpipe.errors import CardError
from kdpipe.teachers.weights import cache_dir, find_published, is_here, missing_weights


def test_a_file_put_there_by_hand_is_found_and_its_digest_noted(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "toy.pt").write_bytes(WEIGHTS)
    card = card_of(file="toy.pt")

    found = find_published(card)

    assert found is not None
    assert (found.sha256, found.source) == (digest(WEIGHTS), "file")
    noted = json.loads((cache / "toy.pt.json").read_text())
    assert (noted["sha256"], noted["size"]) == (digest(WEIGHTS), len(WEIGHTS))


def test_a_page_saved_by_hand_is_not_taken_for_what_the_file_was(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "toy.pt").write_bytes(b"<!DOCTYPE html><p>Sign in")
    assert "is a web page" in refused(card_of(file="toy.pt"))
    assert names(cache) == ["toy.pt"]
    (cache / "bts.zip").write_bytes(zip_of(model=b"no weights"))
    assert "is no checkpoint" in refused(card_of(file="bts.zip"))
    assert names(cache) == ["bts.zip", "toy.pt"]

    (cache / "toy.pt").write_bytes(WEIGHTS)

    assert find_published(card_of(file="toy.pt")) is not None


def test_a_cached_file_that_changed_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "toy.pt").write_bytes(WEIGHTS)
    card = card_of(file="toy.pt")
    find_published(card)

    changed = bytearray(WEIGHTS)
    changed[-1] ^= 1
    (cache / "toy.pt").write_bytes(changed)
    assert "at its first use it had" in refused(card)
    assert "its card says abab" in refused(replace(card, weights_sha256="ab" * 32))
    (cache / "toy.pt").write_bytes(WEIGHTS[:-9])
    said = f"has {len(WEIGHTS) - 9} bytes, at its first use it had {len(WEIGHTS)}: remove it and"
    assert said in refused(card)
    (cache / "toy.pt.json").write_text("{")
    assert "is torn" in refused(card)


def test_what_has_no_address_says_where_it_belongs(cache: Path) -> None:
    card = card_of(file="toy.pt", weights="a Google Drive folder")
    assert find_published(card) is None

    said = str(missing_weights(card))

    assert "a Google Drive folder, file toy.pt" in said
    assert f"save it as {cache / 'toy.pt'}" in said
    assert "--checkpoint FILE" in said


def test_a_card_that_is_trained_here_is_not_published(cache: Path) -> None:
    assert find_published(CARD) is None
    assert not is_here(CARD)


@pytest.mark.parametrize(
    "about",
    [{"file": "../toy.pt"}, {"file": 3}, {"url": "https://x.org/"}, {"file": "a", "size": "1"}],
)
def test_a_wrong_value_of_about_is_named(about: dict[str, object], cache: Path) -> None:
    with pytest.raises(CardError, match=r"teachers/toy: about\.\w+: found"):
        find_published(card_of(**about))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("KDPIPE_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/me/.cache/kdpipe/weights")

    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_dir() == Path("/cache/kdpipe/weights")

    monkeypatch.setenv("KDPIPE_HOME", "~/kdpipe")
    assert cache_dir() == Path("/home/me/kdpipe/weights")
