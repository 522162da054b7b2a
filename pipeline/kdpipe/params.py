"""params.yaml, section by section, into dataclasses: what an experiment is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from kdpipe.errors import CardError
from kdpipe.strict import build, read_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreParams:
    """How a teacher's output is kept."""

    shard_rows: int = 256
    """Images in one shard, the unit of work of one writer."""

    max_relative_error: float = 1e-3
    """Promised bound of the stored depth."""

    bins: bool = True
    """Keep the bin probabilities too, where the teacher gives them."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In which the teacher computes; less than fp32 is automatic mixed precision, for GPUs."""

    root: str | None = None
    """Where stores live, s3://bucket/prefix; None: artifacts/stores."""

    def __post_init__(self) -> None:
        _check("store.shard_rows", self.shard_rows, 1, 65536)
        _check("store.max_relative_error", self.max_relative_error, 1e-5, 0.1)
        if self.root is not None and not re.match("s3://[^/]", self.root):
            raise CardError(
                f"params.yaml: store.root must be s3://bucket/prefix, got {self.root!r}: leave it "
                "out for artifacts/stores"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainParams:
    """One training: of a teacher (`fit`) or of a student (`distill`)."""

    height: int = 144
    """Pixels of a training image; also what a student sees later."""

    width: int = 192
    batch_size: int = 8
    """Images of one forward pass."""

    accumulate: int = 1
    """Forward passes whose gradients are added before the optimiser steps: a batch has batch_size x
    accumulate images."""

    steps: int = 1000
    """Optimiser steps, the same for every arm."""

    validate_every: int = 250
    """Steps between two validations and two checkpoints: one epoch in the log."""

    learning_rate: float | None = None
    """Highest learning rate; None: the card's."""

    precision: str = "fp32"
    """`fp32`, or automatic mixed precision: `bf16`, or `fp16` with a scaled loss, for CUDA."""

    ema: float | None = None
    """Of each step, so much of the averaged weights stays; these are then validated and kept."""

    compile: bool = False
    """Let torch compile the network: minutes at the start, then faster on a GPU."""

    flip: float = 0.5
    """Probability of mirroring a training image."""

    scale: tuple[float, float] = (1.0, 1.3)
    """Smallest and largest zoom of a training image, before the crop."""

    colour: float = 0.2
    """Largest relative change of gamma, brightness and each channel."""

    gamma_range: Literal[1, 255] = 1
    """What gamma takes white for: 1 as BTS, AdaBins and ZoeDepth, or 255 as TIE-KD's published
    code, where a gamma of 0.9 darkens white to 147."""

    encoder_weights: str | None = None
    """A checkpoint for the encoder, or `imagenet` for the one timm publishes, fetched from the hub;
    used where the card names none. None: random."""

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            side = getattr(self, name)
            if side < 32 or side % 16:
                raise CardError(f"params.yaml: {name} must be a multiple of 16, >= 32, got {side}")
        _check("batch_size", self.batch_size, 1, 4096)
        _check("accumulate", self.accumulate, 1, 4096)
        _check("steps", self.steps, 1, 10**9)
        _check("validate_every", self.validate_every, 1, 10**9)
        _check("flip", self.flip, 0, 1)
        _check("colour", self.colour, 0, 0.9)
        if self.learning_rate is not None:
            _check("learning_rate", self.learning_rate, 1e-12, 1e30)
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise CardError(
                f"params.yaml: scale must be two rising zooms in [0.1, 10], got {list(self.scale)}"
            )
        if self.ema is not None:
            _check("ema", self.ema, 0, 0.999999)
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise CardError(
                f"params.yaml: precision must be fp32, bf16 or fp16, got {self.precision!r}"
            )

    @property
    def identity(self) -> Mapping[str, object]:
        """What decides a training's result; what came later is left out where it is not used, so
        that earlier trainings stay finished."""
        later = {"accumulate": 1, "ema": None, "compile": False, "gamma_range": 1}
        return {k: v for k, v in asdict(self).items() if k not in later or v != later[k]}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateParams:
    """On what students and teachers are judged."""

    split: str = "test"
    mirror: bool = False
    """Average with the mirrored image (students only; a store is judged as it is)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """All of params.yaml."""

    data: tuple[str, ...] = ("rooms",)
    aux: tuple[str, ...] = ("rooms-pool",)
    """Unlabelled data sets the teacher runs over as well."""

    teachers: tuple[str, ...] = ("adabins-small",)
    students: tuple[str, ...] = ("mobilenetv2-small",)
    methods: tuple[str, ...] = ("tie-kd-corrected",)
    """Beside `none`, the labels-only baseline, which always runs."""

    seeds: tuple[int, ...] = (0,)
    store: StoreParams = field(default_factory=StoreParams)
    fit: Mapping[str, TrainParams] = field(default_factory=dict)
    """Teacher -> its training; a teacher that is not named takes the defaults."""

    distill: Mapping[str, TrainParams] = field(default_factory=dict)
    """Student -> its training, so that changing one student's runs only that student again."""

    evaluate: EvaluateParams = field(default_factory=EvaluateParams)

    def __post_init__(self) -> None:
        for name in ("data", "teachers", "students", "methods", "seeds"):
            if not getattr(self, name):  # the first is what a command without flags takes
                raise CardError(f"params.yaml: {name} is empty, expected at least one: add it")
        _check("seeds", min(self.seeds), 0, 2**63 - 1)

    def fit_of(self, teacher: str) -> TrainParams:
        """The training of a teacher."""
        return self.fit.get(teacher, TrainParams())

    def distill_of(self, student: str) -> TrainParams:
        """The training of a student."""
        return self.distill.get(student, TrainParams())


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Reads params.yaml; all defaults where there is no such file, or an empty one.

    Raises:
        CardError: an unknown key, a wrong type, a value out of range.
    """
    if not path.exists() and not path.is_symlink():
        return Params()
    values = read_yaml(path)
    return build(Params, {} if values is None else values, str(path))


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise CardError(f"params.yaml: {name} must be in [{low:g}, {high:g}], got {value:g}")
