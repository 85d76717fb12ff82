"""Parts of published encoders that timm does not have: CONCH's attention poolers, CTransPath's convolutional stem."""

from __future__ import annotations

import torch
from torch import nn


class CrossAttentionPooler(nn.Module):
    """CONCH's pooler: one learned query attends to all tokens (Lu et al. 2024, doi 10.1038/s41591-024-02856-4).

    Parameters
    ----------
    context
        Width of the tokens.
    width
        Width of the query and the output.
    heads
        Attention heads.
    """

    def __init__(self, context: int, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, width))
        self.attn = nn.MultiheadAttention(width, heads, kdim=context, vdim=context, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the pooled tokens, (tile, width)."""
        keys = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)
        pooled: torch.Tensor = self.attn(query, keys, keys, need_weights=False)[0]
        return pooled[:, 0]


class QueryPooler(nn.Module):
    """CONCH v1.5's pooler: the same idea with plain projections and without biases."""

    def __init__(self, context: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, width))
        self.ln_k = nn.LayerNorm(context)
        self.ln_q = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the pooled tokens, (tile, width)."""
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)
        key, value = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)
        parts = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        pooled = nn.functional.scaled_dot_product_attention(*parts)  # (tile, head, 1, width / head)
        result: torch.Tensor = self.to_out(pooled.transpose(1, 2).flatten(2))
        return result[:, 0]


class ConchTower(nn.Module):
    """A vision transformer, a pooler over its tokens and a layer norm; the names are those of the checkpoints."""

    def __init__(self, trunk: nn.Module, pooler: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = pooler
        self.ln_contrast = nn.LayerNorm(width)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Return the image embedding before the projection to text, (tile, width)."""
        tokens = self.trunk.forward_features(tiles)  # type: ignore[operator]  # timm's, untyped
        pooled: torch.Tensor = self.ln_contrast(self.attn_pool_contrast(tokens))
        return pooled


class ConvolutionalStem(nn.Module):
    """Patch embedding of CTransPath: two strided convolutions, then one of 1 x 1 (doi 10.1016/j.media.2022.102559).

    Takes the arguments that timm's Swin gives any patch embedding; those about its own patches have no meaning here.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: type[nn.Module] | None = None,
        **_: object,
    ) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            *_halving(in_chans, narrow),
            *_halving(narrow, wide),
            nn.Conv2d(wide, embed_dim, kernel_size=1),
        )
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Return patches, (tile, row, column, width)."""
        patches: torch.Tensor = self.norm(self.proj(tiles).permute(0, 2, 3, 1))
        return patches


def _halving(channels: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, kernel_size=3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
