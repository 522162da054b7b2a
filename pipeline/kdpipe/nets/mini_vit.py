"""AdaBins' mini-ViT: adaptive bin widths and range-attention maps from one feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdpipe.errors import DataError


class PatchTransformer(nn.Module):
    """Patches of a map as tokens, with a learned position table, through a post-norm encoder."""

    def __init__(
        self, width: int, *, patch: int, positions: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.embedding_convPxP = nn.Conv2d(width, width, patch, stride=patch)
        # Published: uniform in [0, 1), beside which a fresh network's patches can hardly be seen.
        self.positional_encodings = nn.Parameter(0.02 * torch.randn(positions, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, E, h, w) -> tokens (B, S, E), S = (h // patch) * (w // patch), row by row."""
        tokens = self.embedding_convPxP(x).flatten(2).transpose(1, 2)
        encoded: Tensor = self.transformer_encoder(
            tokens + self.positional_encodings[: tokens.shape[1]]
        )
        return encoded


class MiniViT(nn.Module):
    """Bin widths of the image, and a range-attention map a query.

    There is no class token: token 0, of the top left patch, gives the widths, and the next tokens
    are the queries. So there must be more patches than queries, and no more than positions.

    Reference:
        Bhat, Alhashim, Wonka, "AdaBins: Depth Estimation using Adaptive Bins", CVPR 2021, section
        3. https://arxiv.org/abs/2011.14141
    """

    def __init__(
        self,
        width: int,
        *,
        patch: int,
        queries: int,
        bins: int,
        hidden_bins: int,
        positions: int,
        layers: int,
        heads: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.patch, self.queries, self.positions = patch, queries, positions
        self.patch_transformer = PatchTransformer(
            width, patch=patch, positions=positions, layers=layers, heads=heads, hidden=hidden
        )
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)
        self.regressor = nn.Sequential(
            nn.Linear(width, hidden_bins),
            nn.LeakyReLU(),
            nn.Linear(hidden_bins, hidden_bins),
            nn.LeakyReLU(),
            nn.Linear(hidden_bins, bins),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder map (B, E, h, w) -> bin widths (B, K), sum 1, and maps (B, queries, h, w).

        Raises:
            DataError: too few or too many patches.
        """
        self._check(x.shape[-2], x.shape[-1])
        tokens = self.patch_transformer(x)
        queries = tokens[:, 1 : 1 + self.queries]
        attention = torch.einsum("bqe,behw->bqhw", queries, self.conv3x3(x))
        widths = torch.relu(self.regressor(tokens[:, 0]).float()) + 0.1
        return widths / widths.sum(dim=1, keepdim=True), attention

    def _check(self, height: int, width: int) -> None:
        rows, columns = height // self.patch, width // self.patch
        if not self.queries < rows * columns <= self.positions:
            raise DataError(
                f"an image of about {2 * height}x{2 * width} pixels gives {rows}x{columns} = "
                f"{rows * columns} patches of {2 * self.patch}x{2 * self.patch}, expected "
                f"{self.queries + 1} to {self.positions}: use another image size, or a card with "
                "another patch size or input_size"
            )
