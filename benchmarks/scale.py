"""A store of a million rows: what each command costs that must not look at every one of them.

The store is written by the store's own writer, shard by shard, from a few rows encoded once: a
simulated teacher. The images are hard links to a few small ones. Each command then runs in a
process of its own; its CPU time and peak memory are what the system says of that process.

    python benchmarks/scale.py --rows 10000 1000000 -o benchmarks/results/scale.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from kdpipe.cards import load_teacher_card
from kdpipe.codecs import LogBinomial
from kdpipe.datasets.files import digest_of
from kdpipe.datasets.index import find_data
from kdpipe.params import StoreParams
from kdpipe.rows import Row, Rows, make_rows, write_rows
from kdpipe.store import layout
from kdpipe.store.claims import Claim
from kdpipe.store.disk import as_json, write_atomically
from kdpipe.store.frame import BILINEAR
from kdpipe.store.ledger import Record
from kdpipe.store.shards import Array, ArrayFormat
from kdpipe.store.writer import ShardWriter
from kdpipe.teaching import plan
from kdpipe.teaching.measuring import Measure
from kdpipe.teaching.plan import Subject
from kdpipe.teaching.weights import Weights

if TYPE_CHECKING:
    from kdpipe.store.metadata import StoreInfo

HERE = Path(__file__).resolve()
DATA, HEIGHT, WIDTH, BINS = "many", 48, 64, 64
TEACHERS = {"companded": "adabins-small", "log-binomial": "zoedepth-small"}
NATIVE = {"companded": (24, 32), "log-binomial": (32, 32)}
DIFFERENT = 8
"""Images; each row repeats one of them."""

LINKS = 50_000
"""Of one file: some disks allow 65,000."""

OPEN = """
import json, resource, sys, time
import kdpipe, kdpipe.store
from kdpipe.store import open_store
def cpu():
    return time.process_time()
