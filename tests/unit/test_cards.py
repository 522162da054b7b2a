"""Cards: strict loading, and an identity that changes when a depth would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from kdpipe.cards import (
    FitRecipe,
    Kind,
    MethodCard,
    TeacherCard,
    card_names,
    load_data,
    load_method,
    load_student_card,
    load_teacher_card,
    resolve_teacher,
)
from kdpipe.errors import CardError, UnknownNameError
from kdpipe.strict import build

CARD = {"name": "toy", "family": "adabins", "input_size": [64, 96], "max_depth": 10}


def test_every_card_of_the_project_loads() -> None:
    for kind, load in (
        ("data", load_data),
        ("teachers", load_teacher_card),
        ("students", load_student_card),
        ("methods", load_method),
    ):
        names = card_names(cast("Kind", kind))
        assert names
        assert [cast("Any", load(name)).name for name in names] == names


def test_plain_values_become_a_card() -> None:
    card = build(TeacherCard, CARD, "toy.yaml")

    assert card.input_size == (64, 96)
    assert isinstance(card.max_depth, float)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert build(FitRecipe, {"learning_rate": "1e-3"}, "toy.yaml").learning_rate == 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"toy\.yaml: unknown key 'colour'\. Known: .*family"),
        ({"mirror": "yes"}, r"toy\.yaml: mirror: found 'yes', expected true or false"),
        ({"mirror": 1}, r"expected true or false"),
        ({"revision": True}, r"expected a whole number"),
        ({"input_size": [64]}, r"expected a list of a whole number, a whole number"),
        ({"input_size": [64, 100]}, r"multiples of 32, got \(64, 100\)"),
        ({"bins": "some"}, r"expected one of none, companded"),
        (
            {"fit": {"learning_rate": "fast"}},
            r"fit: learning_rate: found 'fast', expected a number",
        ),
        ({"max_depth": -1}, r"0 < min_depth < max_depth"),
        ({"max_depth": float("nan")}, r"0 < min_depth < max_depth"),
        ({"network": [1]}, r"network: found \[1\], expected keys and values"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(CardError, match=message) as caught:
        build(TeacherCard, {**CARD, **change}, "toy.yaml")

    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(CardError, match="key 'teacher' is missing"):
        build(MethodCard, {"name": "toy"}, "toy.yaml")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"nothing called 'zodepth'.*adabins-nyu"):
        load_teacher_card("zodepth")


def test_a_name_cannot_leave_the_folder() -> None:
    with pytest.raises(UnknownNameError):
        load_teacher_card("../data/nyu")


def test_a_users_card_wins_over_kdpipes_own(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "none.yaml").write_text("name: none\nteacher: false\ntruth: {mse: 2}\n")

    assert load_method("none", tmp_path).truth == {"mse": 2.0}
    assert "tie-kd" in card_names("methods", tmp_path)


def test_a_name_that_would_part_a_runs_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "my_kd.yaml").write_text("name: my_kd\nteacher: false\n")

    with pytest.raises(CardError, match="call it 'my-kd'"):
        load_method("my_kd", tmp_path)


def test_a_card_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "torn.yaml").write_text("name: [torn\n")

    with pytest.raises(CardError, match=r"torn\.yaml is no YAML"):
        load_method("torn", tmp_path)


def test_the_fingerprint_follows_what_decides_the_depth_and_nothing_else() -> None:
    card = build(TeacherCard, CARD, "toy.yaml")

    assert replace(card, about={"paper": "x"}).fingerprint == card.fingerprint
    assert replace(card, fit=FitRecipe(learning_rate=1.0)).fingerprint == card.fingerprint
    for changed in (replace(card, mirror=True), replace(card, revision=2)):
        assert changed.fingerprint != card.fingerprint


def test_a_folder_of_cards_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="is no folder of cards"):
        card_names("methods", tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "domain", "card"),
    [
        ("zoe", "nyu", "zoe-n"),
        ("zoe", "kitti", "zoe-k"),
        ("zoe", "rooms", "zoe-nk"),
        ("ada", "nyu", "ada-nyu"),
        ("ada", "kitti", "ada-kitti"),
        ("ada", "any", "ada-nyu"),
        ("zoe-k", "nyu", "zoe-k"),
    ],
)
def test_a_familys_name_is_its_card_for_the_domain(
    name: str, domain: str, card: str, tmp_path: Path
) -> None:
    (tmp_path / "teachers").mkdir()
    for one in ("zoe-n", "zoe-k", "zoe-nk", "ada-nyu", "ada-kitti", "ada-small"):
        (tmp_path / "teachers" / f"{one}.yaml").touch()

    assert resolve_teacher(name, domain, tmp_path) == card


@pytest.mark.parametrize(
    ("name", "nyu", "kitti", "other"),
    [
        ("zoedepth", "zoedepth-n", "zoedepth-k", "zoedepth-nk"),
        ("adabins", "adabins-nyu", "adabins-kitti", "adabins-nyu"),
        ("bts", "bts-nyu", "bts-kitti", "bts-nyu"),
        ("bts-resnet50", "bts-resnet50-nyu", "bts-resnet50-kitti", "bts-resnet50-nyu"),
        ("depthformer", "depthformer-nyu", "depthformer-kitti", "depthformer-nyu"),
        ("hu", "hu-resnet34", None, "hu-resnet34"),
    ],
)
def test_every_published_family_has_a_card_for_each_domain(
    name: str, nyu: str, kitti: str | None, other: str
) -> None:
    assert resolve_teacher(name, "nyu") == nyu
    assert resolve_teacher(name, "rooms") == resolve_teacher(name, "any") == other
    if kitti is None:
        with pytest.raises(UnknownNameError, match=rf"no card of '{name}' for .* 'kitti'.*{nyu}"):
            resolve_teacher(name, "kitti")
    else:
        assert resolve_teacher(name, "kitti") == kitti


def test_a_family_without_a_card_for_the_domain_is_answered_with_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"nothing called 'ada'\. Known: .*adabins-small"):
        resolve_teacher("ada", "kitti")
