"""ZoeDepth's network: a relative-depth network and a metric head of attracted bins.

The modules are those of `transformers.ZoeDepthForDepthEstimation`, run part by part: its own
forward returns neither bins nor router, and sends a whole batch to one head. The state dict has
the official names and shapes, so what is saved here loads in the official code, and the other way
round.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdpipe.nets import zoedepth_names as names
from kdpipe.nets.checkpoint import load_state, read_state
from kdpipe.nets.encoders import Normalise
from kdpipe.nets.log_binomial import LogBinomialBins, Span, pair_of
from kdpipe.nets.torchvision_shim import make_torchvision_importable
from kdpipe.nets.transformers_folder import read_config, read_weights
from kdpipe.nets.zoedepth_sizes import MULTIPLE, PATCH, Sizes

logger = logging.getLogger(__name__)

_COLDEST, _HOTTEST = 0.0212, 50.0
"""Temperatures that the head can give."""

_START = 2.0
"""Temperature of a fresh head: a tenth of the bins share the mass, and p decides which."""


@dataclass(frozen=True, slots=True)
class ZoeDepthOutput:
    """What the network gives, with gradients while it trains."""

    depth: Tensor
    """(B, h, w) [m], at the network's input size: sum of probability * centre."""

    probabilities: Tensor
    """(B, K, h, w), sum 1 over K."""

    centers: Tensor
    """(B, K, h, w) [m]."""

    bins: LogBinomialBins
    """What both are made of."""

    @property
    def domain_logits(self) -> Tensor | None:
        """(B, domains), what the router said; None without one."""
        return self.bins.domain_logits


@dataclass(frozen=True, slots=True)
class _Maps:
    """What the heads read."""

    bottleneck: Tensor
    """(B, fusion, h/32, w/32)."""

    conditioning: Tensor
    """(B, relative or relative + 1, h, w)."""

    embeddings: tuple[Tensor, ...]
    """Of the seeds, then of each level of attractors (B, embedding, ., .)."""

    def of(self, rows: Tensor) -> _Maps:
        """Those of some images."""
        embeddings = tuple(e[rows] for e in self.embeddings)
        return _Maps(self.bottleneck[rows], self.conditioning[rows], embeddings)


