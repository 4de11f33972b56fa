"""Configuration of deepGPS."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_deeploc import DeepLocConfig
from .configuration_unirep import UniRepConfig, check_numbers, check_ranges

# ESM-2 with 8 million parameters (facebook/esm2_t6_8M_UR50D), the default sequence encoder.
ESM2_8M: dict[str, Any] = {
    "vocab_size": 33,
    "pad_token_id": 1,
    "mask_token_id": 32,
    "hidden_size": 320,
    "num_hidden_layers": 6,
    "num_attention_heads": 20,
    "intermediate_size": 1280,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
AT_LEAST = {
    0: (
        *("cls_token_id", "eos_token_id", "guidance_scale", "label_loss_weight", "image_loss_weight"),
        *("drawing_margin", "projection_size"),
    ),
    1: (
        *("max_length", "latent_size", "classifier_sizes", "unet_channels", "unet_layers", "patch_size"),
        *("attention_head_size", "image_size", "diffusion_steps", "num_inference_steps", "drawing_shifts"),
        *("noise_scales", "head_channels"),
    ),
}
CHOICES = {
    "inputs": ["sequence", "structure", "sequence+structure"],
    "pooling": ["attention", "mean"],
    "unet": ["condition", "paper"],
    "objective": ["regression", "diffusion", "adversarial"],
    "image_loss": ["mse", "mae", "bce", "mae+ssim", "mse+ssim"],
}


def plain_name(cell_line: str) -> str:
    """The letters and digits of a cell line's name, in lower case."""
    return "".join(filter(str.isalnum, cell_line.lower()))


