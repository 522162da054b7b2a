"""The cards of networks, teachers and students, and how they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from kdpipe.errors import CardError
from kdpipe.strict import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRecipe:
    """How a network is trained on labels: the published optimiser settings of its family."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    """`adam` adds the decay to the gradient, as weight decay was before AdamW."""

    learning_rate: float
    """The highest of the schedule."""

    encoder_learning_rate_factor: float = 1.0
    """The encoder's learning rate is this times the other's."""

    learning_rate_factors: Mapping[str, float] = field(default_factory=dict)
    """Part of a parameter's name -> its factor, the encoder's own aside; the first that is in."""

    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = ()
    """Parameters with one of these in their name have no weight decay."""

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    """Added to the root of the second moment."""

    cycle_momentum: tuple[float, float] | None = None
    """(low, high) of AdamW's first beta, moved against the learning rate; None: constant."""

    schedule: Literal["one-cycle", "cosine", "polynomial", "quarters"] = "one-cycle"
    """`cosine`: falls from the first step, under a straight warm-up; `polynomial`: the power 0.9 of
    what is left of the steps; `quarters`: a tenth of it in each further quarter of the steps."""

    start_division: float = 25.0
    """`one-cycle` and `cosine` start at learning_rate / this."""

    end_division: float = 100.0
    """`one-cycle` ends at its start / this, `cosine` and `polynomial` at learning_rate / this."""

    warm_up: float = 0.3
    """Part of the steps in which `one-cycle` rises, or `cosine` is held down."""

    clip_gradient_norm: float | None = 35.0
    """Longest gradient; None: any."""

    losses: Mapping[str, float] = field(default_factory=lambda: {"silog": 1.0})
    """Loss -> weight."""

    nearest_truth: float = 0.0
    """Truth that is nearer does not count in the losses [m]."""

    rotation: float = 0.0
    """Largest rotation of the augmentation [degrees]."""

    start_at_data: bool = False
    """Before the first step the head predicts how often each depth occurs in the train split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCard:
    """What decides a teacher's output. Nothing that only decides its speed belongs here."""

    name: str
    """Also the card's file name, and the name of the stores it writes."""

    family: str
    """The file that knows the network: teachers/<family>.py."""

    network: Mapping[str, object] = field(default_factory=dict)
    """The family's own sizes (encoder, widths, patch size); checked by the family."""

    min_depth: float = 1e-3
    """[m]"""

    max_depth: float = 10.0
    """[m]"""

    input_size: tuple[int, int] | None = None
    """(H, W) in pixels that the network sees; None: the frame as it is."""

    mirror: bool = False
    """Average the depth with that of the mirrored image; never the bins."""

    bins: Literal["none", "companded", "log-binomial"] = "none"
    """The kind of probability map it gives: `companded` is a free softmax, `log-binomial` is made
    of two numbers a pixel."""

    weights_sha256: str | None = None
    """Of the checkpoint, checked before it is loaded; None: recorded at first use."""

    fit: FitRecipe | None = None
    """How its weights are trained here; None: only published or given weights."""

    revision: int = 1
    """Raise it by hand when teachers/<family>.py changes the numbers it returns."""

    about: Mapping[str, object] = field(default_factory=dict)
    """Paper, licence, training data, where the weights are published; not in the fingerprint."""

    def __post_init__(self) -> None:
        if self.input_size is not None and any(side <= 0 or side % 32 for side in self.input_size):
            raise CardError(
                f"teachers/{self.name}: input_size must be positive multiples of 32, "
                f"got {self.input_size}"
            )
        if not 0 < self.min_depth < self.max_depth:
            raise CardError(
                f"teachers/{self.name}: 0 < min_depth < max_depth expected, "
                f"got {self.min_depth} and {self.max_depth}"
            )
        if self.kind not in ("metric", "affine-invariant"):
            raise CardError(
                f"teachers/{self.name}: about.kind: found {self.kind!r}, expected metric or "
                "affine-invariant"
            )

    @property
    def kind(self) -> str:
        """`metric`, or `affine-invariant`: right but for an unknown scale and shift."""
        return str(self.about.get("kind", "metric"))

    @property
    def is_metric(self) -> bool:
        """Whether its depth is in metres."""
        return self.kind == "metric"

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change whenever a cached depth would."""
        return digest_of({k: v for k, v in asdict(self).items() if k not in ("about", "fit")})


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentCard:
    """A student network and its published training recipe."""

    name: str
    family: str
    """The file that knows the network: students/<family>.py."""

    encoder: str = "mobilenetv2"
    """mobilenetv2, resnet18 or resnet50, as published; else a network of timm's."""

    width: float = 1.0
    """Scales the decoder's channels; 1 is the published network."""

    encoder_width: float = 1.0
    """Scales the encoder's channels, to multiples of 8; 1 is the published network."""

    encoder_stride: Literal[8, 16, 32] | None = None
    """Of the encoder's deepest map; 16 halves the cost of mobilenetv2, whose published stride is a
    dilated 8. None: the network's own."""

    output_stride: Literal[1, 2] = 1
    """2: the head works at half the input's size, a quarter of the cost of its bins, and depth is
    resized; 1, as published, at the input's size."""

    head: Literal["dpm", "regression"] = "dpm"
    """`dpm`: softmax over fixed uniform bins; `regression`: sigmoid times the largest depth."""

    decoder_norm: bool = False
    """Batch normalisation before each ReLU of the decoder. Published without; from random weights
    up to two fifths of such a decoder's units were found dead (benchmarks/results/matrix.md)."""

    encoder_weights: str | None = None
    """A checkpoint for the encoder, relative to the working folder, or `imagenet` for timm's; None:
    random."""

    fit: FitRecipe
    about: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("width", "encoder_width"):
            if not 0 < getattr(self, key) <= 4:
                raise CardError(
                    f"students/{self.name}: {key} must be in (0, 4], got {getattr(self, key)}"
                )
