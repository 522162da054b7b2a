"""Every path below `artifacts/`, and every name inside a store: composed here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdpipe.errors import UnknownNameError
from kdpipe.params import load_params
from kdpipe.store.s3 import S3Path, location

ARTIFACTS = Path("artifacts")
FORMAT = 1
"""Of the store."""


def data_dir(data: str) -> Path:
    """Files that kdpipe itself makes for a data set (rooms)."""
    return ARTIFACTS / "data" / data


def rows_path(data: str) -> Path:
    """What `index` writes."""
    return ARTIFACTS / "rows" / f"{data}.parquet"


def teacher_dir(data: str, teacher: str) -> Path:
    """What `fit` writes: checkpoints, log, pictures and weights.json."""
    return ARTIFACTS / "teachers" / data / teacher


def weights_path(data: str, teacher: str) -> Path:
    """Names a fitted or found checkpoint and its digest."""
    return teacher_dir(data, teacher) / "weights.json"


def store_path(data: str, teacher: str) -> Path:
    """What `teach` writes, below artifacts/stores or where params.yaml says."""
    root = load_params().store.root
    folder = ARTIFACTS / "stores" if root is None else location(root)
    return folder / data / f"{teacher}.zarr"


def all_stores() -> list[Path]:
    """Stores that there are: on a disk those of any state, on S3 those with a manifest here."""
    if not isinstance(store_path("D", "T"), S3Path):
        return sorted(ARTIFACTS.glob("stores/*/*.zarr"))
    named = (store_path(one.parent.name, one.stem) for one in ARTIFACTS.glob("stores/*/*.json"))
    return sorted(one for one in named if one.is_dir())


def manifest_path(data: str, teacher: str) -> Path:
    """The small, deterministic file that DVC tracks of a store."""
    return ARTIFACTS / "stores" / data / f"{teacher}.json"


def audit_path(data: str, teacher: str) -> Path:
    """Summary of `audit`; the rows are beside it as .parquet."""
    return ARTIFACTS / "audit" / data / f"{teacher}.json"


def student_dir(run: str) -> Path:
    """What `distill` writes."""
    return ARTIFACTS / "students" / run


def find_student(run: str) -> Path:
    """The folder of a run, by its name below artifacts/students or by its own path.

    Raises:
        UnknownNameError: there is no such folder.
    """
    folder = student_dir("any").parent
    known = [path.name for path in folder.glob("*") if path.is_dir()]
    if run in known:
        return folder / run
    if Path(run).is_dir():
        return Path(run)
    raise UnknownNameError(str(folder), run, known)


def evaluation_path(
    run: str, data: str, split: str, protocol: str, *, mirror: bool = False
) -> Path:
    """Summary of `evaluate`; the rows are beside it as .parquet.

    Args:
        run: of a student, or a teacher's `teacher_run`.
        data: on which it is judged.
        split: of the rows.
        protocol: by which.
        mirror: averaged with mirrored images: another number, so another file.
    """
    name = f"{data}-{split}-{protocol}{'-mirror' if mirror else ''}.json"
    return ARTIFACTS / "evaluations" / run / name


def report_dir() -> Path:
    """What `report` writes."""
    return ARTIFACTS / "report"


MIX_TAGS = ("u", "u-prime")
"""Of the mixes that a run's name must tell from the usual one, see training/mixes.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What names a distillation: D[+aux][@mix][@ratio]_T[+T2]_S_M_s<seed>."""

    data: str
    aux: tuple[str, ...] = ()
    mix: str = ""
    """Of MIX_TAGS, where it is not the usual one: all of `data`, with `aux` where that is given."""

    ratio: float | None = None
    """Share of `aux` in a batch; None: as large as it is."""

    teacher: str = "none"
    """Several are joined by '+'."""

    student: str
    method: str
    seed: int = 0

    @property
    def name(self) -> str:
        """The folder's name."""
        more = "".join(f"+{one}" for one in self.aux)
        parts = (f"{self.data}{more}{self._mixed}", self.teacher, self.student, self.method)
        return "_".join((*parts, f"s{self.seed}"))

    @property
    def aux_said(self) -> str:
        """The further data sets and how they are mixed in, in one word; `none` without any."""
        return f"{'+'.join(self.aux)}{self._mixed}" or "none"

    @property
    def _mixed(self) -> str:
        share = "" if self.ratio is None else f"@{self.ratio!r}"
        return (f"@{self.mix}" if self.mix else "") + share


def teacher_run(data: str, teacher: str) -> str:
    """RUN of a teacher's own evaluation."""
    return f"{data}_{teacher}"


def parse_run(name: str) -> Run | None:
    """What `Run.name` says; None where it is no such name."""
    parts = name.rsplit("_", 4)
    if len(parts) != 5 or not parts[4].startswith("s") or not parts[4][1:].isdecimal():
        return None
    names, *mixed = parts[0].split("@")
    data, *aux = names.split("+")
    mix = mixed.pop(0) if mixed and mixed[0] in MIX_TAGS else ""
    try:
        ratio = float(mixed.pop(0)) if mixed else None
    except ValueError:
        return None
    if mixed:
        return None
    return Run(
        data=data,
        aux=tuple(aux),
        mix=mix,
        ratio=ratio,
        teacher=parts[1],
        student=parts[2],
        method=parts[3],
        seed=int(parts[4][1:]),
    )


ATTRIBUTES = "kdpipe"
"""Key of a store's own attributes in the root's zarr.json."""

DEPTH = "depth"
BIN_CODES = "bins/codes"
BIN_EDGES = "bins/edges"
BIN_PAIR = "bins/pair"
BIN_POINTS = "bins/points"
EXTENT = "extent"
EXTENT_FIELDS = ("height", "width", "frame_height", "frame_width", "top", "left", "focal")
"""Columns of `extent`: native size, frame size, place of the frame in the file [pixels], and the
horizontal focal length in the frame [pixels], 0 where unknown. Height 0: the row has no depth."""


def metadata_path(store: Path, node: str = "") -> Path:
    """zarr.json of the root group, of a group or of an array."""
    return store / node / "zarr.json"


def shard_path(store: Path, array: str, shard: int, dimensions: int) -> Path:
    """The file of one shard of an array of so many dimensions, chunk keys joined by dots."""
    return store / array / shard_name(shard, dimensions)


def shard_name(shard: int, dimensions: int) -> str:
    """The last part of `shard_path`."""
    return f"c.{shard}{'.0' * (dimensions - 1)}"


def record_path(store: Path, shard: int) -> Path:
    """The ledger record that makes a shard count."""
    return store / "ledger" / record_name(shard)


def record_name(shard: int) -> str:
    """The last part of `record_path`."""
    return f"{shard:07d}.json"


def consolidated_path(store: Path) -> Path:
    """All records of a complete store in one file."""
    return store / "ledger" / "consolidated.parquet"


def claim_path(store: Path, shard: int, generation: int) -> Path:
    """An exclusive claim; a broken claim's successor has the next generation."""
    return store / "claims" / f"{shard:07d}.{generation}.json"


def work_dir(store: Path, shard: int, token: str) -> Path:
    """Where the owner of a claim lets a shard's files grow until they are whole."""
    return store / "work" / f"{shard:07d}.{token}"


def work_dirs(store: Path, shard: int) -> list[Path]:
    """The same of whoever ever owned the shard, and was killed."""
    return sorted((store / "work").glob(f"{shard:07d}.*"))
