"""What a loss sees of a batch that several processes share: all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from kdpipe.losses import Prediction
    from kdpipe.training.samples import Sample
    from kdpipe.training.team import Team


def whole_batch(output: Prediction, batch: Sample, team: Team) -> tuple[Prediction, Sample]:
    """Prediction and batch of all processes' images; alone, what is given.

    Most losses are no means over images: SILog's root, a mean over the valid pixels.

    Args:
        output: of this process's images.
        batch: these.
        team: who has the others.
    """
    if team.size == 1:
        return output, batch
    gathered = {name: team.gather(one) for name, one in batch.items() if name != "image"}
    images = batch["image"]  # of which a loss needs the size only
    count = len(gathered["truth"])
    gathered["image"] = images.new_zeros(()).expand(count, *images.shape[1:])
    return _Whole(output, team), gathered


class _Whole:
    """A prediction whose maps are gathered once a loss asks: it may need no probabilities.

    All processes run the same loss over the same numbers, so they ask in the same order.
    """

    def __init__(self, output: Prediction, team: Team) -> None:
        self._output, self._team = output, team
        self._gathered: dict[str, Tensor] = {}

    @property
    def depth(self) -> Tensor:
        """See Prediction."""
        return self._of_all("depth", self._output.depth)

    @property
    def probabilities(self) -> Tensor | None:
        """See Prediction."""
        own = self._output.probabilities
        return None if own is None else self._of_all("probabilities", own)

    @property
    def centers(self) -> Tensor:
        """See Prediction."""
        own = self._output.centers
        return own if own.ndim == 1 else self._of_all("centers", own)

    def __getattr__(self, name: str) -> Any:
        """What else a network gives, such as logits."""
        own = getattr(self._output, name)
        return self._of_all(name, own) if isinstance(own, Tensor) else own

    def _of_all(self, name: str, own: Tensor) -> Tensor:
        if name not in self._gathered:
            self._gathered[name] = self._team.gather(own)
        return self._gathered[name]
