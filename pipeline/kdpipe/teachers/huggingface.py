"""Any model for depth estimation that transformers has: Depth Anything, DPT, GLPN, Depth Pro, …

A card names it at the hub, and says its configuration, so that the network can be made without its
files. Files win where there are some: architecture and preprocessing are those of the model's own
config.json and preprocessor_config.json.

Relative models (`kind: affine-invariant`) give what they give, a disparity without unit or zero.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import logging
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kdpipe.errors import CardError, CheckpointError
from kdpipe.nets import checkpoint
from kdpipe.nets.hub_network import HubNetwork, HubOutput
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.strict import build as build_checked
from kdpipe.teachers import hub
from kdpipe.teachers.base import (
    BICUBIC,
    BILINEAR_EDGES,
    BILINEAR_INVERSE,
    RULE,
    Teacher,
    TeacherOutput,
)
from kdpipe.teachers.weights import digest_of

if TYPE_CHECKING:
    from kdpipe.cards import TeacherCard

logger = logging.getLogger(__name__)

make_torchvision_importable()  # before transformers looks for it
_hf: Any = importlib.import_module("transformers")  # half of it has no types

RENAMES: tuple[tuple[str, str], ...] = ()
"""transformers knows the older names of its models' entries."""

_OWN = {"trust_remote_code": False, "local_files_only": True}
"""Only a model's own files, and as data."""

_STRICTLY = {
    "weights_only": True,
    "dtype": torch.float32,
    "ignore_mismatched_sizes": True,  # they are in the loading info, and refused
    "output_loading_info": True,
}

_ELSEWHERE = {
    "zoedepth": "its bins are read by the family zoedepth: take one of its cards",
    "prompt_depth_anything": "it needs a measured depth beside each image",
}
"""Models that an image alone, or this family, does not serve."""

_RULES = {"depth_pro": BILINEAR_INVERSE, "chmv2": RULE, "tipsv2_dpt": BILINEAR_EDGES}
"""Model type -> how its own image processor brings a map to the frame
(`post_process_depth_estimation` of transformers 5.23); all others: BICUBIC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A card's `network:`."""

    hub: str | None = None
    """`owner/model` at the Hugging Face hub, or a folder of save_pretrained."""

    revision: str | None = None
    """Commit or tag at the hub; None: what is cached, else the newest."""

    config: Mapping[str, object] = field(default_factory=dict)
    """As in the model's config.json, with `model_type`: makes the network where there is none."""

    processor: Mapping[str, object] = field(default_factory=dict)
    """As in its preprocessor_config.json, with `image_processor_type`."""

    override: Mapping[str, object] = field(default_factory=dict)
    """Entries of config.json that are wrong at the hub."""


class HubTeacher(Teacher):
    """Lifts metric depth to the card's smallest; a relative map stays as it is, and one whose
    inverse is still to be mixed: the frame's depth ends where its rule says."""

    def look(self, rgb: Tensor, focal: Tensor | None) -> TeacherOutput:
        """One pass; `focal` is not read."""
        network = cast("HubNetwork", self.network)
        depth = cast("HubOutput", network(rgb)).depth
        rule = _RULES.get(network.config.model_type, BICUBIC)
        if self.card.is_metric and rule != BILINEAR_INVERSE:
            depth = depth.clamp(min=self.card.min_depth)
        return TeacherOutput(depth, rule=rule)


def build(card: TeacherCard) -> HubNetwork:
    """The card's network with random weights.

    Raises:
        CardError: its `network:` has an unknown key, a wrong type or a value out of range.
        CheckpointError: it says no configuration, and the hub's cannot be had.
    """
    said, where = _said(card), f"teachers/{card.name}: network"
    if not said.config:
        folder = _find(card, said)
        with _file_errors(folder):
            config, processor = _of_files(card, said, folder)
            return HubNetwork(_hf.AutoModelForDepthEstimation.from_config(config), processor)
    with _card_errors(f"{where}.config"):
        config = _config(said.config, f"{where}.config")
        _overrule(config, said.override, where)
        _check(card, config)
        model = _hf.AutoModelForDepthEstimation.from_config(config)
    return HubNetwork(model, _processor(said.processor, f"{where}.processor"))


