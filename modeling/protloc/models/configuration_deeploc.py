"""Configuration of DeepLoc."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

COMPARTMENTS = [
    "Cytoplasm",
    "Nucleus",
    "Extracellular",
    "Cell membrane",
    "Mitochondrion",
    "Plastid",
    "Endoplasmic reticulum",
    "Lysosome/Vacuole",
    "Golgi apparatus",
    "Peroxisome",
]


@strict
class DeepLocConfig(PreTrainedConfig):
    r"""
    Configuration of [`DeepLocModel`] and [`DeepLocForSequenceClassification`].

    The two fields that you will most likely change are `lstm_size` (the model's width, and nearly all of its cost) and
    `max_length` (the residues that are read of each protein). Defaults follow Almagro Armenteros et al. 2017 (report,
    section 2.1), except for the learned embedding and the 32 filters a width.

    Args:
        vocab_size (`int`): Tokens of the stock `EsmTokenizer`.
        embedding_size (`int`): Size of the learned embedding of a residue.
        conv_widths (`list[int]`): Widths of the motif-detecting convolutions, each odd.
        conv_filters (`int`): Filters of each width (20 in the 2017 network).
        second_conv_channels (`int`): Channels of the second convolution, 0 for none (as in the 2025 report).
        second_conv_width (`int`): Width of the second convolution, odd.
        lstm_size (`int`): Units of the recurrent encoder in each direction.
        attention_size (`int`): Size of the attention's scoring layer.
        decoder_size (`int`): Units of the attention decoder's LSTM.
        decoder_steps (`int`): Steps of the attention decoder; the last context is read out.
        hidden_size (`int`): Units of the dense layer, the size of `pooler_output`.
        dropout (`float`): Dropout on the encoder's input and output and on the dense layer.
        max_length (`int`): Longest sequence in residues that is read whole.
        length_policy (`str`): What happens to longer sequences: `"middle"` cuts residues out of the middle (both ends
            carry the sorting signals), `"error"` refuses them.
        thresholds (`list[float]`, *optional*): Probability from which each label counts as predicted, 0.5 by default.
        membrane_threshold (`float`): The same for the membrane head.
        calibration_scale, calibration_bias (`list[float]`, *optional*): Per-class calibration; the logits returned are
            `scale * raw + bias`. Ones and zeros by default.
        membrane_calibration_scale, membrane_calibration_bias (`float`): The same for the membrane head.
        positive_weights (`list[float]`, *optional*): Weight of a positive in each label's loss (multi-label only).
        membrane_loss_weight (`float`): Weight of the membrane loss beside the localization loss.
    """

    model_type = "deeploc"

    vocab_size: int = 33
    pad_token_id: int = 1
    cls_token_id: int = 0
    eos_token_id: int = 2
    mask_token_id: int = 32

    embedding_size: int = 32
    conv_widths: list[int] | tuple[int, ...] = (1, 3, 5, 9, 15, 21)
    conv_filters: int = 32
    second_conv_channels: int = 128
    second_conv_width: int = 3
    lstm_size: int = 256
    attention_size: int = 256
    decoder_size: int = 512
    decoder_steps: int = 10
    hidden_size: int = 512
    dropout: float | int = 0.3

    max_length: int = 1000
    length_policy: str = "middle"

    thresholds: list[float] | None = None
    membrane_threshold: float | int = 0.5
    calibration_scale: list[float] | None = None
    calibration_bias: list[float] | None = None
    membrane_calibration_scale: float | int = 1.0
    membrane_calibration_bias: float | int = 0.0
    positive_weights: list[float] | None = None
    membrane_loss_weight: float | int = 1.0

    def __post_init__(self, **kwargs):
        self.conv_widths = list(self.conv_widths)
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(COMPARTMENTS))
            self.label2id = {label: index for index, label in self.id2label.items()}
        if self.problem_type is None:
            self.problem_type = "multi_label_classification"
        # A saved folder names its own code, so that it loads where protloc is not installed. `save_pretrained` adds the
        # class that it saves; the headless model is added here.
        kwargs.setdefault("auto_map", {"AutoModel": "modeling_deeploc.DeepLocModel"})
        super().__post_init__(**kwargs)
        self.thresholds = self.thresholds or [0.5] * self.num_labels
        self.calibration_scale = self.calibration_scale or [1.0] * self.num_labels
        self.calibration_bias = self.calibration_bias or [0.0] * self.num_labels

    def validate_architecture(self):
        """Part of the validation that `@strict` runs."""
        even = [width for width in [*self.conv_widths, self.second_conv_width] if width % 2 == 0]
        if even:
            raise ValueError(f"convolution widths must be odd, got {even[0]}")
        if self.length_policy not in ("middle", "error"):
            raise ValueError(f"length_policy must be 'middle' or 'error', got {self.length_policy!r}")
        if self.problem_type == "regression":
            raise ValueError("problem_type must be single_label_classification or multi_label_classification")
        for name in ("thresholds", "calibration_scale", "calibration_bias", "positive_weights"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                raise ValueError(f"{name} needs {self.num_labels} values, one a label, got {len(values)}")


DeepLocConfig.register_for_auto_class()
