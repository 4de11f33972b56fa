"""Linear layers for inference on CPUs, with weights as oneDNN's products read them."""

import torch
from torch import nn


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


def pack_linears(model: nn.Module, rows: int) -> None:
    """Replace, in place, the linear layers without bias."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module.bias is None:
            model.set_submodule(name, PackedLinear(module, rows))
