"""Cards: what a data set, a teacher, a student or a method is, one YAML file each.

YAML holds values, never code. A card is found in `--manifests DIR`, else in `./manifests`, else in
the copy that the wheel carries; the first that has it wins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from kdpipe.errors import CardError, UnknownNameError
from kdpipe.strict import build, digest_of, read_yaml

logger = logging.getLogger(__name__)

Join: TypeAlias = Literal["log-mean", "mean"]
Confidence: TypeAlias = Literal["none", "entropy", "disagreement"]
Kind = Literal["data", "teachers", "students", "methods"]

_ENDINGS = {"nyu": ("n", "nyu", "resnet34"), "kitti": ("k", "kitti")}
"""Domain -> how a family's card for it ends, best first; Hu et al.'s only network is indoor."""

_ANY = ("nk", "nyu", "resnet34")
"""The same for other domains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """What a data set is: where its files are, and how its depth is judged."""

    name: str
    """Also the card's file name, and the name of its rows and stores."""

    family: str
    """The file that knows the layout: datasets/<family>.py."""

    domain: Literal["rooms", "nyu", "kitti", "any"]
    """Decides a teacher family's card and a student's bins; `any`: images of any scene."""

    root: str | None = None
    """Folder of the files, relative to the working folder; None: `--root`, or the environment
    variable <DOMAIN>_DIR (NYU_DIR, KITTI_DIR)."""

    lists: Mapping[str, str] = field(default_factory=dict)
    """Split -> list file, relative to `root`, where the family reads lists."""

    min_depth: float = 1e-3
    """Smallest depth that counts [m]."""

    max_depth: float = 10.0
    """Largest depth that counts [m]."""

    protocol: str = "none"
    """The evaluation protocol of metrics/protocols.py."""

    crop: Literal["none", "kitti-benchmark"] = "none"
    """The frame inside the image: `kitti-benchmark` is the 352x1216 KB crop."""

    options: Mapping[str, object] = field(default_factory=dict)
    """What only this family knows, e.g. the number of rendered rooms; checked by the family."""

    about: Mapping[str, object] = field(default_factory=dict)
    """Source, licence, paper: for people and the report."""

    def __post_init__(self) -> None:
        if not 0 < self.min_depth < self.max_depth:
            raise CardError(
                f"data/{self.name}: 0 < min_depth < max_depth expected, "
                f"got {self.min_depth} and {self.max_depth}"
            )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCard:
    """A distillation method: losses and their weights, no code."""

    name: str
    teacher: bool
    """Whether it reads a teacher's store; False: labels only."""

    truth: Mapping[str, float] = field(default_factory=dict)
    """Loss against the measured depth -> weight, on rows that have it."""

    distillation: Mapping[str, float] = field(default_factory=dict)
    """Loss against the teacher's stored depth -> weight, on all rows."""

    truth_share: float | None = None
    """On a labelled row the losses against truth weigh this and the teacher's the rest to 1, on an
    unlabelled one the teacher's weigh 1. None: both weigh 1 on all rows that have them."""

    options: Mapping[str, object] = field(default_factory=dict)
    """Of the losses, e.g. `sigma` and `dpm_mode` of tie-kd; checked by losses/."""

    rotate_teacher: bool = True
    """False repeats TIE-KD's published pipeline, which turns image and truth but not the teacher's
    map."""

    join: Join = "log-mean"
    """Of several teachers, at each pixel over those that know it: the mean of depth, or of its
    logarithm. Their distributions are mixed."""

    weigh_teachers: Literal["equally", "inverse-variance"] = "equally"
    """`inverse-variance`: by how far each is from measured depth."""

    teacher_weights: Mapping[str, float] = field(default_factory=dict)
    """Teacher -> weight, with the sum 1, instead."""

    confidence: Confidence = "none"
    """How much a pixel of the teacher's counts: `entropy`: 1 less that of its bins, by the largest;
    `disagreement`: the smallest of several teachers' depths by the largest."""

    confidence_threshold: float | None = None
    """Pixels below do not count and all others do; None: confidence is their weight."""

    about: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_weights()
        self._check_confidence()
        if self.truth_share is None:
            return
        if not 0 <= self.truth_share <= 1 or not (self.truth and self.distillation):
            raise CardError(
                f"methods/{self.name}: truth_share in [0, 1] expected, and losses under truth and "
                f"distillation to share, got {self.truth_share:g}"
            )

    def _check_weights(self) -> None:
        weights = self.teacher_weights.values()
        if not weights:
            return
        if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
            raise CardError(
                f"methods/{self.name}: teacher_weights {dict(self.teacher_weights)} found, numbers "
                "from 0 with the sum 1 expected"
            )
        if self.weigh_teachers != "equally":
            raise CardError(
                f"methods/{self.name}: teacher_weights and weigh_teachers: {self.weigh_teachers} "
                "found, one of the two expected: leave one out"
            )

    def _check_confidence(self) -> None:
        threshold = self.confidence_threshold
        if self.confidence != "none" and not self.distillation:
            raise CardError(
                f"methods/{self.name}: confidence is of a teacher, found no loss under distillation"
            )
        if threshold is not None and (self.confidence == "none" or not 0 < threshold <= 1):
            raise CardError(
                f"methods/{self.name}: confidence_threshold {threshold:g} found, expected one in "
                "(0, 1] beside confidence: entropy or disagreement"
            )


