from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from kdpipe.codecs import Companded, LogBinomial
from kdpipe.errors import StoreError
from kdpipe.losses import bins_loss
from kdpipe.rows import Rows
from kdpipe.store import Store, layout
from kdpipe.store.bins import StoredBins, StoredLogBinomial
from kdpipe.store.frame import BILINEAR, RULES
from kdpipe.training.augment import Augment
from kdpipe.training.bins import SHARES, collate, of_teacher, sample_bins, teacher_bins
from kdpipe.training.geometry import Transform
from kdpipe.training.samples import DistillDataset, Sample, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME, NATIVE = (48, 64), (24, 32)
WILD = Augment(size=(32, 48), flip=0.5, scale=(1.0, 1.4), rotation=5, colour=0.2)
KINDS = [Companded(), LogBinomial(bins=16, attractors=(2, 1))]
CODEC = Companded(levels=16, floor=1e-3)

MakeRows = Callable[..., Rows]
MakeStore = Callable[..., Store]
Step = Callable[[Transform], Transform]


def target(batch: Sample, centers: Tensor, size: tuple[int, int]) -> Tensor:
    """The teacher's q (B, N, h, w): the gradient at a student of equal probabilities shows it."""
    b, n = len(batch["image"]), len(centers)
    student = torch.full((b, n, *size), 1 / n, requires_grad=True)
    torch.autograd.backward(bins_loss(student, centers, teacher_bins(batch)))
    assert student.grad is not None
    return -student.grad * (1 / n + 1e-7) * (b * size[0] * size[1])


def batch_of(stored: StoredBins | StoredLogBinomial, transform: Transform) -> Sample:
    image = torch.zeros(3, *transform.size)
    return collate([{"image": image, **sample_bins(stored, transform, BILINEAR)}])


def free(seed: int = 0, bins: int = 6) -> StoredBins:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (bins, *NATIVE)).astype(np.uint8)
    return StoredBins(codes, np.linspace(0, 10, bins + 1, dtype=np.float32), CODEC)


def two_parameters(seed: int = 0) -> StoredLogBinomial:
    rng = np.random.default_rng(seed)
    codec = LogBinomial(bins=16, attractors=(2, 1))
    pair = codec.encode(*rng.uniform(0.05, 1, (2, *NATIVE)).astype(np.float32))
    seeds, *maps = (rng.uniform(1, 9, shape).astype(np.float32) for shape in codec.shapes(NATIVE))
    return StoredLogBinomial(pair, codec.encode_points(seeds, maps), codec)


def chain(*steps: Step) -> Transform:
    transform = Transform.identity(*FRAME)
    for step in steps:
        transform = step(transform)
    return transform


