"""One ZoeDepth, three sets of names: the official file's, transformers', the hub's older ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Layout: TypeAlias = Mapping[str, tuple[str, ...]]
"""Official name -> names in a network that holds transformers' as `model`, joined along the first
axis; () for a constant, which it does not hold. In the order of the official file."""

_MODEL = "model."
_CORE = "core.core."
_BEIT = _CORE + "pretrained.model."
_UNUSED = ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
"""The encoder's ImageNet classifier, never read; the network holds it as `unused`."""

_INDEX = "attn.relative_position_index"
_STEPS = "log_binomial_transform.k_idx"
_LAST_STEP = "log_binomial_transform.K_minus_1"

_OLDER = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^backbone\.(embeddings|encoder)\.", r"backbone.beit.\1."),
        (r"^backbone\.beit\.encoder\.layer\.", "backbone.beit.layers."),
        (r"\.attention\.attention\.(relative_position_bias)\.", r".\1."),
        (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        (r"^(backbone\..*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
        (r"^(backbone\..*)\.output\.dense\.", r"\1.mlp.fc2."),
    )
)
"""What files of transformers before 5 call the encoder's entries, which the hub still has."""


def layout_of(
    blocks: int, levels: int, domains: Sequence[str], *, classifier: bool = True
) -> Layout:
    """Every entry of the official file.

    Args:
        blocks: of the encoder.
        levels: of attractors.
        domains: names of the heads; none: a model with one head, whose entries have no such name.
        classifier: whether the encoder's is there.
    """
    pairs = [*_encoder(blocks)]
    found = {name: tuple(_MODEL + part for part in parts) for name, parts in pairs}
    if classifier:
        found |= {_BEIT + leaf: (f"unused.{leaf}",) for leaf in _UNUSED}
    pairs = [*_decoder(), *_head(levels, domains)]
    return found | {name: tuple(_MODEL + part for part in parts) for name, parts in pairs}


def is_unused(name: str) -> bool:
    """Whether the forward pass never reads an official entry."""
    constant = name.endswith((_INDEX, _STEPS, _LAST_STEP))
    return constant or name in {_BEIT + leaf for leaf in _UNUSED}


def to_official(
    state: Mapping[str, Tensor], layout: Layout, *, side: int, bins: int
) -> dict[str, Tensor]:
    """A network's own entries by their official names, with the constants.

    Args:
        state: by the names of the layout's right side.
        layout: of the network.
        side: of the square of patches that the tables of relative positions are for.
        bins: of a head.
    """
    index = relative_position_index(side).to(next(iter(state.values())).device)
    found: dict[str, Tensor] = {}
    for name, parts in layout.items():
        if len(parts) == 1:
            found[name] = state[parts[0]]
        elif parts:
            found[name] = torch.cat([state[part] for part in parts])
        elif name.endswith(_INDEX):
            found[name] = index
        elif name.endswith(_STEPS):
            found[name] = torch.arange(bins, device=index.device).view(1, -1, 1, 1)
        else:
            found[name] = torch.full((1, 1, 1, 1), bins - 1.0, device=index.device)
    return found


