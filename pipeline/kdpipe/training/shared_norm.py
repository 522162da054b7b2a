"""Batch normalisation over the images of all processes that train together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from kdpipe.nets.torchvision_shim import make_torchvision_importable


def share_statistics(network: nn.Module, device: torch.device) -> None:
    """Makes a network's batch normalisation one over all processes' images.

    By timm's own conversion: torch's would drop the activations that timm's layers hold. What
    torch computes is for GPUs; on CPUs it is computed here.
    """
    make_torchvision_importable()
    from timm.layers.norm_act import SyncBatchNormAct, convert_sync_batchnorm

    convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    if device.type != "cpu":
        return

    class OnCpuWithAct(SyncBatchNormAct, _OnCpu):
        """Its activation comes after what `_OnCpu` gives."""

    for module in network.modules():
        if type(module) is SyncBatchNormAct:
            module.__class__ = OnCpuWithAct
        elif type(module) is nn.SyncBatchNorm:
            module.__class__ = _OnCpu


class _OnCpu(nn.SyncBatchNorm):
    def forward(self, values: Tensor) -> Tensor:
        """(b, C, ...) of this process's images -> the same, normalised over all images."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(values)
        normal, mean, variance = _Normalised.apply(values.float(), self.eps)  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            count = int(self.num_batches_tracked.add_(1))
            share = 1 / count if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance, share)
        if self.affine:
            normal = _along(self.bias, values) + normal * _along(self.weight, values)
        moved: Tensor = normal.to(values.dtype)
        return moved


class _Normalised(torch.autograd.Function):
    """Values (b, C, ...), less their mean, by their deviation; that mean, the unbiased variance."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        count = torch.tensor([values.numel() / values.shape[1]])
        sums = torch.cat([_sum(values), count])
        distributed.all_reduce(sums)
        ctx.count = float(sums[-1])
        mean = sums[:-1] / ctx.count
        centred = values - _along(mean, values)
        variance = _sum(centred.square())
        distributed.all_reduce(variance)
        scale = (variance / ctx.count + eps).rsqrt()
        normal = centred.mul_(_along(scale, values))
        unbiased = variance / max(1.0, ctx.count - 1)
        ctx.save_for_backward(normal, scale)
        ctx.mark_non_differentiable(mean, unbiased)
        return normal, mean, unbiased

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_others: Tensor) -> tuple[Tensor, None]:
        normal, scale = ctx.saved_tensors
        sums = torch.cat([_sum(slope), _sum(slope * normal)]) / ctx.count
        distributed.all_reduce(sums)
        mean, along = sums.chunk(2)
        left = slope - _along(mean, slope) - normal * _along(along, slope)
        return left * _along(scale, slope), None


def _sum(values: Tensor) -> Tensor:
    return values.sum(dim=[0, *range(2, values.ndim)])


def _along(each: Tensor, values: Tensor) -> Tensor:
    return each.view(-1, *[1] * (values.ndim - 2))
