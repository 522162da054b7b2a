"""Published weights, from a real server: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save as save_safetensors

from kdpipe.cards import TeacherCard
from kdpipe.errors import CardError, CheckpointError
from kdpipe.teachers.weights import cache_dir, find_published, is_here, missing_weights

if TYPE_CHECKING:
    from tests.http_server import Server


def saved(value: object) -> bytes:
    held = io.BytesIO()
    torch.save(value, held)
    return held.getvalue()


def weights_of(first: float) -> bytes:
    """A checkpoint of about 2 MiB."""
    return saved({"model": {"weight": first + torch.arange(512 * 1024)}})


BODY = weights_of(0.0)
OTHER = weights_of(1.0)
WEIGHTS = saved({"weight": torch.ones(1)})
CHUNK = 1 << 16
PART = 22 * CHUNK
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
    said = [one.communicate("\n", timeout=60)[0].strip() for one in running]

    assert said == [digest(BODY)] * 2
    assert server.asked == [("/toy.pt", None)]
    assert names(cache) == ["toy.pt", "toy.pt.json"]


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
