"""Multi-head attention whose heads can be cut: `nn.MultiheadAttention` insists on embed_dim / num_heads."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class CuttableAttention(nn.Module):
    """`nn.MultiheadAttention` with the same parameters under the same names, and sizes read from them.

    Called alike and returns the same.
    """

    in_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    # Read by nn.TransformerEncoderLayer: keeps it off its fused path, which assumes embed_dim = heads x head size.
    _qkv_same_embed_dim = False

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = original.num_heads
        self.dropout = original.dropout
        self.batch_first = original.batch_first
        self.add_zero_attn = original.add_zero_attn
        # Without keys and values of its own, the original has no parameters of these names.
        for name, parameter in ({"bias_k": None, "bias_v": None} | original._parameters).items():
            self.register_parameter(name, parameter)
        self.out_proj = original.out_proj
        # A cut may not change the temperature, so it is not computed from what is left.
        self.scale = float(original.head_dim) ** -0.5

    @staticmethod
    def unfit(module: nn.Module) -> str | None:
        """Why this class cannot stand for ``module``; None where it can."""
        if type(module) is not nn.MultiheadAttention:
            return f"{type(module).__name__} is no torch.nn.MultiheadAttention"
        return None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 - a hint; the mask says it all
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention`: [batch, length, features], or [length, batch, features] as it was made."""
        batched = query.dim() == 3
        query, key, value = (self._batch_first(item, batched) for item in (query, key, value))
        queries, keys, values = (self._heads(item) for item in self._with_own(*self._projected(query, key, value)))
        mask = self._mask(attn_mask, key_padding_mask, queries)
        if mask is not None and mask.shape[-1] < keys.shape[-2]:
            # The keys of its own are seen by all.
            mask = functional.pad(mask, (0, keys.shape[-2] - mask.shape[-1]))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) * self.scale
            weights = (scores if mask is None else scores + mask).softmax(-1)
            attended = functional.dropout(weights, dropout) @ values
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            attended = functional.scaled_dot_product_attention(queries, keys, values, mask, dropout, scale=self.scale)
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _batch_first(self, item: Tensor, batched: bool) -> Tensor:
        if not batched:
            return item.unsqueeze(0)
        return item if self.batch_first else item.transpose(0, 1)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        bias: Any = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if self.in_proj_weight is None:
            weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        else:
            weights = self.in_proj_weight.chunk(3)
        items = (query, key, value)
        return [functional.linear(item, w, b) for item, w, b in zip(items, weights, bias, strict=True)]

    def _with_own(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With the keys and values that the layer adds to those that it is given, at their end."""
        own: list[tuple[Tensor, Tensor]] = []
        if self.bias_k is not None and self.bias_v is not None:
            own.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            own.append((key.new_zeros(1, 1, key.shape[-1]), value.new_zeros(1, 1, value.shape[-1])))
        for added_key, added_value in own:
            key = torch.cat([key, added_key.expand(len(key), -1, -1)], 1)
            value = torch.cat([value, added_value.expand(len(value), -1, -1)], 1)
        return query, key, value

    def _heads(self, item: Tensor) -> Tensor:
        batch, length, _ = item.shape
        return item.reshape(batch, length, self.num_heads, -1).transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, queries: Tensor) -> Tensor | None:
        """One additive mask that broadcasts to [batch, heads, queries, keys]."""

        def additive(item: Tensor) -> Tensor:
            if item.dtype is not torch.bool:
                return item
            return torch.zeros_like(item, dtype=queries.dtype).masked_fill(item, float("-inf"))

        total = None
        if mask is not None:
            total = additive(mask)
            if total.dim() == 3:
                total = total.reshape(queries.shape[0], -1, *total.shape[1:])
        if padding is not None:
            padded = additive(padding).reshape(queries.shape[0], 1, 1, -1)
            total = padded if total is None else total + padded
        return total
