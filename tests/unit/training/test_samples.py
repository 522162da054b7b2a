from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdpipe.errors import StaleStoreError
from kdpipe.rows import Rows, make_rows
from kdpipe.store import Store
from kdpipe.store.frame import RULES
from kdpipe.training.augment import Augment
from kdpipe.training.samples import DistillDataset, Sample, Stream
from kdpipe.training.teachers import NOT_TAUGHT

WILD = Augment(size=(32, 48), flip=0.5, scale=(1.0, 1.4), rotation=5, colour=0.2)
PLAIN = Augment(size=(48, 64))

MakeRows = Callable[..., Rows]
MakeStore = Callable[..., Store]


def seen(stream: Stream, first: int, last: int, workers: int = 0) -> list[Sample]:
    return list(stream.batches(3, first, last, workers=workers))


def assert_same(one: list[Sample], other: list[Sample]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rule", RULES)
def test_image_truth_and_teacher_move_together(
    rule: str, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    """The scene's brightness follows its depth: wherever a pixel lands, they must still agree."""
    rows = make_tiny()
    dataset = DistillDataset(rows, stores=[make_tiny_store(rows, rule=rule)], transform=WILD)

    for number in range(12):
        sample = dataset.sample(number % len(dataset), np.random.default_rng(number))
        both = sample["valid"] & sample["known"]
        ratio = (sample["teacher"] / sample["truth"])[both]
        assert both.float().mean() > 0.9
        assert float((ratio.log()).abs().mean()) < 0.03


def test_the_focal_length_is_the_row_s_whatever_became_of_the_image(make_tiny: MakeRows) -> None:
    dataset = DistillDataset(make_tiny(), transform=replace(WILD, scale=(1.4, 1.4), rotation=0))

    sample = dataset.sample(0, np.random.default_rng(0))

    assert float(sample["focal"]) == 60
    assert float(sample["intrinsics"][0]) == pytest.approx(60 * 48 / 64)


def test_the_unturned_teacher_of_the_published_pipeline_disagrees(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    store = make_tiny_store(rows)
    turned = replace(WILD, rotation=20.0)
    errors = []
    for augment in (turned, replace(turned, rotate_teacher=False)):
        dataset = DistillDataset(rows, stores=[store], transform=augment)
        sample = dataset.sample(0, np.random.default_rng(1))
        both = sample["valid"] & sample["known"]
        errors.append(float((sample["teacher"] - sample["truth"])[both].abs().mean()))

    assert errors[1] > 3 * errors[0]


@pytest.mark.parametrize("ratio", [None, 0.3])
def test_order_and_augmentation_follow_from_seed_and_step(
    ratio: float | None, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    both = [make_tiny(), make_tiny("pool", train=3, first=50)]
    stores = [make_tiny_store(rows) for rows in both]

    def stream(seed: int) -> Stream:
        parts = [
            DistillDataset(rows, stores=[store], transform=WILD)
            for rows, store in zip(both, stores, strict=True)
        ]
        return Stream(parts, seed=seed, ratio=ratio)

    whole = seen(stream(3), 0, 6)

    assert_same(whole, seen(stream(3), 0, 6, workers=2))
    assert_same(whole[4:], seen(stream(3), 4, 6))
    other = [batch["row"].tolist() for batch in seen(stream(4), 0, 6)]
    assert other != [batch["row"].tolist() for batch in whole]


def test_an_epoch_shows_each_sample_of_each_part_once(make_tiny: MakeRows) -> None:
    labelled = DistillDataset(make_tiny("one"), transform=PLAIN)
    pool = DistillDataset(
        make_tiny("two", train=4, labelled=False, first=50), transform=PLAIN, with_truth=False
    )
    stream = Stream([labelled, pool], seed=0)

    epoch = [stream[k] for k in range(stream.length)]

    pairs = sorted((bool(s["has_truth"]), int(s["row"])) for s in epoch)
    assert pairs == [*((False, n) for n in range(4)), *((True, n) for n in range(6))]
    assert not any(s["valid"].any() for s in epoch if not s["has_truth"])


def test_what_the_teacher_could_not_read_is_left_out_and_counted(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()

    dataset = DistillDataset(
        rows, stores=[make_tiny_store(rows, taught=4, bad=(1,))], transform=PLAIN
    )

    assert dataset.numbers == [0, 2, 3]
    assert dataset.left_out == {1: "torn", 4: NOT_TAUGHT, 5: NOT_TAUGHT}


def test_a_store_of_other_rows_is_refused(make_tiny: MakeRows, make_tiny_store: MakeStore) -> None:
    rows = make_tiny()
    store = make_tiny_store(rows)
    edited = [replace(row, image_digest="f" * 16) if row.id == "3" else row for row in rows]

    with pytest.raises(StaleStoreError, match="rows 2 to 3 are not those of tiny"):
        DistillDataset(make_rows(rows.card, rows.root, edited), stores=[store], transform=PLAIN)


def test_a_grown_data_set_keeps_what_was_taught(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    store = make_tiny_store(rows)
    last = rows[len(rows) - 1]
    grown = make_rows(rows.card, rows.root, [*rows, replace(last, id="new", split="train")])

    dataset = DistillDataset(grown, stores=[store], transform=PLAIN)

    assert dataset.left_out == {8: NOT_TAUGHT}


def test_plain_indexing_follows_torch_s_random_state(make_tiny: MakeRows) -> None:
    dataset = DistillDataset(make_tiny(), transform=WILD)

    torch.manual_seed(0)
    first, second = dataset[0], dataset[0]
    torch.manual_seed(0)
    again = dataset[0]

    assert_same([first], [again])
    assert not torch.equal(first["image"], second["image"])


def test_depth_outside_the_card_s_range_does_not_count(make_tiny: MakeRows) -> None:
    rows = make_tiny()
    near = Rows(replace(rows.card, max_depth=3.0), rows.root, rows.table)
    dataset = DistillDataset(near, transform=PLAIN)

    truth = torch.stack([dataset.sample(i, np.random.default_rng(0))["truth"] for i in range(6)])

    assert float(truth.max()) <= 3.0
    assert (truth == 0).any()
