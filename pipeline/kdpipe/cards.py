"""Cards: what a data set, a teacher, a student or a method is, one YAML file each.

YAML holds values, never code. A card is found in `--manifests DIR`, else in `./manifests`, else in
the copy that the wheel carries; the first that has it wins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from kdpipe.errors import CardError, UnknownNameError

T = TypeVar("T")
Kind = Literal["data", "teachers", "students", "methods"]


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

    learning_rate: float
    """Highest learning rate of the one-cycle schedule."""

    encoder_learning_rate_factor: float = 1.0
    """The encoder's learning rate is this times the other's."""

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    cycle_momentum: tuple[float, float] | None = None
    """(low, high) of AdamW's first beta, moved against the learning rate; None: constant."""

    start_division: float = 25.0
    """The schedule starts at learning_rate / this."""

    end_division: float = 100.0
    """The schedule ends at its start / this."""

    warm_up: float = 0.3
    """Part of the steps in which the learning rate rises."""

    clip_gradient_norm: float = 35.0
    losses: Mapping[str, float] = field(default_factory=lambda: {"silog": 1.0})
    """Loss -> weight."""

    rotation: float = 0.0
    """Largest rotation of the augmentation [degrees]."""


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

    bins: Literal["none", "companded"] = "none"
    """The kind of probability map it gives (design: `companded` is a free softmax)."""

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
    width: float = 1.0
    """Scales the decoder's channels; 1 is the published network."""

    head: Literal["dpm", "regression"] = "dpm"
    """`dpm`: softmax over fixed uniform bins; `regression`: sigmoid times the largest depth."""

    encoder_weights: str | None = None
    """A checkpoint for the encoder, relative to the working folder; None: random."""

    fit: FitRecipe
    about: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.width <= 4:
            raise CardError(f"students/{self.name}: width must be in (0, 4], got {self.width}")


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

    options: Mapping[str, object] = field(default_factory=dict)
    """Of the losses, e.g. `sigma` and `dpm_mode` of tie-kd; checked by losses/."""

    rotate_teacher: bool = True
    """False repeats TIE-KD's published pipeline, which turns image and truth but not the teacher's
    map."""

    about: Mapping[str, object] = field(default_factory=dict)


_KINDS: dict[Kind, type] = {
    "data": DataCard,
    "teachers": TeacherCard,
    "students": StudentCard,
    "methods": MethodCard,
}


def digest_of(value: object) -> str:
    """Twelve hex digits of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def card_folders(manifests: Path | None = None) -> list[Path]:
    """Folders that are searched for cards, first wins."""
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
    return card


def read_yaml(path: Path) -> object:
    """Reads a YAML file of plain values.

    Raises:
        CardError: it is missing or no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CardError(f"{path} is missing: run kdpipe in the project's folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise CardError(f"{path} is no YAML: {line}") from error


def build(kind: type[T], values: object, where: str) -> T:
    """Makes a dataclass from plain values: unknown key, missing key, wrong type are refused.

    Args:
        kind: a dataclass of plain types, literals, tuples, mappings or other dataclasses.
        values: what YAML or JSON gave.
        where: file, and section, for the message.

    Raises:
        CardError: names `where`, the key, what was found and what was expected.
    """
    if not isinstance(values, Mapping):
        raise CardError(f"{where}: found {values!r}, expected keys and values")
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    for key in values:
        if key not in known:
            raise CardError(f"{where}: unknown key {key!r}. Known: {', '.join(sorted(known))}.")
    for name, one in known.items():
        required = one.default is one.default_factory  # both are MISSING
        if required and name not in values:
            raise CardError(f"{where}: key {name!r} is missing ({_say(hints[name])})")
    checked = {k: _convert(hints[k], v, f"{where}: {k}") for k, v in values.items()}
    return cast("T", kind(**checked))


def _convert(hint: Any, value: object, where: str) -> object:
    wrong = CardError(f"{where}: found {value!r}, expected {_say(hint)}")
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        rest = [a for a in args if a is not NoneType]
        return _convert(rest[0], value, where)
    if origin is Literal:
        if value not in args:
            raise wrong
        return value
    if is_dataclass(hint):
        return build(cast("type", hint), value, where)
    if origin is tuple:
        kinds = args[:1] * len(value) if args[-1] is ... and isinstance(value, list) else args
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise wrong
        return tuple(_convert(a, v, where) for a, v in zip(kinds, value, strict=True))
    if origin is not None:  # Mapping[str, X]
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise wrong
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is object:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            raise wrong from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise wrong
    return value


def _say(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join("nothing" if a is NoneType else _say(a) for a in args)
    if get_origin(hint) is tuple:
        return "a list of " + ", ".join("…" if a is ... else _say(a) for a in args)
    if get_origin(hint) is not None or is_dataclass(hint):
        return "keys and values"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, "a value")
