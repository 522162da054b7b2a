"""A toy project in a temporary folder: eight small images, stores and students of real format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from kdpipe.cards import DataCard, load_student_card, load_teacher_card
from kdpipe.codecs import Companded, Log16, LogBinomial
from kdpipe.datasets.files import digest_of
from kdpipe.nets.log_binomial import LogBinomialBins
from kdpipe.rows import Row, Rows, make_rows, write_rows
from kdpipe.store import layout
from kdpipe.store.claims import Claim
from kdpipe.store.identity import identity_of
from kdpipe.store.ledger import Record
from kdpipe.store.metadata import StoreInfo, formats, write_info
from kdpipe.store.writer import ShardWriter
from kdpipe.students import build_network, save_student
from kdpipe.teachers.base import Bins, TeacherOutput
from kdpipe.teaching.encoding import Encoder

if TYPE_CHECKING:
    from kdpipe.types import Depth

TEACHER = "adabins-small"
STUDENT = "mobilenetv2-small"
COMPANDED = Companded()


class ToyProject:
    """Data set `toy`: train 0-2, test 3-7; image 6 has no valid truth, image 7 none at all."""

    height, width = 32, 48
    card = DataCard(name="toy", family="folder", domain="nyu", min_depth=0.1)
    run = layout.Run(data="toy", teacher=TEACHER, student=STUDENT, method="tie-kd", seed=1)
    baseline = layout.Run(data="toy", student=STUDENT, method="none", seed=1)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        rows = []
        (folder / "toy").mkdir()
        for number in range(8):
            image = rng.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
            file = folder / "toy" / f"{number}.png"
            Image.fromarray(image).save(file)
            truth = self.truth_of(number) if number < 6 else np.zeros((self.height, self.width))
            depth_mm = (truth * 1000).round().astype(np.uint16)
            Image.fromarray(depth_mm).save(folder / "toy" / f"{number}_depth.png")
            rows.append(
                Row(
                    id=str(number),
                    split="train" if number < 3 else "test",
                    image=f"{number}.png",
                    truth=f"{number}_depth.png" if number < 7 else None,
                    truth_scale=1e-3,
                    image_height=self.height,
                    image_width=self.width,
                    height=self.height,
                    width=self.width,
                    image_digest=digest_of(file.read_bytes()),
                )
            )
        self.rows: Rows = make_rows(self.card, Path("toy"), rows)
        write_rows(layout.rows_path("toy"), self.rows)

    def truth_of(self, number: int) -> Depth:
        """Metres (H, W): a ramp, 1 m further with each image; the left column is unknown."""
        depth = np.linspace(1, 3, self.width)[None].repeat(self.height, 0) + number
        depth[:, 0] = 0
        return depth.astype(np.float32)

    def add_student(self, run: layout.Run, *, vivid: bool = False, bins: str = "nyu") -> Path:
        """A run's folder with a random student; if `vivid`, its depth follows the image."""
        torch.manual_seed(run.seed)
        card = load_student_card(run.student)
        network = build_network(card, bins_domain=bins)
        if vivid:
            with torch.no_grad():
                network.get_parameter("decode_head.conv_out.0.weight").mul_(3000)
        folder = layout.student_dir(run.name)
        save_student(folder, network, card, bins, (self.height, self.width))
        return folder

    def add_store(
        self,
        *,
        factor: float = 1.1,
        bad: Sequence[int] = (),
        taught: int = 8,
        bins: Companded | LogBinomial = COMPANDED,
        teacher: str = TEACHER,
    ) -> tuple[Path, StoreInfo]:
        """A store whose depth is the ramp times `factor`, at half size; bins agree with it.

        Args:
            factor: of the teacher's error.
            bad: rows whose image could not be read.
            taught: rows that are finished, a multiple of the 4 of a shard.
            bins: what keeps the bins, of which there are 16.
            teacher: the card that it is said to be of.
        """
        path = layout.store_path("toy", teacher)
        native = (self.height // 2, self.width // 2)
        identity = identity_of(
            load_teacher_card(teacher),
            self.card,
            weights={"sha256": "0" * 64, "source": "fitted"},
            rule="bilinear-align-corners",
            codecs={"depth": Log16(near=0.05, far=20.0), "bins": bins},
            shard_rows=4,
        )
        kept = bins if isinstance(bins, LogBinomial) else 16
        info = StoreInfo(identity=identity, rows=8, arrays=formats(native, kept))
        write_info(path, info)
        for start in range(0, taught, 4):
            self._write_shard(path, info, start, factor, bad)
        return path, info

    def _write_shard(
        self, path: Path, info: StoreInfo, start: int, factor: float, bad: Sequence[int]
    ) -> None:
        numbers, names = range(start, start + 4), [one.name for one in info.arrays]
        claim = Claim.take(path, start // 4, "toy")
        with ShardWriter(info, claim) as writer:
            encoder = Encoder(info, writer)
            for number in numbers:
                if number in bad:
                    encoder.put_bad(number, self.rows[number])
                else:
                    out = self.say(number, factor, two_parameters="bins/pair" in names)
                    encoder.put([(number, self.rows[number])], out)
            writer.commit(
                Record(
                    store=info.digest,
                    shard=start // 4,
                    start=start,
                    stop=start + 4,
                    row_digest=self.rows.digest(start, start + 4),
                    ids=tuple(self.rows[number].id for number in numbers),
                    arrays={},
                    statistics=encoder.statistics(),
                    bad={str(number): "torn JPEG" for number in numbers if number in bad},
                    environment={"seconds": 2.5, "forward_seconds": 2.0},
                )
            )
        claim.release()

    def say(self, number: int, factor: float, *, two_parameters: bool = False) -> TeacherOutput:
        """The teacher's depth and 16 bins of 1 m, of which two or about three share each pixel."""
        h, w = self.height // 2, self.width // 2
        ramp = np.linspace(1, 3, w, dtype=np.float32)[None].repeat(h, 0) + number
        depth = torch.from_numpy(factor * ramp)[None]
        place = depth - 0.5
        if two_parameters:
            seeds = (0.5 + torch.arange(16.0)).view(1, 16, 1, 1).expand(1, 16, h // 4, w // 4)
            nothing_draws = torch.full((1, 1, h // 2, w // 2), 1e6)
            p, temperature = place / 15, torch.full_like(place, 0.2)
            two = LogBinomialBins(p, temperature, seeds, (nothing_draws,))
            return TeacherOutput(depth=depth, bins=two)
        below = place.floor().long()
        share = (place - below)[:, None]
        probabilities = torch.zeros(1, 16, h, w)
        probabilities.scatter_(1, below[:, None], 1 - share)
        probabilities.scatter_(1, below[:, None] + 1, share)
        bins = Bins(edges=torch.linspace(0, 16, 17)[None], softmax=probabilities)
        return TeacherOutput(depth=depth, bins=bins)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    """The toy project, as working folder."""
    monkeypatch.chdir(tmp_path)
    return ToyProject(tmp_path)