_KINDS: dict[Kind, type] = {
    "data": DataCard,
    "teachers": TeacherCard,
    "students": StudentCard,
    "methods": MethodCard,
}


def card_folders(manifests: Path | None = None) -> list[Path]:
    """Folders that are searched for cards, first wins.

    Raises:
        CardError: `manifests` is given and is no folder.
    """
    if manifests is not None and not manifests.is_dir():
        raise CardError(f"{manifests} is no folder of cards: pass --manifests FOLDER, or none")
    package = Path(__file__).parent
    wheel, checkout = package / "manifests", package.parents[1] / "manifests"
    own = [manifests] if manifests is not None else [Path("manifests")]
    return [folder for folder in [*own, wheel, checkout] if folder.is_dir()]


def card_names(kind: Kind, manifests: Path | None = None) -> list[str]:
    """Names of all cards of a kind, sorted."""
    return sorted({p.stem for f in card_folders(manifests) for p in (f / kind).glob("*.yaml")})


def find_card(kind: Kind, name: str, manifests: Path | None = None) -> Path:
    """Finds the file of a card.

    Raises:
        UnknownNameError: there is none of this name.
    """
    known = card_names(kind, manifests)
    if name not in known:  # also keeps a name with a slash from leaving the folder
        raise UnknownNameError(f"manifests/{kind}", name, known)
    return next(p for f in card_folders(manifests) if (p := f / kind / f"{name}.yaml").is_file())


def load_data(name: str, manifests: Path | None = None) -> DataCard:
    """Loads manifests/data/<name>.yaml."""
    return cast("DataCard", _load("data", name, manifests))


def load_teacher_card(name: str, manifests: Path | None = None) -> TeacherCard:
    """Loads manifests/teachers/<name>.yaml."""
    return cast("TeacherCard", _load("teachers", name, manifests))


def resolve_teacher(name: str, domain: str, manifests: Path | None = None) -> str:
    """A teacher's card, also by its family's name: the card for a data set's domain.

    Args:
        name: a card, or what a family's cards begin with (`zoedepth`).
        domain: of the data set.
        manifests: folder of the cards.

    Raises:
        UnknownNameError: neither a card, nor a family with a card for the domain.
    """
    known = card_names("teachers", manifests)
    if name in known:
        return name
    for ending in _ENDINGS.get(domain, _ANY):
        if (resolved := f"{name}-{ending}") in known:
            logger.info("teacher %s is %s for images of domain %r", name, resolved, domain)
            return resolved
    family = [one for one in known if one.startswith(f"{name}-")]
    lacks = f"no card of {name!r} for images of domain {domain!r}" if family else ""
    raise UnknownNameError("manifests/teachers", name, family or known, lacks)


def load_student_card(name: str, manifests: Path | None = None) -> StudentCard:
    """Loads manifests/students/<name>.yaml."""
    return cast("StudentCard", _load("students", name, manifests))


def load_method(name: str, manifests: Path | None = None) -> MethodCard:
    """Loads manifests/methods/<name>.yaml."""
    return cast("MethodCard", _load("methods", name, manifests))


def _load(kind: Kind, name: str, manifests: Path | None) -> object:
    path = find_card(kind, name, manifests)
    card: Any = build(_KINDS[kind], read_yaml(path), str(path))
    if card.name != name:
        raise CardError(f"{path}: name is {card.name!r}, expected {name!r}, as the file is called")
    if kind != "data" and {"_", "+"} & set(name):
        raise CardError(
            f"{path}: the name {name!r} holds '_' or '+', which part the names in a run's: call it "
            f"{name.replace('_', '-').replace('+', '-')!r}"
        )
    return card
