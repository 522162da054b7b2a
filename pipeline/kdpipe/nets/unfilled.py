"""Networks whose weights are about to come from a file: nothing is drawn for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class Unfilled(TorchFunctionMode):
    """Within it, parameters stay as their memory was: random weights of 345 M take seconds.

    Memory that nobody writes costs nothing either. Buffers, which are computed, are as ever.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Leaves out what fills a parameter in place."""
        named = kwargs or {}
        target = args[0] if args else named.get("tensor")  # so torch.nn.init passes it on
        name = getattr(func, "__name__", "")
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and isinstance(target, nn.Parameter):
            return target
        return func(*args, **named)