CHAINS = {
    "whole": chain(),
    "crop": chain(lambda t: t.crop(7, 11, 20, 30)),
    "flip": chain(lambda t: t.crop(3.5, 2, 30, 40), Transform.flip),
    "zoom": chain(lambda t: t.zoom(1.3, at_fixed_focal=True), lambda t: t.resize(21, 33)),
    "all": chain(
        lambda t: t.zoom(1.2, at_fixed_focal=True), lambda t: t.crop(5, 6, 30, 40), Transform.flip
    ),
    "beyond": chain(lambda t: t.resize(70, 95)),  # the outermost pixels lie outside the centres
    "turned": chain(lambda t: t.zoom(1.4, at_fixed_focal=True), lambda t: t.rotate(4)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_moving_stored_bins_equals_moving_the_expanded_maps(name: str) -> None:
    """Crop, flip, zoom and turn of codes: each bin's map, moved as depth is, says the same."""
    stored, transform = free(), CHAINS[name]
    centers = torch.from_numpy(transform.centers(stored.centers()))

    moved = target(batch_of(stored, transform), centers, transform.size)[0]

    maps = [transform.stored_depth(one) for one in stored.probabilities()]
    expected = np.stack(maps) * transform.depth_divisor
    np.testing.assert_allclose(moved.numpy(), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("make", [free, two_parameters])
def test_the_mean_of_moved_bins_is_the_moved_mean(
    make: Callable[[], StoredBins | StoredLogBinomial], name: str
) -> None:
    """Also at a fixed focal length, which divides each cell's centers as it does depth."""
    stored, transform = make(), CHAINS[name]
    centers = torch.linspace(0, 12, 97)

    moved = target(batch_of(stored, transform), centers, transform.size)[0]

    theirs = stored.centers()
    theirs = theirs[:, None, None] if theirs.ndim == 1 else theirs
    mean: NDArray[np.float32] = (stored.probabilities() * theirs).sum(axis=0)
    found = torch.einsum("nhw,n->hw", moved, centers)
    np.testing.assert_allclose(found.numpy(), transform.stored_depth(mean), atol=3e-3)
    torch.testing.assert_close(moved.sum(0), torch.ones(transform.size), rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [free, two_parameters])
def test_a_smaller_student_sees_the_same_bins_at_its_own_pixels(
    make: Callable[[], StoredBins | StoredLogBinomial],
) -> None:
    transform = chain(lambda t: t.crop(3, 4, 41, 57), Transform.flip)
    centers = torch.linspace(0, 12, 13)
    batch = batch_of(make(), transform)

    whole = target(batch, centers, (41, 57))
    fifth = target(batch, centers, (9, 15))  # finer cells than pixels: expanded one by one

    torch.testing.assert_close(fifth, whole[:, :, ::5, ::4], rtol=0, atol=5e-5)


def test_several_teachers_distributions_are_mixed_on_the_student_s_bins() -> None:
    transform = chain(lambda t: t.crop(3, 4, 41, 57), Transform.flip)
    image = {"image": torch.zeros(3, *transform.size)}
    bins = [sample_bins(one, transform, BILINEAR) for one in (free(), two_parameters())]
    further = {of_teacher(1, name): values for name, values in bins[1].items()}
    mixed = {**image, **bins[0], **further, SHARES: torch.tensor([0.25, 0.75])}
    centers = torch.linspace(0, 12, 13)

    found = target(collate([mixed, mixed]), centers, (41, 57))

    own = [target(collate([{**image, **one}]), centers, (41, 57)) for one in bins]
    torch.testing.assert_close(found[1:], 0.25 * own[0] + 0.75 * own[1], rtol=0, atol=1e-5)


def test_a_crop_takes_only_its_window_of_codes() -> None:
    sample = sample_bins(free(), chain(lambda t: t.crop(10, 20, 8, 12)), BILINEAR)

    assert sample["bins_codes"].dtype == torch.uint8
    assert sample["bins_codes"].shape == (6, 6, 8)  # rows 4.9 to 8.3, columns 9.8 to 15.3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codec", KINDS, ids=["companded", "log-binomial"])
def test_bins_of_a_store_agree_with_its_depth_wherever_they_land(
    codec: Companded | LogBinomial, rule: str, make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    store = make_tiny_store(rows, rule=rule, bins=codec)

    off = disagreement(rows, store, WILD)

    assert off < (0.01 if isinstance(codec, Companded) else 0.05)


def test_bins_stay_where_a_published_pipeline_leaves_the_teacher_s_depth(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    unturned = replace(WILD, rotation=20.0, rotate_teacher=False)

    assert disagreement(rows, make_tiny_store(rows, bins=Companded()), unturned) < 0.01


def disagreement(rows: Rows, store: Store, augment: Augment) -> float:
    """Of the mean of a batch's bins and its depth, mean of relative differences."""
    dataset = DistillDataset(rows, stores=[store], transform=augment, with_bins=True)
    batch = next(Stream([dataset], seed=0).batches(6, 0, 1))
    centers = torch.linspace(0.1, 12, 120)
    mean = torch.einsum("bnhw,n->bhw", target(batch, centers, augment.size), centers)
    known = batch["known"]
    assert known.float().mean() > 0.9
    off = ((mean - batch["teacher"]) / batch["teacher"])[known].abs()
    return float(off.mean())


def test_batches_with_bins_are_the_same_whatever_the_number_of_workers(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    store = make_tiny_store(rows, bins=Companded())
    dataset = DistillDataset(rows, stores=[store], transform=WILD, with_bins=True)

    alone, together = (
        list(Stream([dataset], seed=1).batches(3, 0, 2, workers=count)) for count in (0, 2)
    )

    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def test_bins_travel_only_where_they_are_asked_for(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()
    store = make_tiny_store(rows, bins=Companded())
    for shard in range(store.info.shards):
        file = store.info.file(store.path, layout.BIN_CODES, shard)
        file.write_bytes(bytes(file.stat().st_size))

    sample = DistillDataset(rows, stores=[store], transform=WILD)[0]

    assert not [name for name in sample if name.startswith("bins")]
    with pytest.raises(StoreError, match="bins/codes"):
        _ = DistillDataset(rows, stores=[store], transform=WILD, with_bins=True)[0]


def test_asking_a_store_without_bins_is_refused(
    make_tiny: MakeRows, make_tiny_store: MakeStore
) -> None:
    rows = make_tiny()

    with pytest.raises(StoreError, match="pass a store that keeps some"):
        DistillDataset(rows, stores=[make_tiny_store(rows)], transform=WILD, with_bins=True)
    with pytest.raises(StoreError, match="pass a store that keeps some"):
        DistillDataset(rows, transform=replace(WILD, flip=0.0), with_bins=True)
