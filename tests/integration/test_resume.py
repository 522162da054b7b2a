"""A training that is killed at any moment ends as if it had not been."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from kdpipe.rows import Rows
from kdpipe import distill
from kdpipe.params import Params, TrainParams

STUDENT = "mobilenetv2-small"
RUN = f"artifacts/students/tiny_none_{STUDENT}_none_s0"
STEPS = 12

SHORT = TrainParams(height=32, width=48, batch_size=2, steps=STEPS, validate_every=2)
PARAMS = Params(distill={STUDENT: SHORT})

PROGRAM = f"""
import sys
import time
from pathlib import Path
import torch
from kdpipe import distill
from kdpipe.params import Params, TrainParams
from kdpipe.training import checkpoint

torch.set_num_threads(1)
keep, validations = checkpoint.save_best, []

def keep_and_wait(*given):
    keep(*given)
    validations.append(1)
    if len(validations) == 2:  # the steps since the first one are in no checkpoint yet
        print("on its way", flush=True)
        while not Path("go on").exists():
            time.sleep(0.01)

checkpoint.save_best = keep_and_wait
try:
    params = Params(distill={{"{STUDENT}": {SHORT!r}}})
    distill.run("{STUDENT}", "tiny", params=params, device="cpu")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are the same bit for bit only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGKILL, -signal.SIGKILL, id="kill-9", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, id="ctrl-c"),
    ],
)
def test_a_killed_run_ends_with_the_same_weights(
    make_tiny: Callable[..., Rows],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    number: int,
    status: int,
) -> None:
    make_tiny()
    process = start(tmp_path)
    assert process.stdout is not None
    said = process.stdout.readline()
    process.send_signal(number)
    (tmp_path / "go on").touch()
    _, err = process.communicate(timeout=300)
    assert (said, process.returncode) == ("on its way\n", status), err
    assert list((tmp_path / RUN / "checkpoints").glob("step-*.json"))
    assert not (tmp_path / RUN / "model.safetensors").exists()

    with caplog.at_level("INFO", "kdpipe"):
        resumed = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")

    assert f"going on from step {2 if number == signal.SIGKILL else 4}" in caplog.text
    curve = (tmp_path / RUN / "dvclive/plots/metrics/train/loss.tsv").read_bytes()
    (tmp_path / RUN).rename(tmp_path / "resumed")
    whole = distill.run(STUDENT, "tiny", params=PARAMS, device="cpu")
    assert (resumed.finished, resumed.metrics) == (True, whole.metrics)
    assert (tmp_path / RUN / "dvclive/plots/metrics/train/loss.tsv").read_bytes() == curve
    one, other = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "resumed", tmp_path / RUN)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
