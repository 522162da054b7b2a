"""Where a data set is, and what it may be called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.datasets.conftest import Pair, fill

from kdpipe.cards import DataCard, load_data
from kdpipe.datasets import load_family, resolve_root
from kdpipe.datasets.index import find_data, index
from kdpipe.errors import DataError, UnknownNameError


def test_the_folder_comes_from_the_flag_the_card_the_environment_or_last_time(
    root: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = load_data("nyu")
    with pytest.raises(DataError, match="'nyu' are is not said: pass --root FOLDER or set NYU_DIR"):
        resolve_root(card, None)
    with pytest.raises(DataError, match="gone', the folder of 'nyu', is not there: pass --root"):
        resolve_root(card, tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        resolve_root(card, tmp_path / "file")

    monkeypatch.setenv("NYU_DIR", str(root))
    assert resolve_root(card, None) == root
    assert resolve_root(replace(card, root="."), None) == Path()
    assert resolve_root(replace(card, root="."), root) == root

    monkeypatch.delenv("NYU_DIR")
    fill(root, pair, range(1), "nyu_test.txt")
    index(card, root)
    assert find_data("nyu") == (card, root)


def test_a_named_folder_is_found_again_by_its_name(root: Path, pair: Pair) -> None:
    pair("a.png", "b.png")
    card, folder = find_data("folder", root=root, name="photos")
    index(card, folder)

    assert card.name == "photos"
    assert find_data("photos") == (card, root)
    with pytest.raises(UnknownNameError, match="'photo'"):
        find_data("photo")


def test_a_name_cannot_leave_the_folder_or_take_another_set_s_place(
    root: Path, pair: Pair, nyu: DataCard
) -> None:
    fill(root, pair, range(1))
    for name in ("../x", "a/b", "a+b", "a,b", "", ".x", "a b"):
        with pytest.raises(DataError, match="found the name"):
            index(nyu, root, name=name or "/")
    index(nyu, root)
    with pytest.raises(DataError, match="holds a set of family 'nyu', this one is 'folder'"):
        index(load_data("folder"), root, name="toy")


@pytest.mark.parametrize("name", ["my photos", "fotos-ü", "../x", "none", "", "x" * 101])
def test_a_name_that_no_path_or_run_could_carry_is_refused(root: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"found the name .*, expected 1 to 100") as said:
        find_data("folder", root=root, name=name)

    assert len(str(said.value)) < 300


@pytest.mark.parametrize("name", ["nyuu", "files", "index", "../nyu", "nyu.x", ""])
def test_an_unknown_family_is_answered_with_the_known(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Known: .*folder, kitti, nyu"):
        load_family(name)