def from_official(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Official entries by a network's own names; constants are left out, other names stay."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = layout.get(name, (name,))
        if parts:
            found |= dict(zip(parts, value.chunk(len(parts)), strict=True))
    return found


def from_transformers(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """A state dict of transformers, of any of its releases, by official names.

    What the layout does not have, or cannot be joined, keeps its name: a strict check then says so.
    """
    left = {_MODEL + _newest(name): value for name, value in state.items()}
    found: dict[str, Tensor] = {}
    for name, parts in layout.items():
        values = [left[part] for part in parts if part in left]
        if values and len(values) == len(parts) and len({v.shape[1:] for v in values}) == 1:
            found[name] = values[0] if len(values) == 1 else torch.cat(values)
            for part in parts:
                del left[part]
    constants = ("relative_position_index", "k_idx", "k_minus_1")
    return found | {
        name.removeprefix(_MODEL): value
        for name, value in left.items()
        if not name.endswith(constants)
    }


def starting_from(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official entries of a network that starts from another one's encoder.

    Args:
        state: of timm's BEiT, of MiDaS' relative network around it, or of a whole ZoeDepth, each by
            its own names.
        own: the network's official entries, kept where `state` may lack them: outside the encoder.
    """
    known = (part for part in (_BEIT, _CORE) if any(part + name in own for name in state))
    prefix = next(known, "")
    kept = {name: value for name, value in own.items() if not name.startswith(_BEIT)}
    return {**kept, **{prefix + name: value for name, value in state.items()}}


def relative_position_index(side: int) -> Tensor:
    """Which row of a block's table each pair of tokens reads (side**2 + 1, side**2 + 1).

    The table has a row for each offset between two of side x side patches, then one each for class
    token to patch, patch to class token, and class token to itself.
    """
    span = 2 * side - 1
    place = torch.arange(side * side, device="cpu")
    y, x = place // side, place % side
    index = torch.empty(side * side + 1, side * side + 1, dtype=torch.int64, device="cpu")
    index[1:, 1:] = (y[:, None] - y + side - 1) * span + x[:, None] - x + side - 1
    index[0, :], index[:, 0], index[0, 0] = span**2, span**2 + 1, span**2 + 2
    return index


Pair: TypeAlias = tuple[str, tuple[str, ...]]


def _both(official: str, *theirs: str) -> Iterator[Pair]:
    for leaf in ("weight", "bias"):
        yield f"{official}.{leaf}", tuple(f"{name}.{leaf}" for name in theirs)


def _mlp(official: str, theirs: str) -> Iterator[Pair]:
    """Two 1x1 convolutions with an activation between them."""
    yield from _both(f"{official}._net.0", f"{theirs}.conv1")
    yield from _both(f"{official}._net.2", f"{theirs}.conv2")


def _encoder(blocks: int) -> Iterator[Pair]:
    theirs = "backbone.beit.embeddings"
    yield f"{_BEIT}cls_token", (f"{theirs}.cls_token",)
    yield from _both(f"{_BEIT}patch_embed.proj", f"{theirs}.patch_embeddings.projection")
    for number in range(blocks):
        yield from _block(f"{_BEIT}blocks.{number}", f"backbone.beit.layers.{number}")


def _decoder() -> Iterator[Pair]:
    for number in range(4):
        ours, stage = f"core.core.pretrained.act_postprocess{number + 1}", "neck.reassemble_stage"
        yield from _both(f"{ours}.0.project.0", f"{stage}.readout_projects.{number}.0")
        yield from _both(f"{ours}.3", f"{stage}.layers.{number}.projection")
        if number != 2:  # the third map keeps its size
            yield from _both(f"{ours}.4", f"{stage}.layers.{number}.resize")
    scratch = "core.core.scratch"
    for number in range(4):
        yield f"{scratch}.layer{number + 1}_rn.weight", (f"neck.convs.{number}.weight",)
    for number in range(4):
        ours, layer = f"{scratch}.refinenet{number + 1}", f"neck.fusion_stage.layers.{3 - number}"
        yield from _both(f"{ours}.out_conv", f"{layer}.projection")
        for unit in (1, 2):
            for conv in (1, 2):
                yield from _both(
                    f"{ours}.resConfUnit{unit}.conv{conv}",
                    f"{layer}.residual_layer{unit}.convolution{conv}",
                )
    for number in range(3):
        yield from _both(f"{scratch}.output_conv.{2 * number}", f"relative_head.conv{number + 1}")


def _block(ours: str, theirs: str) -> Iterator[Pair]:
    bias, attention = f"{theirs}.relative_position_bias", f"{theirs}.attention"
    yield f"{ours}.gamma_1", (f"{theirs}.lambda_1",)
    yield f"{ours}.gamma_2", (f"{theirs}.lambda_2",)
    yield from _both(f"{ours}.norm1", f"{theirs}.layernorm_before")
    yield f"{ours}.attn.q_bias", (f"{attention}.q_proj.bias",)
    yield f"{ours}.attn.v_bias", (f"{attention}.v_proj.bias",)
    yield f"{ours}.attn.relative_position_bias_table", (f"{bias}.relative_position_bias_table",)
    yield f"{ours}.{_INDEX}", ()
    yield f"{ours}.attn.qkv.weight", tuple(f"{attention}.{one}_proj.weight" for one in "qkv")
    yield from _both(f"{ours}.attn.proj", f"{attention}.o_proj")
    yield from _both(f"{ours}.norm2", f"{theirs}.layernorm_after")
    yield from _both(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1")
    yield from _both(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")


def _head(levels: int, domains: Sequence[str]) -> Iterator[Pair]:
    theirs = "metric_head"
    names: Iterable[str] = [f".{name}" for name in domains] or [""]
    yield from _both("conv2", f"{theirs}.conv2")
    if domains:
        yield from _router(theirs)
    for name in names:
        ours = f"seed_bin_regressor{'s' if domains else ''}{name}"
        yield from _mlp(ours, f"{theirs}.{ours}")
    yield from _mlp("seed_projector", f"{theirs}.seed_projector")
    for level in range(levels):
        yield from _mlp(f"projectors.{level}", f"{theirs}.projectors.{level}")
    for name in names:
        for level in range(levels):
            yield from _mlp(f"attractors{name}.{level}", f"{theirs}.attractors{name}.{level}")
    for name in names:
        ours = f"conditional_log_binomial{name}"
        yield f"{ours}.{_STEPS}", ()
        yield f"{ours}.{_LAST_STEP}", ()
        for number in (0, 2):
            yield from _both(f"{ours}.mlp.{number}", f"{theirs}.{ours}.mlp.{number}")


def _router(theirs: str) -> Iterator[Pair]:
    for number in range(4):
        ours = f"patch_transformer.transformer_encoder.layers.{number}"
        layer = f"{theirs}.patch_transformer.transformer_encoder.{number}"
        for leaf in ("weight", "bias"):
            parts = tuple(f"{layer}.self_attn.{one}.{leaf}" for one in ("query", "key", "value"))
            yield f"{ours}.self_attn.in_proj_{leaf}", parts
        for name in ("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2"):
            yield from _both(f"{ours}.{name}", f"{layer}.{name}")
    convolution = "patch_transformer.embedding_convPxP"
    yield from _both(convolution, f"{theirs}.{convolution}")
    for number in (0, 1):
        yield from _both(
            f"mlp_classifier.{2 * number}", f"{theirs}.mlp_classifier.linear{number + 1}"
        )


def _newest(name: str) -> str:
    for pattern, newer in _OLDER:
        name = pattern.sub(newer, name)
    return name
