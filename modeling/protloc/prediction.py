"""FASTA -> streamed predictions."""

import torch


def native_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 natively, rather than by emulation, which is slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.startswith("cpu"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("sve_bf16"))
    return False
