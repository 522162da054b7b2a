"""Weights published in a zip: of it the model alone is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.published_weights import BODY, card_of, digest, names, zip_of

from kdpipe.errors import CheckpointError
from kdpipe.teachers.weights import find_published, is_here

if TYPE_CHECKING:
    from tests.http_server import Server


def test_of_an_archive_the_model_alone_is_kept(server: Server, cache: Path) -> None:
    body = zip_of(**{"../../evil": b"x", "bts/model": BODY, "bts/args.txt": b"y"})
    url = server.put("/bts_v2.zip", body)
    card = card_of(url=url, sha256=digest(body), size=len(body))

    found, again = find_published(card), find_published(card)

    assert found is not None
    assert found == again
    assert found.path == cache / "bts_v2" / "model"
    assert found.path.read_bytes() == BODY
    assert found.sha256 == digest(BODY)
    assert len(server.asked) == 1
    assert names(cache) == ["model", "model.json"]
    assert names(cache.parents[1]) == ["model", "model.json"]


def test_an_archive_that_was_fetched_by_hand_is_found(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "bts.zip").write_bytes(zip_of(model=BODY))
    card = card_of(file="bts.zip")
    assert is_here(card)

    found = find_published(card)

    assert found is not None
    assert found.path == cache / "bts" / "model"
    assert found.source == "file"


@pytest.mark.parametrize(
    ("body", "weights_sha256", "says"),
    [
        (zip_of(other=b"1", another=b"2"), None, "no files called 'model'.*another, other"),
        (zip_of(**{"a/model": b"1", "b/model": b"2"}), None, "2 files called 'model'"),
        (zip_of(model=BODY)[:-30], None, r"what http.*/bts.zip gave is torn or no zip"),
        (zip_of(model=BODY[:-30]), None, r"what http.*/bts.zip gave is torn, its end is missing"),
        (zip_of(model=BODY), "ab" * 32, "model in .* its card says abababab"),
    ],
)
def test_an_archive_without_the_model_leaves_nothing(
    body: bytes, weights_sha256: str | None, says: str, server: Server, cache: Path
) -> None:
    card = replace(card_of(url=server.put("/bts.zip", body)), weights_sha256=weights_sha256)

    with pytest.raises(CheckpointError, match=says):
        find_published(card)

    assert names(cache) == []
