"""The command line as a stranger types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = (
    "index",
    "fit",
    "teach",
    "audit",
    "distill",
    "evaluate",
    "report",
    "predict",
    "export",
    "list",
)


def kdpipe(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from kdpipe_stages.cli import main; main()", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_help_names_every_command_and_loads_nothing_heavy(tmp_path: Path) -> None:
    shown = kdpipe("--help", folder=tmp_path)
    heavy = "import sys, kdpipe, kdpipe_stages.cli; print([m for m in {} if m in sys.modules])"
    names = ["torch", "ray", "timm", "zarr", "numpy", "pyarrow", "dask", "matplotlib", "yaml"]
    loaded = subprocess.run(
        [sys.executable, "-c", heavy.format(names)], capture_output=True, text=True, check=True
    )

    assert shown.returncode == 0
    assert [c for c in COMMANDS if f" {c} " not in shown.stdout] == []
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    shown = kdpipe(command, "--help", folder=tmp_path)

    assert shown.returncode == 0
    assert "--json" in shown.stdout


def test_wrong_usage_exits_2(tmp_path: Path) -> None:
    assert kdpipe("teach", "--colour", "red", folder=tmp_path).returncode == 2
    assert kdpipe("teech", folder=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["index", "--data", "nyy"], "nyu"),
        (["fit", "--teacher", "adabin", "--data", "rooms"], "adabins-small"),
        (["teach", "--teacher", "adabin", "--data", "rooms"], "adabins-small"),
        (["audit", "--teacher", "adabin", "--data", "rooms"], "adabins-small"),
        (["distill", "--student", "mobilnet", "--method", "none"], "mobilenetv2-small"),
        (["distill", "--method", "tie"], "tie-kd"),
        (["evaluate", "--teacher", "adabin", "--data", "rooms"], "adabins-small"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    arguments: list[str], known: str, tmp_path: Path
) -> None:
    ended = kdpipe(*arguments, folder=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.startswith("kdpipe: ")
    assert known in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout
    assert not (tmp_path / "artifacts").exists()


def test_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    listed = json.loads(kdpipe("list", "--json", folder=tmp_path).stdout)

    assert "tie-kd" in listed["methods"]


def test_a_wrong_type_in_params_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seeds: zero\n")

    ended = kdpipe("distill", "--method", "none", folder=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr == (
        "kdpipe: params.yaml: seeds: found 'zero', expected a list of a whole number, …\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_exits_130(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    running = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time, kdpipe_stages.cli as cli, kdpipe.cards as cards\n"
            "cards.card_names = lambda *_: print('up', flush=True) or time.sleep(600)\n"
            "cli.main()",
            "list",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.send_signal(number)
    _, error = running.communicate(timeout=300)

    assert running.returncode == 130
    assert error.startswith("kdpipe: interrupted")
