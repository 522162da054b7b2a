"""Published weights, from a real server: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save as save_safetensors
from tests.published_weights import BODY, card_of, digest, names, refused, saved, weights_of

from kdpipe.teachers.weights import find_published

if TYPE_CHECKING:
    from tests.http_server import Server

OTHER = weights_of(1.0)
CHUNK = 1 << 16
PART = 22 * CHUNK


def test_a_file_is_downloaded_once_and_found_afterwards(server: Server, cache: Path) -> None:
    card = card_of(url=server.put("/toy.pt", BODY), sha256=digest(BODY), size=len(BODY))
    assert find_published(card, download=False) is None

    first, again = find_published(card), find_published(card)

    assert first is not None
    assert first == again
    assert first.path == cache / "toy.pt"
    assert first.path.read_bytes() == BODY
    assert (first.sha256, first.source) == (digest(BODY), f"{server.address}/toy.pt")
    assert server.asked == [("/toy.pt", None)]
    assert names(cache) == ["toy.pt", "toy.pt.json"]


def test_the_cards_file_name_wins_over_the_addresss(server: Server, cache: Path) -> None:
    card = card_of(url=server.put("/download", BODY), file="Toy M12.pt")

    found = find_published(card)

    assert found is not None
    assert found.path == cache / "Toy M12.pt"


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, cache: Path) -> None:
    card = card_of(url=server.put("/toy.pt", BODY, breaks=[PART + 9, CHUNK]), sha256=digest(BODY))

    assert find_published(card) is not None

    assert [asked for _, asked in server.asked] == [
        None,
        f"bytes={PART}-",
        f"bytes={PART + CHUNK}-",
    ]
    assert names(cache) == ["toy.pt", "toy.pt.json"]


def test_a_server_without_ranges_begins_again(server: Server, cache: Path) -> None:
    card = card_of(url=server.put("/toy.pt", BODY, breaks=[PART], ranges=False, tag=None))

    found = find_published(card)

    assert found is not None
    assert found.sha256 == digest(BODY)
    assert len(server.asked) == 2


def test_a_body_without_length_is_held_to_the_cards_size(server: Server, cache: Path) -> None:
    url = server.put("/toy.pt", BODY, says_length=False, breaks=[PART])

    found = find_published(card_of(url=url, size=len(BODY)))

    assert found is not None
    assert found.sha256 == digest(BODY)


def test_a_server_that_always_breaks_off_is_given_up_and_its_bytes_stay(
    server: Server, cache: Path
) -> None:
    url = server.put("/toy.pt", BODY, breaks=[PART, *[0] * 20])

    said = refused(card_of(url=url))

    assert "1.4 MB are kept to go on from" in said
    assert len(server.asked) == 6
    assert names(cache) == ["toy.pt.part", "toy.pt.part.json"]


def test_a_later_process_goes_on_if_the_file_is_still_the_same(server: Server, cache: Path) -> None:
    url = server.put("/toy.pt", BODY, breaks=[PART, *[0] * 20])
    refused(card_of(url=url))

    server.put("/toy.pt", BODY)
    server.asked.clear()
    found = find_published(card_of(url=url))

    assert found is not None
    assert found.sha256 == digest(BODY)
    assert server.asked == [("/toy.pt", f"bytes={PART}-")]


@pytest.mark.parametrize("tag", ['"2"', None])
def test_a_file_that_changed_meanwhile_is_not_patched_together(
    server: Server, cache: Path, tag: str | None
) -> None:
    url = server.put("/toy.pt", BODY, breaks=[PART, *[0] * 20])
    refused(card_of(url=url))

    server.put("/toy.pt", OTHER, tag=tag)
    found = find_published(card_of(url=url))

    assert found is not None
    assert found.sha256 == digest(OTHER)
    assert names(cache) == ["toy.pt", "toy.pt.json"]


def test_the_start_of_a_file_that_nothing_names_is_thrown_away(server: Server, cache: Path) -> None:
    url = server.put("/toy.pt", BODY, tag=None)
    cache.mkdir(parents=True)
    (cache / "toy.pt.part").write_bytes(b"of something else")

    found = find_published(card_of(url=url))

    assert found is not None
    assert found.sha256 == digest(BODY)


def test_a_file_that_was_whole_when_its_process_died_is_kept(server: Server, cache: Path) -> None:
    url = server.put("/toy.pt", BODY)
    cache.mkdir(parents=True)
    (cache / "toy.pt.part").write_bytes(BODY)
    (cache / "toy.pt.part.json").write_text(json.dumps({"url": url, "same": '"1"'}))

    assert find_published(card_of(url=url)) is not None

    assert server.asked == [("/toy.pt", f"bytes={len(BODY)}-")]
    assert names(cache) == ["toy.pt", "toy.pt.json"]


@pytest.mark.parametrize(
    ("about", "weights_sha256", "says"),
    [
        ({"sha256": "ab" * 32}, None, "its card says abababababababab"),
        ({}, "ab" * 32, "its card says abababababababab"),
        ({"size": 1000}, None, f"has {len(BODY)} bytes, expected 1000"),
    ],
)
def test_another_file_than_the_card_says_leaves_nothing(
    about: dict[str, object],
    weights_sha256: str | None,
    says: str,
    server: Server,
    cache: Path,
) -> None:
    card = card_of(url=server.put("/toy.pt", BODY), **about)

    said = refused(replace(card, weights_sha256=weights_sha256))

    assert says in said
    assert names(cache) == []


def test_a_file_that_is_not_there_leaves_nothing(server: Server, cache: Path) -> None:
    said = refused(card_of(url=f"{server.address}/toy.pt"))

    assert "answers 404" in said
    assert f"save the file yourself as {cache / 'toy.pt'}" in said
    assert "--checkpoint FILE" in said
    assert names(cache) == []


def test_a_busy_server_is_asked_again(server: Server, cache: Path) -> None:
    card = card_of(url=server.put("/toy.pt", BODY, statuses=[503, 429]))

    assert find_published(card) is not None


def test_a_server_that_stays_busy_is_one_line(server: Server, cache: Path) -> None:
    card = card_of(url=server.put("/toy.pt", BODY, statuses=[503] * 20))

    assert "answers 503" in refused(card)
    assert names(cache) == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_no_file(kind: str, server: Server, cache: Path) -> None:
    card = card_of(url=server.put("/toy.pt", b"\n<!DOCTYPE html><p>Sign in", kind=kind))

    assert "is a web page" in refused(card)
    assert names(cache) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (BODY[: PART + 9], "is torn, its end is missing"),
        (b"Too many requests, try again tomorrow", "is no checkpoint"),
        (b"", "is empty"),
        (saved({"model": {"weight": "here"}}), "holds a str as 'weight'"),
        (saved({"weight": torch.nn.Identity()}), "would run code when loaded"),
    ],
)
def test_what_holds_no_weights_is_not_kept(
    body: bytes, says: str, server: Server, cache: Path
) -> None:
    url = server.put("/toy.pt", body, says_length=False)

    said = refused(card_of(url=url))

    assert f"what {url} gave {says}" in said
    assert names(cache) == []
    server.put("/toy.pt", BODY)
    assert find_published(card_of(url=url)) is not None


def test_safetensors_are_weights_if_they_are_whole(server: Server, cache: Path) -> None:
    body = save_safetensors({"weight": torch.ones(9)})
    torn = server.put("/torn.safetensors", body[:-1])

    assert find_published(card_of(url=server.put("/toy.safetensors", body))) is not None
    assert "is torn or no safetensors file" in refused(card_of(url=torn))
    assert names(cache) == ["toy.safetensors", "toy.safetensors.json"]


def test_a_proxy_of_the_environment_is_used(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/toy.pt", BODY)
    monkeypatch.setenv("http_proxy", server.address)

    found = find_published(card_of(url="http://weights.invalid/toy.pt"))

    assert found is not None
    assert server.asked == [("http://weights.invalid/toy.pt", None)]


def test_without_network_it_is_one_line_and_nothing_is_left(cache: Path) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        said = refused(card_of(url=f"http://127.0.0.1:{taken.getsockname()[1]}/toy.pt"))

    assert "Connection refused" in said
    assert "HTTPS_PROXY" in said
    assert len(said) < 500
    assert names(cache) == []


@pytest.mark.parametrize(
    "url", ["gopher://example.org/toy.pt", "file:///etc/passwd", "http:///x.pt"]
)
def test_an_address_that_is_none_is_one_line(url: str, cache: Path) -> None:
    assert "cannot be downloaded" in refused(card_of(url=url, file="toy.pt"))
    assert names(cache) == []


def test_two_processes_at_once_download_it_once(server: Server, cache: Path) -> None:
    url = server.put("/toy.pt", BODY)
    program = (
        "from kdpipe.cards import TeacherCard; from kdpipe.teachers.weights import find_published\n"
        "import sys; print('up', flush=True); sys.stdin.readline()\n"
        f"card = TeacherCard(name='toy', family='adabins', about={{'url': {url!r}}})\n"
        "print(find_published(card).sha256)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=dict(os.environ),
        )
        for _ in range(2)
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "up\n"
    for one in running:  # both, before either is waited for
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=300)[0].strip() for one in running]

    assert said == [digest(BODY)] * 2
    assert server.asked == [("/toy.pt", None)]
    assert names(cache) == ["toy.pt", "toy.pt.json"]