began = cpu(); store = open_store(sys.argv[1]); opened = cpu() - began
began = cpu(); store.depth(len(store) // 2); first = cpu() - began
began = cpu(); done = int(store.finished.sum()); finished = cpu() - began
began = cpu(); ids = len(store.ids); named = cpu() - began
print(json.dumps({"open": opened, "first_read": first, "finished": finished, "ids": named}))
assert done == ids == len(store)
"""

LEARN = """
import json, sys, time
from kdpipe.datasets.indexed import rows_of
from kdpipe.params import TrainParams
from kdpipe.store import open_store
from kdpipe.training.augment import Augment
from kdpipe.training.samples import DistillDataset, rows_digest
began = time.process_time(); rows = rows_of("many"); read = time.process_time() - began
began = time.process_time(); data = DistillDataset(
    rows, stores=[open_store(sys.argv[1])], transform=None); made = time.process_time() - began
began = time.process_time(); rows_digest(rows); digest = time.process_time() - began
print(json.dumps({"rows": read, "dataset": made, "digest": digest}))
assert len(data) == len(rows)
"""


class Repeated(ArrayFormat):
    """Encodes a row it has seen before at once: the same object gives the same bytes."""

    seen: dict[tuple[str, int], bytes] = {}  # noqa: RUF012 - of all arrays

    def encode(self, values: Array) -> bytes:
        """See ArrayFormat."""
        key = (self.name, id(values))
        if key not in self.seen:
            self.seen[key] = super().encode(values)
        return self.seen[key]


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float
    said: str


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--kind", choices=TEACHERS, default="companded")
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="on which disk; default: the temporary one's")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--make", type=int, help="only make the data and the store, here")
    options = parser.parse_args()
    if options.make:
        make_store(make_data(options.make), TEACHERS[options.kind], options.shard_rows)
        return
    output = options.output and options.output.absolute()
    results = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            project = Path(folder, "project")
            project.mkdir()
            with chdir(project):
                results.append(look_at(rows, options.kind, options.shard_rows))
            print(json.dumps(results[-1], indent=1), flush=True)
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")


def look_at(count: int, kind: str, shard_rows: int) -> dict[str, object]:
    """Makes a store of so many rows in the working folder and runs the commands."""
    # In a process of its own: what this one needs counts as the memory of those that it starts.
    options = ["--make", str(count), "--kind", kind, "--shard-rows", str(shard_rows)]
    made = run(sys.executable, str(HERE), *options)
    teacher = TEACHERS[kind]
    path = layout.store_path(DATA, teacher)
    teach = ["teach", "--teacher", teacher, "--data", DATA, "--workers", "0", "--json"]
    costs = {"teach, the first end": kdpipe(*teach)}
    costs["teach, finished"] = kdpipe(*teach)
    assert json.loads(costs["teach, finished"].said)["kept"] == count
    costs["store verify --quick"] = kdpipe("store", "verify", "--quick", str(path))
    costs["store info"] = kdpipe("store", "info", str(path))
    costs["index, again"] = kdpipe("index", "--data", DATA, "--json")
    assert json.loads(costs["index, again"].said)["kept"] == count
    costs["reader"] = run(sys.executable, "-c", OPEN, str(path))
    costs["DistillDataset"] = run(sys.executable, "-c", LEARN, str(path))
    costs |= dvc_status(teacher)
    files = sum(len(names) for _, _, names in os.walk(path))
    return {
        "rows": count,
        "kind": kind,
        "shard_rows": shard_rows,
        "shards": -(-count // shard_rows),
        "making_cpu_seconds": round(made.cpu_seconds, 1),
        "files_per_100_images": round(100 * files / count, 3),
        "bytes_per_image": round(sum(f.stat().st_size for f in path.rglob("*.*")) / count),
        "consolidated_bytes": layout.consolidated_path(path).stat().st_size,
        "costs": {
            name: {
                "cpu_seconds": round(one.cpu_seconds, 2),
                "wall_seconds": round(one.wall_seconds, 2),
                "peak_mib": round(one.peak_mib),
            }
            for name, one in costs.items()
        },
        "reader_cpu_seconds": rounded(costs["reader"].said),
        "dataset_cpu_seconds": rounded(costs["DistillDataset"].said),
    }


def rounded(said: str) -> dict[str, float]:
    """What a program said of its own parts."""
    return {name: round(value, 4) for name, value in json.loads(said).items()}


def make_data(count: int) -> Rows:
    """Images by hard links, and the rows file as `index` leaves it."""
    card, root = find_data("folder", root=make_images(count), name=DATA)
    numbers = range(count)
    sources = [Path(f"../images/{n // LINKS}.png") for n in range(0, count, LINKS)]
    stamps = [one.stat() for one in sources]
    digests = [digest_of(one.read_bytes()) for one in sources]
    ids = [name_of(number) for number in numbers]
    one = make_rows(
        card,
        root,
        [
            Row(
                id="any",
                split="train",
                image="any.png",
                image_height=HEIGHT,
                image_width=WIDTH,
                height=HEIGHT,
                width=WIDTH,
            )
        ],
    ).table
    columns = {name: [one[name][0].as_py()] * count for name in one.column_names}
    columns |= {
        "id": ids,
        "image": [f"{one}.png" for one in ids],
        "image_digest": [digests[n // LINKS] for n in numbers],
        "bytes": [stamps[n // LINKS].st_size for n in numbers],
        "mtime_ns": [stamps[n // LINKS].st_mtime_ns for n in numbers],
    }
    rows = Rows(card, root, pa.table(columns, schema=one.schema))
    write_rows(layout.rows_path(DATA), rows)
    return rows


def name_of(number: int) -> str:
    """A row's id."""
    return f"{number // 1000:04d}/{number:07d}"


def make_images(count: int) -> Path:
    """One folder a thousand images, outside the project: DVC walks through all that lies in it."""
    rng, root = np.random.default_rng(0), Path("../photos")
    Path("../images").mkdir()
    for number in range(count):
        source = f"../images/{number // LINKS}.png"
        if number % LINKS == 0:
            Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(source)
        if number % 1000 == 0:
            (root / f"{number // 1000:04d}").mkdir(parents=True)
        os.link(source, root / f"{name_of(number)}.png")
    return root


def make_store(rows: Rows, teacher: str, shard_rows: int) -> Path:
    """All shards, as a worker would write them."""
    card = load_teacher_card(teacher)
    checkpoint = layout.teacher_dir(DATA, teacher) / "model.pt"
    write_atomically(checkpoint, b"simulated")
    sha256 = hashlib.sha256(b"simulated").hexdigest()
    noted = {
        "teacher": teacher,
        "fingerprint": card.fingerprint,
        "checkpoint": "model.pt",
        "sha256": sha256,
        "source": "fitted",
    }
    write_atomically(layout.weights_path(DATA, teacher), as_json(noted))
    Path("params.yaml").write_text(
        f"data: [{DATA}]\nteachers: [{teacher}]\nstore: {{shard_rows: {shard_rows}}}\n"
    )
    weights = Weights(path=checkpoint, sha256=sha256, source="fitted")
    subject = Subject(card=card, rows=rows, weights=weights, params=StoreParams(shard_rows=256))
    identity = subject.identity(BILINEAR, shard_rows)
    path = layout.store_path(DATA, teacher)
    seen = Measure(native=NATIVE[card.bins], bins=BINS, rule=BILINEAR)
    info = plan.create(path, identity, len(rows), seen)
    quick = replace(info, arrays=tuple(Repeated(**vars_of(one)) for one in info.arrays))
    values = [simulated(info, number) for number in range(DIFFERENT)]
    ids = rows.table["id"].to_pylist()
    for shard in range(info.shards):
        write_shard(path, quick, shard, rows, ids, values)
    return path


def vars_of(one: ArrayFormat) -> dict[str, object]:
    """Its fields."""
    names = ("name", "dtype", "shape", "dimensions", "packing")
    return {name: getattr(one, name) for name in names}


def simulated(info: StoreInfo, number: int) -> dict[str, Array]:
    """One row of every array."""
    rng = np.random.default_rng(number)
    values: dict[str, Array] = {}
    for one in info.arrays:
        smooth = np.cumsum(rng.integers(0, 2, one.shape), axis=-1)
        values[one.name] = (1 + smooth % 60).astype(one.dtype)
    height, width = info.array(layout.DEPTH).shape
    values[layout.EXTENT] = np.array([height, width, HEIGHT, WIDTH, 0, 0, 0], np.float64)
    if isinstance(info.codec("bins"), LogBinomial):
        return values
    codes = np.zeros((BINS, height, width), np.uint8)
    codes[number : number + 4] = 32  # a peak, as a trained network's
    values[layout.BIN_CODES] = codes
    values[layout.BIN_EDGES] = np.linspace(0, 10, BINS + 1, dtype=np.float32)
    return values


def write_shard(
    path: Path,
    info: StoreInfo,
    shard: int,
    rows: Rows,
    ids: list[str],
    values: list[dict[str, Array]],
) -> None:
    """From its claim to its record."""
    start, stop = info.rows_of(shard)
    claim = Claim.take(path, shard, "scale")
    try:
        with ShardWriter(info, claim) as writer:
            for number in range(start, stop):
                writer.put(number, values[number % DIFFERENT])
            writer.commit(
                Record(
                    store=info.digest,
                    shard=shard,
                    start=start,
                    stop=stop,
                    row_digest=rows.digest(start, stop),
                    ids=tuple(ids[start:stop]),
                    arrays={},
                    statistics={"nearest": 0.5, "farthest": 9.0},
                    environment={"host": "simulated", "seconds": 1.0, "batch_size": 8},
                )
            )
    finally:
        claim.release()


def dvc_status(teacher: str) -> dict[str, Cost]:
    """Of the two stages as dvc.yaml has them; and what DVC costs in a project of one small file."""
    rows, weights = layout.rows_path(DATA), layout.weights_path(DATA, teacher)
    stages = {
        "index": {
            "cmd": "false",
            "deps": ["params.yaml"],
            "outs": [{str(rows): {"cache": False, "persist": True}}],
        },
        "teach": {
            "cmd": "false",
            "deps": [str(rows), str(weights)],
            "outs": [{str(layout.manifest_path(DATA, teacher)): {"cache": False}}],
        },
    }
    costs = {}
    small = Path("small")
    small.mkdir()
    (small / "in").write_text("1")
    (small / "out").write_text("2")
    one = {"one": {"cmd": "false", "deps": ["in"], "outs": [{"out": {"cache": False}}]}}
    for folder, what in ((small, one), (Path(), stages)):
        with chdir(folder):
            Path("dvc.yaml").write_text(json.dumps({"stages": what}))
            dvc("init", "--no-scm")
            costs[f"dvc commit{' of two small files' if folder == small else ''}"] = dvc(
                "commit", "--force"
            )
            cost = dvc("status")
            assert "up to date" in cost.said, cost.said
            costs[f"dvc status{' of two small files' if folder == small else ''}"] = cost
    return costs


def kdpipe(*arguments: str) -> Cost:
    """One command."""
    return run(sys.executable, "-c", "from kdpipe_stages.cli import main; main()", *arguments)


def dvc(*arguments: str) -> Cost:
    """One command of DVC's."""
    return run(sys.executable, "-m", "dvc", *arguments)


def run(*arguments: str) -> Cost:
    """Runs a process to its end.

    Raises:
        RuntimeError: it failed.
    """
    environment: Mapping[str, str] = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(arguments, stdout=said, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}: {text}")
    return Cost(
        cpu_seconds=used.ru_utime + used.ru_stime,
        wall_seconds=time.perf_counter() - began,
        peak_mib=used.ru_maxrss / 1024,
        said=text,
    )


if __name__ == "__main__":
    main()