class ZoeDepth(nn.Module):
    """The network: RGB in, depth and its distribution at the same size out.

    Reference:
        Bhat, Birkl, Wofk, Wonka, Müller, "ZoeDepth: Zero-shot Transfer by Combining Relative and
        Metric Depth", 2023. https://arxiv.org/abs/2302.12288. Here each image is routed by itself,
        whatever else is in the batch.
    """

    def __init__(self, sizes: Sizes, min_depth: float, max_depth: float) -> None:
        super().__init__()
        self.sizes = sizes
        if (sizes.hidden, sizes.layers, sizes.heads, sizes.image) == (1024, 24, 16, 384):
            self.timm_name = "beit_large_patch16_384.in22k_ft_in22k_in1k"
        self.span = Span(min_depth, max_depth) if sizes.centers == "normed" else None
        self.layout = names.layout_of(
            sizes.layers, len(sizes.attractors), sizes.domains, classifier=sizes.classes > 0
        )
        self.normalise = Normalise("half")
        self.model = _transformers_network(sizes, min_depth, max_depth)
        if sizes.classes:
            self.unused = _Unused(sizes.hidden, sizes.classes)
        # Renaming when a state dict leaves or enters keeps the modules those of transformers; a
        # network of our own with the official names would be a second implementation to prove.
        self.register_state_dict_post_hook(_to_official)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_official)  # type: ignore[no-untyped-call]

    @property
    def backbone(self) -> nn.Module:
        """The encoder, which may have its own learning rate."""
        return cast("nn.Module", self.model.backbone)

    def forward(self, rgb: Tensor) -> ZoeDepthOutput:
        """RGB (B, 3, H, W) in [0, 1] -> depth and bins, not clipped.

        Sides that are no multiples of 32 are resized to the nearest.
        """
        height, width = rgb.shape[-2:]
        size = (nearest_multiple(height), nearest_multiple(width))
        if size != (height, width):
            rgb = _resize(rgb, size)
        maps = self._maps(self.normalise(rgb))
        bins = self._routed(maps) if self.sizes.domains else self._bins("", maps)
        probabilities, centers = bins.probabilities(), bins.centers()
        depth = (probabilities * centers).sum(dim=1)
        return ZoeDepthOutput(depth, probabilities, centers, bins)

    def start_at(self, depths: Tensor) -> None:
        """Sets the last biases so that any image gives about the median of depths (n,) [m].

        Free centres and their attractors start at the depths' quantiles; normed centres evenly.
        """
        head = self.model.metric_head
        middle = 0.5 if self.span is None else _part(depths.median(), self.span)
        warmth = (_START - _COLDEST) / (_HOTTEST - _COLDEST)
        shares = torch.tensor([middle, 1 - middle, warmth, 1 - warmth])
        for domain in [f".{name}" for name in self.sizes.domains] or [""]:
            seed: Any = head.get_submodule(f"seed_bin_regressor{'s' if domain else ''}{domain}")
            levels: Any = head.get_submodule(f"attractors{domain}")
            mlp = cast("nn.Sequential", head.get_submodule(f"conditional_log_binomial{domain}.mlp"))
            _set_bias(mlp[2], _before_softplus(2 * shares))
            if self.span is None:
                for last in (seed.conv2, *(level.conv2 for level in levels)):
                    _set_bias(last, _before_softplus(_quantiles(depths, last.out_channels)))
            else:
                _set_bias(seed.conv2, torch.ones(self.sizes.bins))
                for level in levels:
                    points = _places(level.conv2.out_channels // 2)
                    _set_bias(level.conv2, points.repeat_interleave(2))

    def is_unused(self, key: str) -> bool:
        """Whether the forward pass never reads this entry of the state dict."""
        return names.is_unused(key)

    def fill_encoder(self, path: Path) -> None:
        """Starts from a file of BEiT, by timm's names, or of MiDaS' relative network around it.

        ZoeDepth's authors start from MiDaS' `dpt_beit_large_384.pt`.

        Raises:
            CheckpointError: missing, torn, unsafe, or of another network.
        """
        state = names.starting_from(read_state(path), self.state_dict())
        load_state(self, state, str(path), unused=self.is_unused)

    def read_folder(self, folder: Path) -> dict[str, Tensor]:
        """The weights in a folder of transformers, by official names.

        Of its config.json only the kind of model and the range are looked at: the card decides.

        Raises:
            CheckpointError: a file is missing or torn, or is of another kind of model.
        """
        config = read_config(folder, "zoedepth")
        if self.span is not None:
            self._compare_range(folder, config)
        return names.from_transformers(read_weights(folder), self.layout)

    def _compare_range(self, folder: Path, config: Mapping[str, Any]) -> None:
        """The hub's KITTI model says 10 m, which its weights were not trained with."""
        far = cast("Span", self.span).far
        heads = config.get("bin_configurations") or [{}]
        if (found := heads[0].get("max_depth", 10.0)) != far:
            logger.info("%s says max_depth %g, the card's %g is used", folder, found, far)

    def _maps(self, image: Tensor) -> _Maps:
        """Normalised images -> what the metric heads read."""
        model = self.model
        rows, columns = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        _remember_positions(rows, columns)
        tokens = model.backbone.forward_with_filtered_kwargs(image).feature_maps
        fused, deepest = model.neck(tokens, rows, columns)
        relative, last = model.relative_head(fused)
        head = model.metric_head
        bottleneck = head.conv2(deepest)
        projected = (projector(one) for projector, one in zip(head.projectors, fused, strict=True))
        if not self.sizes.domains:  # the two-headed model does not look at the relative depth
            last = torch.cat([last, relative[:, None]], dim=1)
        return _Maps(bottleneck, last, (head.seed_projector(bottleneck), *projected))

    def _routed(self, maps: _Maps) -> LogBinomialBins:
        """Each image by the head that its own logits choose."""
        head = self.model.metric_head
        token = head.patch_transformer(maps.bottleneck)[:, 0]
        logits: Tensor = head.mlp_classifier(token)
        choice = logits.argmax(dim=1)
        order, parts = [], []
        for number, name in enumerate(self.sizes.domains):
            rows = (choice == number).nonzero()[:, 0]
            if len(rows):
                order.append(rows)
                parts.append(self._bins(f".{name}", maps.of(rows)))
        back = torch.cat(order).argsort()

        def joined(values: Iterator[Tensor]) -> Tensor:
            return torch.cat(list(values))[back]

        levels = range(len(self.sizes.attractors))
        return LogBinomialBins(
            joined(part.p for part in parts),
            joined(part.temperature for part in parts),
            joined(part.seeds for part in parts),
            tuple(joined(part.attractors[level] for part in parts) for level in levels),
            domain_logits=logits,
        )

    def _bins(self, domain: str, maps: _Maps) -> LogBinomialBins:
        """What one head says."""
        head = self.model.metric_head
        seed = head.get_submodule(f"seed_bin_regressor{'s' if domain else ''}{domain}")
        levels = cast("nn.ModuleList", head.get_submodule(f"attractors{domain}"))
        _, seeds = seed(maps.bottleneck)
        attractors, coarser = [], maps.embeddings[0]
        for level, embedding in zip(levels, maps.embeddings[1:], strict=True):
            size = (embedding.shape[-2], embedding.shape[-1])
            attractors.append(self._points(level, embedding + _resize(coarser, size)))
            coarser = embedding
        size = (maps.conditioning.shape[-2], maps.conditioning.shape[-1])
        mlp = head.get_submodule(f"conditional_log_binomial{domain}.mlp")
        values = mlp(torch.cat([maps.conditioning, _resize(coarser, size)], dim=1))
        p, temperature = pair_of(values, _COLDEST, _HOTTEST)
        return LogBinomialBins(p, temperature, seeds, tuple(attractors), self.span)

    def _points(self, level: Any, embedding: Tensor) -> Tensor:
        points: Tensor = level.act2(level.conv2(level.act1(level.conv1(embedding))))
        if self.span is None:
            return points
        # The published code computes the ratio of each pair and drops it; what counts is the first.
        return points[:, ::2] + 1e-3


class _Unused(nn.Module):
    """The encoder's ImageNet classifier: kept for files, never run, never trained."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self.requires_grad_(False)


def _set_bias(last: nn.Module, bias: Tensor) -> None:
    with torch.no_grad():
        cast("Tensor", last.bias).copy_(bias)


def _before_softplus(values: Tensor) -> Tensor:
    return values + (-(-values).expm1()).log()


def _places(count: int) -> Tensor:
    """Middles of so many equal parts of [0, 1]."""
    return (torch.arange(count) + 0.5) / count


def _quantiles(depths: Tensor, count: int) -> Tensor:
    ordered = depths.float().cpu().clamp_min(1e-3).sort().values
    return ordered[(_places(count) * len(ordered)).long()]


def _part(depth: Tensor, span: Span) -> float:
    part = (float(depth) - span.near) / (span.far - span.near)
    return min(max(part, 0.01), 0.99)


def nearest_multiple(side: float) -> int:
    """The positive multiple of 32 that is nearest to a side of an image [pixels]."""
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)


def _transformers_network(sizes: Sizes, min_depth: float, max_depth: float) -> Any:
    make_torchvision_importable()
    from transformers import ZoeDepthConfig, ZoeDepthForDepthEstimation

    heads = [
        {"name": name, "n_bins": sizes.bins, "min_depth": min_depth, "max_depth": max_depth}
        for name in sizes.domains or ("metric",)
    ]
    network = ZoeDepthForDepthEstimation(
        ZoeDepthConfig(
            backbone_config=_encoder_of(sizes),
            neck_hidden_sizes=list(sizes.neck),
            fusion_hidden_size=sizes.fusion,
            bottleneck_features=sizes.fusion,
            num_relative_features=sizes.relative,
            num_attractors=list(sizes.attractors),
            bin_embedding_dim=sizes.embedding,
            min_temp=_COLDEST,
            max_temp=_HOTTEST,
            bin_centers_type=sizes.centers,
            bin_configurations=heads,
            num_patch_transformer_layers=4,  # transformers' forward runs four, of width 128
            patch_transformer_hidden_size=128,
            patch_transformer_intermediate_size=1024,
            patch_transformer_num_attention_heads=4,
        )
    )
    for part in (network.neck, network.relative_head, network.metric_head):
        _start(part)
    return network


def _encoder_of(sizes: Sizes) -> Any:
    from transformers import BeitConfig

    return BeitConfig(  # type: ignore[call-arg]  # it hands out_indices on
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward,
        image_size=sizes.image,
        patch_size=PATCH,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_indices=list(sizes.taps),
        layer_norm_eps=1e-6,  # the official encoder's; with transformers' 1e-12 depth is 0.2 % off
        drop_path_rate=0.0,
    )


def _start(part: nn.Module) -> None:
    """Random weights that keep the variance: of an image, transformers' own 0.02 leaves little.

    Reference:
        Klambauer et al., "Self-Normalizing Neural Networks", 2017, section 3, weights after LeCun.
        https://arxiv.org/abs/1706.02515
    """
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            inputs = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):  # of the patches beside each other
                inputs = module.in_channels
            nn.init.normal_(module.weight, std=inputs**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _remember_positions(rows: int, columns: int) -> None:
    """Fills transformers' cache of position indices with tensors that a gradient may pass.

    One that a teacher's inference mode had put there would stop a training in the same process.
    """
    from transformers.models.beit.modeling_beit import BeitRelativePositionBias

    with torch.inference_mode(False):
        BeitRelativePositionBias.generate_relative_position_index((rows, columns))


def _to_official(
    module: nn.Module, state: MutableMapping[str, Tensor], prefix: str, metadata: object
) -> None:
    network = cast("ZoeDepth", module)
    own = {key.removeprefix(prefix): state.pop(key) for key in [*state] if key.startswith(prefix)}
    side, bins = network.sizes.image // PATCH, network.sizes.bins
    official = names.to_official(own, network.layout, side=side, bins=bins)
    state.update({prefix + name: value for name, value in official.items()})


def _from_official(
    module: nn.Module, state: MutableMapping[str, Tensor], prefix: str, *rest: object
) -> None:
    network = cast("ZoeDepth", module)
    own = {key.removeprefix(prefix): state.pop(key) for key in [*state] if key.startswith(prefix)}
    inner = names.from_official(own, network.layout)
    state.update({prefix + name: value for name, value in inner.items()})


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)
