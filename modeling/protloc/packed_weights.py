"""UniRep for inference on CPUs, with weights as oneDNN's products read them."""

import torch
from torch import nn

from .models.modeling_unirep import UniRepModel


class PackedLinear(nn.Module):
    """
    A linear layer whose weights are laid out once; otherwise every product lays them out anew.

    The operators are those to which `torch.compile` freezes a linear layer; here no compiler is needed. No gradients,
    and nothing to save.

    Args:
        linear (`nn.Linear`): Without bias.
        rows (`int`): Rows of a typical product.
    """

    def __init__(self, linear: nn.Linear, rows: int):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, None, "none", [], "")


def pack_unirep(model: nn.Module, rows: int) -> None:
    """
    Pack, in place, the products that every step of a UniRep in a model takes, where a CPU computes them by oneDNN.

    The model then predicts; it is neither trained nor saved any more.

    Args:
        model (`nn.Module`): A UniRep, or a model with one in it, or with none.
        rows (`int`): Proteins of a typical batch.
    """
    supported = {torch.float32: torch.backends.mkldnn.is_available()}
    supported[torch.bfloat16] = supported[torch.float32] and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for unirep in [module for module in model.modules() if isinstance(module, UniRepModel)]:
        for layer in unirep.layers:
            for name in ("multiplier_hidden", "gates_hidden"):
                linear = getattr(layer, name)
                if linear.weight.device.type == "cpu" and supported.get(linear.weight.dtype, False):
                    setattr(layer, name, PackedLinear(linear, rows))
