"""Several processes that train one network, started and watched by Ray Train."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdpipe.errors import KdpipeError, TrainingError
from kdpipe.training.interrupt import interruptible
from kdpipe.training.team import Team

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 80 << 20
"""Ray's least: only settings and results go through it."""

_SECONDS = 0.2
"""Between two looks whether Ctrl-C was pressed."""


def train_together(
    work: Callable[[Mapping[str, Any], Team], object],
    wish: Mapping[str, object],
    *,
    trainers: int,
    on_gpu: bool,
) -> None:
    """Runs the same work in several processes that torch has joined; one GPU each, or one core.

    All of them start in this process's folder, so on several machines it lies on a shared disk.
    A cluster that `RAY_ADDRESS` names is joined; else one is started here and ended again.

    Args:
        work: a function of a module, called with `wish` and the process's place.
        wish: can be pickled.
        trainers: how many processes.
        on_gpu: whether each needs a GPU.

    Raises:
        KdpipeError: what stopped the work.
        TrainingError: Ray does not start, or a process died.
        KeyboardInterrupt: after the state is saved; asked for twice, it is that of before.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="kdpipe-", dir="/tmp", ignore_cleanup_errors=True)
        )
        stack.callback(_stop)
        _start(trainers, Path(folder) / "ray")
        stop = Path.cwd() / f".kdpipe-stop-{os.getpid()}"
        stack.callback(stop.unlink, missing_ok=True)
        trainer = TorchTrainer(
            _one,
            train_loop_config={"work": work, "wish": dict(wish), "stop": str(stop)},
            scaling_config=ScalingConfig(num_workers=trainers, use_gpu=on_gpu),
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            run_config=RunConfig(
                storage_path=f"{folder}/results", failure_config=FailureConfig(max_failures=0)
            ),
        )
        try:
            _wait(trainer.fit, stop)
        except ray.train.WorkerGroupError as error:
            raise _known(list(error.worker_failures.values()), error) from error
        except ray.train.ControllerError as error:
            raise _known([error.controller_failure], error) from error


def _start(trainers: int, folder: Path) -> None:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" not in os.environ:
        options |= {
            "address": "local",
            "num_cpus": trainers + 1,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": str(folder),
        }
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"Ray does not start ({reason}), expected for --trainers {trainers}: check "
            "RAY_ADDRESS, or train in this process with --trainers 1"
        ) from error
    with contextlib.suppress(ValueError):  # another thread than the main one
        signal.signal(signal.SIGTERM, handler)  # Ray's own would leave without cleaning up


def _stop() -> None:
    import ray

    ray.shutdown()


def _one(config: dict[str, Any]) -> None:
    """What each process does."""
    stop = Path(config["stop"])
    os.chdir(stop.parent)
    with contextlib.suppress(KeyboardInterrupt):  # the command itself says so
        config["work"](config["wish"], Team.here(stop))


def _wait(fit: Callable[[], object], stop: Path) -> None:
    """Runs Ray's loop beside this thread, whose Ctrl-C it would take for its own."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            fit()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with interruptible() as interrupt:
        thread.start()
        while thread.is_alive():
            thread.join(_SECONDS)
            if interrupt.is_set() and not stop.exists():
                stop.touch()
    if failed:
        raise failed[0]
    if interrupt.is_set():
        raise KeyboardInterrupt


def _known(failures: list[Exception], error: Exception) -> KdpipeError:
    """The first error of ours, which is one line; else one that says what happened."""
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, KdpipeError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    reason = " ".join(str(failures[0] if failures else error).split())[-300:]
    return TrainingError(
        f"a trainer stopped ({reason}), expected all to reach the end: the same command goes on "
        "from the last checkpoint"
    )