def load_network(card: TeacherCard, path: Path) -> nn.Module:
    """The card's network with the weights of a folder of save_pretrained, or of a checkpoint.

    Raises:
        CardError: as `build`, or the card and the model's files say different things.
        CheckpointError: as `load_state`, or entries are missing or left over.
    """
    if path.is_dir():
        return _from_folder(card, path)
    if path.suffix == ".safetensors":
        _check_digest(card, path)
        with _file_errors(path):
            state = load_file(path)
    else:
        state = checkpoint.read_state(path, sha256=card.weights_sha256)
    with torch.device("meta"):
        made = build(card)
    with _file_errors(path):
        model, info = type(made.model).from_pretrained(
            None, config=made.config, state_dict=state, **_STRICTLY
        )
    looks = checkpoint.looks_like(state)
    return _whole(HubNetwork(model, made.processor), info, path, looks)


def make_teacher(
    card: TeacherCard, network: nn.Module, device: str, mirror: bool | None
) -> Teacher:
    """The card's network, with weights, as a teacher."""
    return HubTeacher(card, network, device, mirror)


def _said(card: TeacherCard) -> Model:
    said = build_checked(Model, card.network, f"teachers/{card.name}: network")
    if said.hub is None and not said.config:
        raise CardError(
            f"teachers/{card.name}: network: found neither hub nor config, expected one of them"
        )
    if said.config and not said.processor:
        raise CardError(f"teachers/{card.name}: network: key 'processor' is missing beside config")
    return said


def _find(card: TeacherCard, said: Model) -> Path:
    folder = hub.find(str(said.hub), said.revision)
    if folder is None:
        raise CheckpointError(f"{card.name}: {said.hub} is not here")
    hub.files_of(folder)
    return folder


def _of_files(card: TeacherCard, said: Model, folder: Path) -> tuple[Any, Any]:
    """Configuration and image processor of a model's folder."""
    config = _hf.AutoConfig.from_pretrained(folder, **_OWN)
    _overrule(config, said.override, f"teachers/{card.name}: network")
    _check(card, config)
    return config, _hf.AutoImageProcessor.from_pretrained(folder, **_OWN)


def _check_digest(card: TeacherCard, path: Path) -> None:
    expected = card.weights_sha256
    if expected is not None and (found := digest_of(path)) != expected.lower():
        raise CheckpointError(
            f"{path} has SHA-256 {found[:16]}…, its card says {expected[:16].lower()}…: take the "
            "card of this model, or the model of this card"
        )


def _from_folder(card: TeacherCard, folder: Path) -> HubNetwork:
    hub.files_of(folder)
    _check_digest(card, folder)
    said = _said(card)
    with _file_errors(folder):
        config, processor = _of_files(card, said, folder)
        model, info = _hf.AutoModelForDepthEstimation.from_pretrained(
            folder,
            config=config,
            **_OWN,
            **_STRICTLY,
        )
    _compare(said.config, config, folder)
    return _whole(HubNetwork(model, processor), info, folder)


def _config(values: Mapping[str, object], where: str) -> Any:
    """A configuration of transformers; unknown keys are refused, also in nested ones."""
    held: dict[str, Any] = copy.deepcopy(dict(values))
    kind = held.pop("model_type", None)
    if kind not in _hf.CONFIG_MAPPING:
        raise CardError(f"{where}: model_type: found {kind!r}, expected one that transformers has")
    made = _hf.CONFIG_MAPPING[kind]
    known = {one.name.lstrip("_") for one in dataclasses.fields(made)}  # _out_indices is a property
    for key, value in held.items():
        if key not in known:
            raise CardError(f"{where}: unknown key {key!r}. Known: {', '.join(sorted(known))}.")
        if isinstance(value, Mapping) and "model_type" in value:
            held[key] = _config(value, f"{where}.{key}")
    return made(**held)


