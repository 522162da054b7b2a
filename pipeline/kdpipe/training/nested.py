"""Nested state dicts as flat tensors and what JSON can hold, and back without any loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_TENSOR, _LAST, _TUPLE, _PAIRS = "$tensor", "$channels_last", "$tuple", "$pairs"
_PLAIN = (str, int, float, bool, type(None))


def split(state: object) -> tuple[dict[str, Tensor], object]:
    """Takes the tensors out of dicts, lists and tuples within each other.

    Returns:
        The tensors by their place, like `optimizer.state.0.exp_avg`, and the rest, JSON-able.

    Raises:
        TypeError: it holds what is none of these, nor text, number, truth value or None.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _split(state, "", tensors)


def _split(value: object, name: str, tensors: dict[str, Tensor]) -> object:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name, _LAST: _is_channels_last(value)}
    if isinstance(value, Mapping):
        inside = [(key, _split(one, _join(name, key), tensors)) for key, one in value.items()]
        return {_PAIRS: [list(pair) for pair in inside]}  # keys of an optimiser are numbers
    if isinstance(value, (list, tuple)):
        items = [_split(one, _join(name, n), tensors) for n, one in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if not isinstance(value, _PLAIN):
        raise TypeError(f"{name} is a {type(value).__name__}, which JSON cannot hold")
    return value


def _is_channels_last(value: Tensor) -> bool:
    """Whether it lies so in memory: sums over another order differ in their last bit."""
    return (
        value.dim() == 4
        and not value.is_contiguous()
        and value.is_contiguous(memory_format=torch.channels_last)
    )


def _join(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def join(tensors: Mapping[str, Tensor], plain: object) -> object:
    """What `split` was given."""
    if isinstance(plain, list):
        return [join(tensors, one) for one in plain]
    if not isinstance(plain, dict):
        return plain
    if _TENSOR in plain:
        tensor = tensors[plain[_TENSOR]]
        return tensor.contiguous(memory_format=torch.channels_last) if plain[_LAST] else tensor
    ((kind, value),) = plain.items()
    if kind == _TUPLE:
        return tuple(join(tensors, one) for one in value)
    return {key: join(tensors, one) for key, one in value}
