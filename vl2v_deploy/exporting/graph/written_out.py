"""Operators of torch written out in the form that runtimes fuse; torch's own translation is not in it.

gelu:      onnxruntime fuses (x / 2) (1 + erf) into one operator, and leaves torch's x ((1 + erf) / 2) alone
attention: torch transposes the keys between two Reshapes, whose shapes are computed again on every run
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram


def written_out(program: ExportedProgram) -> ExportedProgram:
    """The program with its GELUs and attentions as elementary operators; its answers are the same."""
    result: ExportedProgram = program.run_decompositions(_FORMS)
    return result


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU, x Phi(x), in the shape of x.

    approximate: "none", or "tanh", which is left to torch
    """
    if approximate != "none":
        return NotImplemented  # type: ignore[no-any-return]
    return (x * 0.5) * (torch.erf(x / math.sqrt(2)) + 1.0)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001, none in eval mode
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale q k^T + mask) v, (..., H, L, E); takes what F.scaled_dot_product_attention takes.

    attn_mask:  broadcast to (..., H, L, S): added, or where bool, False = not attended to
    is_causal:  True = position i attends to none behind i
    scale:      None = 1 / sqrt(E)
    enable_gqa: True = a head of key and value serves several of query
    """
    if enable_gqa:
        shared = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(shared, dim=-3), value.repeat_interleave(shared, dim=-3)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)  # (..., H, L, S)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return F.softmax(scores, dim=-1) @ value


_FORMS: dict[torch._ops.OperatorBase, Callable[..., Tensor]] = {
    torch.ops.aten.gelu.default: gelu,
    torch.ops.aten.scaled_dot_product_attention.default: attention,
}
