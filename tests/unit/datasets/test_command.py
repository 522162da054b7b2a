"""`kdpipe index`: one line for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdpipe.store import layout
from kdpipe_stages.index import index

if TYPE_CHECKING:
    import pytest

Pair = Callable[..., tuple[str, str]]


def test_it_says_what_it_did(root: Path, pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    image, depth = pair()
    (root / "nyu_test.txt").write_text(f"{image} {depth} 500")

    index("nyu", root=root)
    said = capsys.readouterr()
    index("nyu", json=True)
    again = capsys.readouterr()

    assert said.out == (
        "nyu: 1 rows (test 1; 1 with depth); 1 new, 0 changed, 0 as before: "
        f"{layout.rows_path('nyu')}\n"
    )
    assert (said.err, again.err) == ("", "")
    values = json.loads(again.out)
    assert values["splits"] == {"test": 1}
    assert (values["rows"], values["labelled"], values["new"], values["kept"]) == (1, 1, 0, 1)
    assert values["path"] == str(layout.rows_path("nyu"))


def test_a_folder_gets_a_name(root: Path, pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pair("a.png", "b.png")

    index("folder", root=root, name="photos")

    assert capsys.readouterr().out.startswith("photos: 2 rows (train 2; 0 with depth)")
    assert layout.rows_path("photos").is_file()