@strict
class DeepGPSConfig(PreTrainedConfig):
    r"""
    Configuration of [`DeepGPSModel`] (Yuan et al. 2025).

    The two fields that you will most likely change are `backbone_config` (the sequence encoder) and `unet_channels`
    (the width of the image network, which determines nearly all of its cost).

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*): The sequence encoder, any transformers encoder or a
            DeepLoc; ESM-2 with 8 million parameters by default. [`DeepGPSModel.from_backbone_pretrained`] fills it in.
        cls_token_id, eos_token_id (`int`): Special tokens of the sequence, which are not residues.
        max_length (`int`): Maximum number of residues that the encoder reads at once; longer sequences are read in
            overlapping windows.
        projection_size (`int`): Principal components of the encoder's embeddings that are used, 0 for all of them; the
            projection is fitted before training and stays fixed.
        inputs (`str`): Input of the protein: `"sequence"`, `"structure"` or `"sequence+structure"`.
        latent_size (`int`): Size of the protein's latent vectors (1,024 in the paper).
        pooling (`str`): Pooling of residues to one vector: `"attention"` (learned weights) or `"mean"` (as in the
            paper).
        classify (`bool`): Whether there is a head for labels.
        classifier_sizes (`list[int]`): Hidden layers of the head's perceptron; with the output layer four in the paper.
        dropout (`float`): In the classifier.
        condition_on_label (`bool`): Whether the image network is also conditioned on the label: the true label in
            training, the head's probabilities at inference. An adversarial model draws each compartment separately; its
            image is their mean, weighted by these probabilities.
        label_temperature (`float`): Temperature of these probabilities, softmax(logits / temperature): with 1 the image
            is the mean of all possible images, smaller values favour the most probable compartment.
        condition_on_residues (`bool`): Whether the image network is conditioned on the protein's latent vectors.
            Without them it draws the typical appearance of a compartment, and can be trained on images of unknown
            proteins.
        unet (`str`): `"condition"` (cross-attention over residues in diffusers' `UNet2DConditionModel`) or `"paper"`
            (the published network, whose attention has a single key).
        unet_channels (`list[int]`): Channels at each scale, from full size down.
        unet_layers (`int`): Residual blocks at each scale (`"condition"` only).
        patch_size (`int`): Side in pixels of the patches that the image network reads and draws (`"condition"` only); 2
            takes a quarter of the time.
        attention_head_size (`int`): Size of the attention heads in the image network.
        image_size (`int`): Side of the training images; others are padded and cropped back.
        cell_lines (`list[str]`): Known cell lines, such as `["HEK293T", "U-2 OS"]`; if there are any, the image network
            is conditioned on them (or on `unknown`).
        objective (`str`): `"regression"` (the mean of possible images, in one pass), `"diffusion"` (an image drawn in
            steps from noise) or `"adversarial"` (an image drawn from noise in one pass, trained with a discriminator;
            Isola et al. 2017).
        noise_scales (`list[int]`): For an adversarial model, the number of pixels over which each noise channel is
            smooth: fine channels give texture, coarse channels the outline of the cell.
        head_channels (`int`): Channels of the convolutions that upsample an adversarial model's patches to full size.
        drawing_margin (`int`): Pixels by which the nucleus is reflected beyond its border before drawing, and which are
            cropped afterwards, because zero padding leaves a frame. For regression, not in training.
        drawing_shifts (`int`): Number of averaged drawings, each with a shifted grid of patches: 1, `patch_size` (along
            the diagonal, which leaves diagonal lines) or its square (all shifts, which leaves no lines). Needs as many
            passes. For regression, not in training.
        diffusion_steps (`int`): Noise levels in training.
        num_inference_steps (`int`): Default number of steps to draw an image.
        guidance_scale (`float`): Scale of classifier-free guidance; values above 1 amplify the effect of the condition.
        condition_dropout (`float`): Share of training images drawn without the protein, which guidance needs.
        image_loss (`str`): `"mse"`, `"mae"`, `"bce"`, `"mae+ssim"` (MAE + 1 - SSIM) or `"mse+ssim"` (MSE + (1 - SSIM) /
            10), for regression. An adversarial model uses the mean absolute error of images smoothed over 16 pixels.
        label_loss_weight, image_loss_weight (`float`): Weights of the two losses.
    """

    model_type = "deepgps"
    sub_configs_defaults = {  # noqa: RUF012
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="esm", init_kwargs=ESM2_8M)
    }

    # sequence encoder
    backbone_config: dict | PreTrainedConfig | None = None
    cls_token_id: int = 0
    eos_token_id: int = 2
    max_length: int = 1022
    projection_size: int = 0

    # protein: from its inputs to latent vectors
    inputs: str = "sequence"
    latent_size: int = 1024
    pooling: str = "attention"

    # label head, and what the image network gets of it
    classify: bool = True
    classifier_sizes: list[int] | tuple[int, ...] = (512, 256, 128)
    dropout: float | int = 0.1
    condition_on_label: bool = False
    label_temperature: float | int = 1.0
    condition_on_residues: bool = True

    # image network
    unet: str = "condition"
    unet_channels: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    unet_layers: int = 1
    patch_size: int = 1
    attention_head_size: int = 32
    image_size: int = 208
    cell_lines: list[str] | tuple[str, ...] = ()

    # drawing in one pass, or in steps from noise
    objective: str = "regression"
    noise_scales: list[int] | tuple[int, ...] = (1, 8, 26)
    head_channels: int = 16
    drawing_margin: int = 0
    drawing_shifts: int = 1
    diffusion_steps: int = 1000
    num_inference_steps: int = 20
    guidance_scale: float | int = 1.0
    condition_dropout: float | int = 0.1

    # losses
    image_loss: str = "mse"
    label_loss_weight: float | int = 1.0
    image_loss_weight: float | int = 1.0

    def __post_init__(self, **kwargs):
        for name in ("classifier_sizes", "unet_channels", "cell_lines", "noise_scales"):
            setattr(self, name, list(getattr(self, name)))
        if isinstance(self.backbone_config, dict) and self.backbone_config.get("model_type") == "deeploc":
            self.backbone_config = DeepLocConfig(**self.backbone_config)
        if isinstance(self.backbone_config, dict) and self.backbone_config.get("model_type") == "unirep":
            self.backbone_config = UniRepConfig(**self.backbone_config)
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = {0: "cytoplasm", 1: "nucleoplasm"}  # deepGPS-single-2
            self.label2id = {label: index for index, label in self.id2label.items()}
        if self.problem_type is None:
            self.problem_type = "single_label_classification"
        kwargs.setdefault("auto_map", {"AutoModel": "modeling_deepgps.DeepGPSModel"})
        super().__post_init__(**kwargs)

    def cell_line_index(self, name: str | None) -> int:
        """
        Index of a cell line in `cell_lines`; one past the end for `None` and `"unknown"`.

        Spelling counts little: U2OS is U-2 OS.

        Raises:
            ValueError: For a cell line that the model doesn't know.
        """
        known = [plain_name(line) for line in self.cell_lines]
        if not isinstance(name, str | None):
            raise ValueError(f"a cell line is given by its name, got {name!r}")
        if name is None or plain_name(name) in ("", "unknown"):
            return len(known)
        if plain_name(name) not in known:
            lines = ", ".join(self.cell_lines)
            known_lines = f"it knows {lines}, and unknown" if lines else "it was trained without cell lines"
            raise ValueError(f"the model knows no cell line {name!r}: {known_lines}")
        return known.index(plain_name(name))

    @property
    def sequence_size(self) -> int:
        """Size of the encoder's embedding of a residue."""
        backbone: Any = self.backbone_config
        return 2 * backbone.lstm_size if backbone.model_type == "deeploc" else backbone.hidden_size

    @property
    def residue_size(self) -> int:
        """Size of what the model reads of a residue: the encoder's embedding, or its projection."""
        return self.projection_size or self.sequence_size

    def validate_architecture(self):
        """Part of the validation that `@strict` runs."""
        check_numbers(self)
        check_numbers(self.backbone_config)
        check_ranges(self, AT_LEAST)
        if not self.unet_channels:
            raise ValueError("unet_channels is empty: give the channels at each scale")
        if not self.noise_scales:
            raise ValueError("noise_scales is empty: give the pixels over which each channel of noise is smooth")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        single_label = self.classify and self.problem_type == "single_label_classification"
        if self.condition_on_label and not single_label:
            raise ValueError(
                "condition_on_label needs a head for single labels: classify=True and problem_type "
                "'single_label_classification'"
            )
        if not self.condition_on_residues and self.objective != "adversarial":
            raise ValueError("condition_on_residues must be true but for objective 'adversarial'")
        if self.label_temperature <= 0:
            raise ValueError(f"label_temperature must be above 0, got {self.label_temperature}")
        if self.unet == "paper" and (self.objective != "regression" or not self.condition_on_residues):
            raise ValueError(
                "unet 'paper' draws the mean of what a protein looks like: use objective 'regression' and "
                "condition_on_residues, or unet 'condition'"
            )
        if self.objective == "adversarial" and self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size must be a power of two for an adversarial model, got {self.patch_size}")
        if not self.condition_on_residues and not self.condition_on_label:
            raise ValueError(
                "without condition_on_residues the image depends on the label alone: set condition_on_label"
            )
        if self.unet == "paper" and self.patch_size != 1:
            raise ValueError("unet 'paper' reads single pixels: leave patch_size at 1, or use unet 'condition'")
        if self.drawing_margin > self.image_size:
            raise ValueError(f"drawing_margin must be at most image_size, {self.image_size}, got {self.drawing_margin}")
        shifts = 1, self.patch_size, self.patch_size**2
        if self.drawing_shifts not in shifts:
            raise ValueError(
                f"drawing_shifts must be 1, patch_size or its square ({', '.join(map(str, shifts))}), got "
                f"{self.drawing_shifts}"
            )
        lines = [plain_name(line) for line in self.cell_lines]
        if len({*lines, "unknown", ""}) < len(lines) + 2:
            raise ValueError(f"cell_lines must be different names, and none of them unknown, got {self.cell_lines}")
        if self.unet == "paper" and self.cell_lines:
            raise ValueError("unet 'paper' knows no cell lines: leave cell_lines empty, or use unet 'condition'")
        if self.problem_type not in ("single_label_classification", "multi_label_classification"):
            raise ValueError("problem_type must be single_label_classification or multi_label_classification")


DeepGPSConfig.register_for_auto_class()
