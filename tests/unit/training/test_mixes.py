from __future__ import annotations

from collections import Counter

import pytest

from kdpipe.cards import load_method
from kdpipe.errors import TrainingError
from kdpipe.training.mixes import MIXES, Order, mix_of, say_unread

POOL = ("pool",)


@pytest.mark.parametrize("ratio", [0.5, 0.25, 1 / 3, 0.9])
def test_a_ratio_holds_in_every_stretch_and_each_part_is_seen_evenly(ratio: float) -> None:
    order = Order((5, 7, 4), seed=3, ratio=ratio)

    places = [order[k] for k in range(600)]

    for start in range(0, 600, 10):
        more = sum(place >= 5 for place in places[start : start + 10])
        assert abs(more - 10 * ratio) <= 1
    seen = Counter(places)
    for part in (range(5), range(5, 16)):
        counts = [seen[place] for place in part]
        assert max(counts) - min(counts) <= 1
    again = Order((5, 7, 4), seed=3, ratio=ratio)
    assert [again[k] for k in (599, 0, 301)] == [places[k] for k in (599, 0, 301)]
    assert [Order((5, 7, 4), seed=4, ratio=ratio)[k] for k in range(30)] != places[:30]


def test_the_usual_mix_follows_from_the_data_sets() -> None:
    names = [mix_of(None, None, aux, load_method("hu")).name for aux in ((), POOL)]

    assert names == ["x", "x+u"]
    assert mix_of("x+u", None, POOL, load_method("hu")).identity == {}
    assert len({str(mix_of(m, 0.3, POOL, load_method("hu")).identity) for m in MIXES[2:]}) == 2


def test_labels_that_a_method_does_not_learn_from_are_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for mix, method in (("x+u-prime", "hu"), ("x+u", "tie-kd"), ("x+u-prime", "tie-kd")):
        card = load_method(method)
        say_unread(mix_of(mix, None, POOL, card), card)

    (said,) = caplog.messages
    assert "mix x+u-prime: method tie-kd learns from no measured depth" in said


@pytest.mark.parametrize(
    ("name", "ratio", "aux", "method", "says"),
    [
        ("y", None, POOL, "hu", "mix 'y' found, one of x, u, x"),
        ("x", None, POOL, "hu", "--aux pool is given: leave it out"),
        ("u", None, (), "hu", "mix u needs further images: add --aux"),
        ("x+u-prime", None, (), "hu", "needs further images"),
        (None, 1.0, POOL, "hu", "ratio 1 found, a share"),
        (None, float("nan"), POOL, "hu", "ratio nan found, a share"),
        ("u", 0.5, POOL, "hu", "mix u has only one"),
        (None, 0.5, (), "hu", "mix x has only one"),
        (None, None, POOL, "none", "--aux pool adds images without labels"),
        ("u", None, POOL, "none", "learns from labels only"),
    ],
)
def test_a_mix_that_does_not_fit_is_refused(
    name: str | None, ratio: float | None, aux: tuple[str, ...], method: str, says: str
) -> None:
    with pytest.raises(TrainingError, match=says):
        mix_of(name, ratio, aux, load_method(method))
