"""A small ZoeDepth into a store and back: its distribution, within the bounds, of every kind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
import zarr
from tests.plain_zarr import plain_zarr
from tests.toy_teacher import make_photos
from torch import Tensor, nn

from kdpipe import audit, teachers, teaching
from kdpipe.cards import TeacherCard, load_teacher_card
from kdpipe.codecs import LogBinomial
from kdpipe.datasets import read_image
from kdpipe.errors import StaleStoreError, StoreError
from kdpipe.nets.log_binomial import LogBinomialBins, Span
from kdpipe.store import Store, StoredLogBinomial, layout, ledger, open_store
from kdpipe.store.verify import verify
from kdpipe.teachers import build_network, load_teacher
from kdpipe.teachers.base import BICUBIC_PADDED, Teacher, TeacherOutput
from kdpipe.teaching import Options, plan
from kdpipe.teaching.source import Source

if TYPE_CHECKING:
    from kdpipe.rows import Rows

TEACHER = "zoedepth-small"
SIZES = ((64, 96), (96, 64))
BAD = 3
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "normed": {"centers": "normed"},
    "routed": {"domains": ["nyu", "kitti"]},
}


def make_teacher(kind: str) -> Teacher:
    """Writes the card, with that kind of centres, and weights that spread; and loads them."""
    card = load_teacher_card(TEACHER)
    folder = Path("manifests/teachers")
    folder.mkdir(parents=True)
    values = {**asdict(card), "network": {**card.network, **KINDS[kind]}, "fit": None}
    (folder / f"{TEACHER}.yaml").write_text(yaml.safe_dump(values))
    torch.manual_seed(0)
    network = build_network(load_teacher_card(TEACHER))
    for name, value in network.named_parameters():
        if name.endswith("conv2.weight") or ".mlp.2." in name:
            with torch.no_grad():
                value.mul_(4)
    torch.save(network.state_dict(), "weights.pt")
    return load_teacher(TEACHER, checkpoint="weights.pt")


def teach() -> teaching.Done:
    return teaching.run(
        TEACHER,
        "photos",
        checkpoint=Path("weights.pt"),
        options=Options(workers=0, batch_size=3),
    )


def plain(path: Path, name: str) -> Any:
    """An array of the store as zarr alone reads it."""
    with plain_zarr():
        return np.asarray(zarr.open_group(str(path), mode="r")[name])


def stored(store: Store, number: int) -> StoredLogBinomial:
    bins = store.bins(number)
    assert isinstance(bins, StoredLogBinomial)
    return bins


@dataclass(frozen=True)
class Taught:
    """A teacher, ten photographs of two sizes, one of them torn, and the store of it all."""

    folder: Path
    teacher: Teacher
    rows: Rows
    store: Store


@pytest.fixture(scope="module", params=KINDS)
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(teachers, "load_teacher", load_teacher)
        teacher, rows = make_teacher(str(request.param)), make_photos(10, sizes=SIZES)
        torn = Path(f"photos/{BAD:04d}.png")
        torn.write_bytes(torn.read_bytes()[:90])
        return Taught(folder, teacher, rows, open_store(teach().path.absolute()))


@pytest.fixture
def taught(once: Taught, monkeypatch: pytest.MonkeyPatch) -> Taught:
    """The same, in its folder and with the real teacher."""
    monkeypatch.chdir(once.folder)
    monkeypatch.setattr(teachers, "load_teacher", load_teacher)
    return once


def test_what_is_read_is_what_the_teacher_said(taught: Taught) -> None:
    teacher, rows, store = taught.teacher, taught.rows, taught.store
    codec = stored(store, 0).codec
    relative, metres = codec.max_center_error
    for number in (n for n in range(len(rows)) if n != BAD):
        said = teacher.predict(read_image(rows, number)[None])
        assert isinstance(said.bins, LogBinomialBins)

        bins = stored(store, number)
        probabilities, centers = bins.probabilities(), bins.centers()

        assert probabilities.shape == centers.shape == (codec.bins, *SIZES[number % 2])
        expected = said.bins.centers()[0].numpy()
        # The teacher looked at a batch there, which moves its own centres by 1e-4.
        assert (np.abs(centers - expected) <= relative * expected + metres + 2e-4).all()
        p = said.bins.probabilities()[0].numpy().astype(np.float64)
        nats = np.sum(p * np.log(np.maximum(p, 1e-30) / np.maximum(probabilities, 1e-30)), axis=0)
        assert nats.max() <= 1e-4
        depth = said.depth[0].numpy()
        error = np.abs((probabilities * centers).sum(axis=0) - depth) / depth
        assert error.mean() <= 1e-3
        np.testing.assert_allclose(store.native_depth(number), depth, rtol=1.1e-3)


def test_audit_teaches_it_again(taught: Taught) -> None:
    codec = stored(taught.store, 0).codec
    again = audit.Again(relive=9, source=Source(checkpoint=Path("weights.pt")))

    done = audit.run(TEACHER, "photos", again=again)

    found: Any = done.summary["relive"]
    bounds = {name: one["bound"] for name, one in found["arrays"].items()}
    assert done.problem is None
    assert f"{BAD:04d}" not in found["ids"]
    assert bounds == {
        "depth": 1e-3,
        "bins/pair logit": codec.max_logit_error,
        "bins/pair ln T": codec.max_temperature_error,
        "bins/points": codec.max_point_error,
    }
    for one in found["arrays"].values():  # it is the store that is compared
        assert one["bound"] / 10 < one["mean"] < one["bound"]
    assert found["expectation"] < 1e-3


def test_torch_expands_what_is_stored(taught: Taught) -> None:
    bins = stored(taught.store, 1)
    codec = bins.codec

    seeds, attractors = codec.decode_points(bins.points, bins.size)
    p, temperature = (torch.from_numpy(one)[None] for one in codec.decode(bins.codes))
    on_device = LogBinomialBins(
        p,
        temperature,
        torch.from_numpy(seeds)[None],
        tuple(torch.from_numpy(one)[None] for one in attractors),
        None if codec.span is None else Span(*codec.span),
    )

    np.testing.assert_allclose(on_device.centers()[0], bins.centers(), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(on_device.probabilities()[0], bins.probabilities(), atol=1e-4)


def test_plain_zarr_reads_the_arrays_and_verify_finds_nothing(taught: Taught) -> None:
    store = taught.store

    pair, points = (plain(store.path, name) for name in (layout.BIN_PAIR, layout.BIN_POINTS))

    codec = stored(store, 0).codec
    assert verify(store.path).problems == ()
    assert pair.shape == (10, 2, 96, 96)
    assert points.shape == (10, codec.points((96, 96)))
    for number in range(10):
        if number == BAD:
            assert not pair[number].any()
            assert not points[number].any()
            with pytest.raises(StoreError, match=r"row 3 of .* has no bins"):
                store.bins(number)
            continue
        bins, (height, width) = stored(store, number), SIZES[number % 2]
        assert np.array_equal(pair[number, :, :height, :width], bins.codes)
        assert np.array_equal(points[number, : len(bins.points)], bins.points)
        assert len(bins.points) == codec.points((height, width))
        assert not points[number, len(bins.points) :].any()


def test_the_record_says_how_far_expectations_are_from_the_depth(
    taught: Taught,
) -> None:
    records = [ledger.read_record(taught.store.path, shard) for shard in range(2)]

    gaps = [one.statistics["bins_gap"] for one in records if one is not None]

    assert len(gaps) == 2
    assert all(gap < 1e-4 for gap in gaps)


def test_another_codec_is_refused_by_the_name_of_its_parameter(
    taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = stored(taught.store, 0).codec
    for name, value in asdict(codec).items():
        other = (7,) if name == "attractors" else (0.5, 7.5) if name == "span" else 1.5 * value
        changed = partial(LogBinomial, **{**asdict(codec), name: other})
        monkeypatch.setattr(plan, "LogBinomial", lambda make=changed, **_: make())

        with pytest.raises(StaleStoreError, match=rf"codecs\.bins\.{name} is "):
            teach()


class Padded(Teacher):
    """Depth follows the green channel, on a map of its own size."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        depth = 0.5 + 9 * torch.nn.functional.interpolate(rgb[:, 1:2], (10, 14))[:, 0]
        return TeacherOutput(depth, None, BICUBIC_PADDED)


def load(card: TeacherCard | str, **_: object) -> Teacher:
    card = load_teacher_card(card) if isinstance(card, str) else card
    return Padded(replace(card, mirror=False), nn.Identity(), "cpu")


def test_without_bins_depth_alone_is_stored_and_comes_to_the_frame_by_its_own_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teachers, "load_teacher", load)
    rows = make_photos(5)
    Path("params.yaml").write_text("store: {bins: false}")
    Path("weights.pt").write_bytes(b"of the toy")

    done, again = (teach() for _ in range(2))

    assert (done.written, again.written, again.kept) == (5, 0, 5)
    store = open_store(done.path)
    assert store.info.rule == BICUBIC_PADDED
    assert not store.info.has_bins
    for number, row in enumerate(rows):
        out = load(TEACHER).predict(read_image(rows, number)[None])
        expected = out.depth_in_frame(row.height, row.width)[0]
        np.testing.assert_allclose(store.native_depth(number), out.depth[0], rtol=1.001e-3)
        np.testing.assert_allclose(store.depth(number), expected, rtol=0, atol=0.02)
        assert np.array_equal(store.depth(number, (2, 3, 4, 5)), store.depth(number)[2:6, 3:8])
