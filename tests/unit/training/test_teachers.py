from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdpipe.cards import MethodCard, load_teacher_card
from kdpipe.codecs import Companded
from kdpipe.errors import CardError, DataError, StoreError, TrainingError
from kdpipe.rows import Rows, make_rows
from kdpipe.store import Store, open_store
from kdpipe.store.metadata import write_info
from kdpipe.store.shards import ArrayFormat
from kdpipe.training.augment import Augment
from kdpipe.training.coverage import say_aligned, say_confidence
from kdpipe.training.joining import Joining, check_teachers, joining_of
from kdpipe.training.samples import DistillDataset
from kdpipe.training.teachers import NOT_TAUGHT, agreement, align, join, sureness

ONE, OTHER = "adabins-small", "bts-small"
PLAIN = Augment(size=(48, 64))
ZOOMED = Augment(size=(32, 48), flip=0.5, scale=(1.3, 1.3))

MakeRows = Callable[..., Rows]
MakeStore = Callable[..., Store]


def method(**card: object) -> MethodCard:
    return MethodCard(name="m", teacher=True, distillation={"mse": 1.0}, **card)  # type: ignore[arg-type]


def test_a_pixel_s_mean_is_of_the_teachers_that_know_it() -> None:
    maps = [np.array([[2.0, 2, 0, 0]], np.float32), np.array([[8.0, 0, 3, 0]], np.float32)]

    logs, plain = (join(maps, (0.25, 0.75), how) for how in ("log-mean", "mean"))

    np.testing.assert_allclose(logs, [[2**0.25 * 8**0.75, 2, 3, 0]], rtol=1e-6)
    np.testing.assert_allclose(plain, [[6.5, 2, 3, 0]], rtol=1e-6)
    np.testing.assert_allclose(agreement(maps), [[0.25, 0, 0, 0]])
    np.testing.assert_array_equal(join(maps, (1.0, 0.0), "mean"), [[2, 2, 0, 0]])


def test_one_bin_is_sure_and_an_even_distribution_is_not() -> None:
    spread = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4], np.float32).T[:, None]

    np.testing.assert_allclose(sureness(spread), [[1, 0.5, 0]], atol=1e-5)