def _overrule(config: Any, override: Mapping[str, object], where: str) -> None:
    for key, value in override.items():
        if not hasattr(config, key):
            raise CardError(f"{where}.override: config.json has no {key!r}")
        setattr(config, key, value)


def _check(card: TeacherCard, config: Any) -> None:
    """Refuses a model this family does not serve, and a card that calls it what it is not."""
    kind = config.model_type
    if kind in _ELSEWHERE:
        raise CardError(f"teachers/{card.name}: {kind}: {_ELSEWHERE[kind]}")
    if type(config) not in _hf.MODEL_FOR_DEPTH_ESTIMATION_MAPPING:
        raise CardError(
            f"teachers/{card.name}: {kind} is no model for depth estimation of transformers "
            f"{_hf.__version__}"
        )
    metric = {
        "glpn": True,
        "depth_anything": getattr(config, "depth_estimation_type", None) == "metric",
        "depth_pro": bool(getattr(config, "use_fov_model", False)),
    }.get(kind)
    if metric is not None and metric != card.is_metric:
        says = "metric" if metric else "affine-invariant"
        raise CardError(
            f"teachers/{card.name}: about.kind: found {card.kind!r}, the model's own configuration "
            f"says {says!r}: take the card of this model"
        )


def _compare(said: Mapping[str, object], config: Any, path: Path) -> None:
    """Says where the card's configuration, which was not used, is not the files'."""
    for key, value in said.items():
        own = getattr(config, key, None)
        if isinstance(value, Mapping):
            _compare(value, own, path)
        elif key != "model_type" and _plain(own) != _plain(value):
            logger.warning("%s: %s is %r, not %r as in the card", path, key, own, value)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _processor(values: Mapping[str, object], where: str) -> Any:
    held = dict(values)
    name = held.pop("image_processor_type", None)
    made: Any = getattr(_hf, str(name), None)
    if not isinstance(made, type) or not issubclass(made, _hf.BaseImageProcessor):
        raise CardError(
            f"{where}: image_processor_type: found {name!r}, expected one that transformers has"
        )
    known = set(cast("Any", made).valid_kwargs.__annotations__)
    for key in held:
        if key not in known:
            raise CardError(f"{where}: unknown key {key!r}. Known: {', '.join(sorted(known))}.")
    return made(**copy.deepcopy(held))


def _whole(network: HubNetwork, info: Mapping[str, Any], path: Path, looks: str = "") -> HubNetwork:
    """The network, if what transformers says of its loading leaves no gap."""
    problems = []
    for what, keys in (
        ("missing", info["missing_keys"]),
        ("left over", info["unexpected_keys"]),
        ("of another shape", [one[0] for one in info["mismatched_keys"]]),
    ):
        names = sorted(key for key in keys if not network.is_unused(key))
        if names:
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            problems.append(f"{len(names)} {what}: {shown}")
    if problems:
        raise CheckpointError(
            f"{path} holds another network than its configuration says: {'; '.join(problems)}. "
            f"{looks}Check that card and file belong together"
        )
    return network


@contextlib.contextmanager
def _card_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (StrictDataclassError, ValueError, TypeError, AttributeError) as error:
        raise CardError(f"{where}: {_line(error)}") from error


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """One line for what transformers raises; and none of its own reports and bars."""
    log = _hf.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} would run code when loaded and was refused, expected tensors only: take "
            "safetensors, from a source you trust"
        ) from error
    except (
        SafetensorError,
        StrictDataclassError,
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be loaded ({_line(error)}), expected a model of transformers "
            f"{_hf.__version__}: download it again"
        ) from error
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
