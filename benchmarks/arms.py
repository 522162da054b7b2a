"""What distillation is worth: three arms, equal steps, each arm's learning rate tuned alike.

Every arm gets the same small search (one seed, judged on the validation split), then all seeds with
its best rate, judged on the test split. Run it in a project whose teacher and stores are finished
(`make demo`); it writes below `artifacts/arms/`.

    python benchmarks/arms.py --seeds 3 --rates 2.5e-3 5e-3 1e-2 -o benchmarks/results/rooms.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

METRICS = ("abs_rel", "rmse", "delta1")


@dataclass(frozen=True)
class Arm:
    """One column of the comparison."""

    name: str
    flags: tuple[str, ...]
    run: str


def arms(params: dict[str, Any]) -> list[Arm]:
    """Labels only; distilled; distilled with the unlabelled images too."""
    data, aux, method = params["data"][0], params["aux"][0], params["methods"][0]
    teacher, student = params["teachers"][0], params["students"][0]
    common = ("--data", data, "--student", student)
    taught = (*common, "--teacher", teacher, "--method", method)
    end = f"{teacher}_{student}_{method}"
    return [
        Arm("labels only", (*common, "--method", "none"), f"{data}_none_{student}_none"),
        Arm(f"{method}, labelled images", taught, f"{data}_{end}"),
        Arm(f"{method}, + {aux}", (*taught, "--aux", aux), f"{data}+{aux}_{end}"),
    ]


def workspace(params: dict[str, Any], rate: float) -> Path:
    """A folder with the same inputs, its own students, and this learning rate."""
    folder = Path("artifacts/arms") / f"{rate:g}"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    for part in ("data", "rows", "teachers", "stores"):
        link = folder / "artifacts" / part
        if not link.exists():
            link.symlink_to(Path("artifacts", part).resolve())
    if Path("manifests").is_dir() and not (folder / "manifests").exists():
        (folder / "manifests").symlink_to(Path("manifests").resolve())
    student = params["students"][0]
    own = {**params, "distill": {student: {**params["distill"][student], "learning_rate": rate}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(own))
    return folder


def kdpipe(folder: Path, *arguments: str) -> None:
    """Runs one command; its progress goes to the terminal."""
    start = [sys.executable, "-c", "from kdpipe_stages.cli import main; main()"]
    subprocess.run([*start, *arguments], cwd=folder, check=True)


def distil(folder: Path, arm: Arm, seed: int) -> Path:
    """Trains one student and gives its folder."""
    kdpipe(folder, "distill", *arm.flags, "--seed", str(seed))
    return folder / "artifacts/students" / f"{arm.run}_s{seed}"


def judge(folder: Path, run: str) -> dict[str, float]:
    """Metrics of a run on the test split."""
    kdpipe(folder, "evaluate", "--run", run)
    (path,) = (folder / "artifacts/evaluations" / run).glob("*-test-*.json")
    read: dict[str, float] = json.loads(path.read_text())["metrics"]
    return read


def main() -> None:
    """Searches, trains, judges, prints the table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[2.5e-3, 5e-3, 1e-2])
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    params = yaml.safe_load(Path("params.yaml").read_text())

    results = []
    for arm in arms(params):
        search = {}
        for rate in asked.rates:
            run = distil(workspace(params, rate), arm, 0)
            search[rate] = json.loads((run / "metrics.json").read_text())["abs_rel"]
        best = min(search, key=lambda rate: search[rate])
        folder = workspace(params, best)
        found = [judge(folder, distil(folder, arm, s).name) for s in range(asked.seeds)]
        results.append({"arm": arm.name, "search": search, "rate": best, "seeds": found})

    print("| arm | learning rate | AbsRel | RMSE [m] | δ1 |")
    print("|---|--:|--:|--:|--:|")
    for one in results:
        cells = []
        for metric in METRICS:
            values = [seed[metric] for seed in one["seeds"]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
        print(f"| {one['arm']} | {one['rate']:g} | {' | '.join(cells)} |")
    if asked.output:
        student = params["students"][0]
        asked.output.write_text(
            json.dumps({"distill": params["distill"][student], "arms": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