def test_what_one_could_not_read_is_left_to_the_other(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    stores = [
        make_tiny_store(rows, bad=(1, 2), factor=0.8, bins=Companded()),
        make_tiny_store(rows, teacher=OTHER, bad=(2,), taught=4, factor=1.25, bins=Companded()),
    ]

    joined = DistillDataset(rows, stores=stores, transform=PLAIN)
    with_bins = DistillDataset(rows, stores=stores, transform=PLAIN, with_bins=True)

    assert joined.numbers == [0, 1, 3]
    assert joined.left_out == {2: "torn", 4: NOT_TAUGHT, 5: NOT_TAUGHT}
    assert with_bins.numbers == [0, 3]
    unread = make_tiny_store(rows, teacher="hu-small", bad=tuple(range(6)))
    with pytest.raises(DataError, match=r"any of the 6 rows .*: mend the images \(torn\), then"):
        DistillDataset(rows, stores=[unread], transform=PLAIN)
    for index, factor in ((0, 1.0), (1, 1.25)):
        sample = joined.sample(index, np.random.default_rng(0))
        ratio = (sample["teacher"] / sample["truth"])[sample["known"]]
        assert float(ratio.median()) == pytest.approx(factor, rel=0.01)


def test_bins_count_only_where_each_teacher_that_weighs_knows_the_pixel(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    stores = [
        make_tiny_store(rows, bins=Companded()),
        make_tiny_store(rows, teacher=OTHER, factor=0.0, bins=Companded()),
    ]

    shares = {}
    for with_bins, weights in ((False, (0.5, 0.5)), (True, (0.5, 0.5)), (True, (1.0, 0.0))):
        how = {"joining": Joining(weights=weights), "with_bins": with_bins}
        dataset = DistillDataset(rows, stores=stores, transform=PLAIN, **how)  # type: ignore[arg-type]
        sample = dataset.sample(0, np.random.default_rng(0))
        shares[with_bins, weights[0]] = float(sample["known"].float().mean())

    assert shares == {(False, 0.5): 1.0, (True, 0.5): 0.0, (True, 1.0): 1.0}


def test_teachers_are_weighed_by_their_errors(
    make_tiny: MakeRows, make_tiny_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_tiny()
    stores = [
        make_tiny_store(rows, factor=1.1),
        make_tiny_store(rows, teacher=OTHER, factor=1.1**-3),
    ]
    card = method(weigh_teachers="inverse-variance")

    with caplog.at_level("INFO"):
        found = joining_of(card, (ONE, OTHER), rows, stores)

    assert found.weights == pytest.approx((0.9, 0.1), abs=0.02)
    assert re.search("the teachers weigh adabins-small 0.9.., bts-small 0.1", caplog.text)
    blind = make_tiny("blind", labelled=False, first=50)
    blind_stores = [make_tiny_store(blind), make_tiny_store(blind, teacher=OTHER)]
    with pytest.raises(TrainingError, match="blind has no measured depth"):
        joining_of(card, (ONE, OTHER), blind, blind_stores)
    grown = make_tiny("grown", first=70)
    grown_stores = [make_tiny_store(grown), make_tiny_store(grown, teacher=OTHER)]
    longer = make_rows(grown.card, grown.root, [*grown[:], replace(grown[0], id="new")])
    assert joining_of(card, (ONE, OTHER), longer, grown_stores).weights == (0.5, 0.5)
    far = replace(grown.card, min_depth=90.0, max_depth=91.0)
    beyond = Rows(far, grown.root, grown.table)
    with pytest.raises(TrainingError, match="grown has no measured depth where all"):
        joining_of(card, (ONE, OTHER), beyond, grown_stores)


def test_confidence_is_high_where_bins_are_narrow_and_where_teachers_agree(
    make_tiny: MakeRows, make_tiny_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_tiny()
    stores = [
        make_tiny_store(rows, bins=Companded()),
        make_tiny_store(rows, teacher=OTHER, bins=Companded(), factor=0.8),
    ]
    found = {}
    for confidence in ("entropy", "disagreement"):
        joining = Joining(confidence=confidence)
        dataset = DistillDataset(rows, stores=stores, transform=ZOOMED, joining=joining)
        sample = dataset.sample(0, np.random.default_rng(3))
        found[confidence] = sample["confidence"][sample["known"]]

    np.testing.assert_allclose(found["disagreement"], 0.8, atol=2e-3)
    # Mass in one or two of 24 bins: ln 2 / ln 24 is the most that is lost.
    assert 1 - np.log(2) / np.log(24) - 0.01 < float(found["entropy"].min()) < 0.95
    assert float(found["entropy"].max()) <= 1 + 1e-6
    with caplog.at_level("INFO"):
        say_confidence(dataset, method(confidence="disagreement", confidence_threshold=0.78))
    assert re.search(r"100\.0 % of .* 6 images .* 0\.78 .* median is 0\.80", caplog.text)
    with pytest.raises(TrainingError, match=r"0\.0 % of .*expected some: .* highest here is 0\.80"):
        say_confidence(dataset, method(confidence="disagreement", confidence_threshold=0.9))
    with pytest.raises(StoreError, match="bins are asked for"):
        DistillDataset(
            rows,
            stores=[make_tiny_store(rows, teacher="hu-small")],
            transform=PLAIN,
            joining=Joining(confidence="entropy"),
        )


def test_a_relative_teacher_is_aligned_image_by_image(
    make_tiny: MakeRows, make_tiny_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """To truth where there is some and it may be read, else to the first metric teacher."""
    rows = make_tiny()
    stores = [
        make_tiny_store(rows, teacher="dpt-large", bad=(3,)),
        make_tiny_store(rows, factor=1.2, bad=(4,)),
    ]
    only = Joining(weights=(1.0, 0.0))
    both = {"stores": stores, "transform": ZOOMED}

    by_truth = DistillDataset(rows, **both, joining=only, align_to_truth=True)  # type: ignore[arg-type]
    by_teacher = DistillDataset(rows, **both, joining=only)  # type: ignore[arg-type]

    for dataset, number, factor in (
        *((by_truth, number, 1.0) for number in (0, 1, 4)),
        *((by_teacher, number, 1.2) for number in (0, 1)),
    ):
        sample = dataset.sample(number, np.random.default_rng(number))
        seen = sample["known"] & sample["valid"]
        ratio = (sample["teacher"] / sample["truth"])[seen]
        assert float(seen.float().mean()) > 0.9
        assert float((ratio / factor).log().abs().mean()) < 0.03
    unaligned = by_teacher.sample(4, np.random.default_rng(0))
    assert not unaligned["known"].any()
    alone = {"stores": stores[:1], "transform": PLAIN}
    assert len(DistillDataset(rows, **alone, align_to_truth=True)) == 5  # type: ignore[arg-type]
    with caplog.at_level("INFO"):
        say_aligned(DistillDataset(rows, **alone, align_to_truth=True))  # type: ignore[arg-type]
    assert "tiny: 5 of 5 images that were looked at could be aligned" in caplog.text
    far = make_tiny_store(rows, teacher="dpt-large", factor=-1.0)
    with pytest.raises(TrainingError, match=r"0 of 6 images .*expected a larger disparity"):
        say_aligned(DistillDataset(rows, stores=[far], transform=PLAIN, align_to_truth=True))
    says = r"dpt-large.zarr holds a disparity .*, as that of --aux is not read: .*x\+u-prime"
    with pytest.raises(TrainingError, match=says):
        DistillDataset(rows, **alone)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="no error in metres"):
        joining_of(method(weigh_teachers="inverse-variance"), ("dpt-large", ONE), rows, stores)


def test_what_cannot_be_aligned_is_unknown() -> None:
    reference = np.linspace(1, 5, 40, dtype=np.float32)[None]
    found = align((4 / reference - 0.5).astype(np.float32), reference)

    assert found == pytest.approx((0.25, 0.125), rel=1e-3)
    assert align(reference, reference) is None  # a depth, not a disparity
    assert align(np.ones_like(reference), reference) is None
    assert align(reference, np.zeros_like(reference)) is None


@pytest.mark.parametrize(
    ("card", "teachers", "says"),
    [
        ({}, (ONE, ONE), "adabins-small is named twice"),
        ({"teacher_weights": {ONE: 0.5, "c": 0.5}}, (ONE, OTHER), "adabins-small, c, --teacher"),
        ({"teacher_weights": {ONE: 0.5, OTHER: 0.5}}, (ONE,), "make the two agree"),
        ({"confidence": "disagreement"}, (ONE,), "name several"),
        ({"teacher_weights": {ONE: 0.5, OTHER: 0.6}}, (), r"with the sum 1 expected"),
        ({"teacher_weights": {ONE: -0.5, OTHER: 1.5}}, (), r"numbers from 0"),
        ({"teacher_weights": {ONE: 1.0}, "weigh_teachers": "inverse-variance"}, (), "leave one"),
        ({"confidence_threshold": 0.5}, (), "beside confidence"),
        ({"confidence": "entropy", "confidence_threshold": 1.5}, (), r"in \(0, 1\]"),
    ],
)
def test_what_does_not_go_together_is_refused(
    card: dict[str, object], teachers: tuple[str, ...], says: str
) -> None:
    with pytest.raises((TrainingError, CardError), match=says):
        check_teachers(method(**card), teachers)


def mirrored_card(name: str = "twin") -> None:
    card = {**asdict(load_teacher_card(ONE)), "name": name, "mirror": True, "fit": None}
    path = Path("manifests/teachers") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**card, "network": dict(load_teacher_card(ONE).network)}))


@pytest.mark.parametrize("names", [(ONE, "twin"), ("twin", ONE)], ids=["plain-first", "last"])
def test_a_mirrored_twin_says_where_a_teacher_is_sure(
    names: tuple[str, str], make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    """The mirrored image's depth is 1.5 times the image's: 2/3 sure, and their mean is learned."""
    mirrored_card()
    rows = make_tiny()
    factors = {ONE: 0.8, "twin": 1.0}
    stores = [make_tiny_store(rows, teacher=one, factor=factors[one]) for one in names]

    joining = joining_of(method(confidence="mirrored"), names, rows, stores)
    batch = DistillDataset(rows, stores=stores, transform=PLAIN, joining=joining)
    sample = batch.sample(0, np.random.default_rng(0))
    alone = DistillDataset(rows, stores=[stores[names.index("twin")]], transform=PLAIN)

    inside = sample["known"].numpy()
    np.testing.assert_allclose(sample["confidence"].numpy()[inside], 2 / 3, rtol=6e-3)
    expected = alone.sample(0, np.random.default_rng(0))["teacher"]
    np.testing.assert_allclose(sample["teacher"], expected, rtol=1e-6)


def test_only_a_twin_is_a_mirrored_one(make_tiny: MakeRows, make_tiny_store: MakeStore) -> None:
    rows = make_tiny()
    mirrored = method(confidence="mirrored")
    stores = [make_tiny_store(rows, teacher=one) for one in (ONE, OTHER)]

    with pytest.raises(TrainingError, match="1 teachers are given, expected two"):
        check_teachers(mirrored, (ONE,))
    with pytest.raises(TrainingError, match=r"differ in .*family.*mirror: true"):
        joining_of(mirrored, (ONE, OTHER), rows, stores)
    with pytest.raises(TrainingError, match="differ in nothing"):
        joining_of(mirrored, (ONE, ONE), rows, [stores[0]] * 2)


def test_an_array_that_no_transform_moves_is_refused(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    store = make_tiny_store(rows)
    more = ArrayFormat("contour", "uint8", (24, 32), ("y", "x"), "none")
    write_info(store.path, replace(store.info, arrays=(*store.info.arrays, more)))

    with pytest.raises(StoreError, match=r"keeps contour, which .* cannot crop, flip and turn"):
        DistillDataset(rows, stores=[open_store(store.path)], transform=PLAIN)
