"""Configuration of DeepLoc."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import logging

from .configuration_unirep import UniRepConfig, check_numbers, check_ranges

logger = logging.get_logger(__name__)

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

# The nine sorting signals of DeepLoc 2.0, in the order of the digits 1-9 of its annotation.
SORTING_SIGNALS = {
    "SP": "signal peptide",
    "TM": "transmembrane domain",
    "MT": "mitochondrial transit peptide",
    "CH": "chloroplast transit peptide",
    "TH": "thylakoid transit peptide",
    "NLS": "nuclear localization signal",
    "NES": "nuclear export signal",
    "PTS": "peroxisomal targeting signal",
    "GPI": "GPI anchor",
}

# The sorting pathways of Almagro Armenteros et al. 2017: each of nine decisions with the compartments on its two sides.
# A compartment's probability is the product of the decisions on its way.
SORTING_TREE = {
    "secretory": ([2, 3, 6, 7, 8], [0, 1, 4, 5, 9]),  # or not
    "nucleus or cytoplasm": ([0, 1], [4, 5, 9]),  # or an organelle
    "nucleus": ([1], [0]),  # or cytoplasm
    "peroxisome": ([9], [4, 5]),  # or mitochondrion or plastid
    "mitochondrion": ([4], [5]),  # or plastid
    "extracellular": ([2], [3, 6, 7, 8]),  # or retained
    "cell membrane": ([3], [6, 7, 8]),  # or endomembrane system
    "lysosome/vacuole": ([7], [6, 8]),  # or endoplasmic reticulum or Golgi apparatus
    "endoplasmic reticulum": ([6], [8]),  # or Golgi apparatus
}
INPUT_FEATURES = ["embedding", "blosum62", "physicochemical", "profile", "backbone"]
POOLINGS = ["decoder", "light_attention", "regions"]
AT_LEAST = {
    0: (
        *("pad_token_id", "cls_token_id", "eos_token_id", "mask_token_id"),
        *("projection_size", "second_conv_channels", "lstm_size", "focal_gamma", "membrane_loss_weight"),
        *("tree_loss_weight", "signal_loss_weight", "attention_loss_weight"),
    ),
    1: (
        *("vocab_size", "embedding_size", "conv_widths", "conv_filters", "second_conv_width", "attention_size"),
        *("light_attention_width", "region_sizes", "residue_head_size"),
        *("decoder_size", "decoder_steps", "hidden_size", "max_length"),
    ),
}
# Fields with a value for each label
BY_LABEL = ["thresholds", "calibration_scale", "calibration_bias", "positive_weights", "class_weights"]
# What the tables of predictions call their other columns
RESERVED = ["protein_id", "length", "truncated", "localizations", "membrane", "membrane_probability"]
RESERVED += ["signals", "warning", "image", "nucleus_found"]
LENGTH_POLICIES = ["middle", "end", "window", "error"]


@strict
class DeepLocConfig(PreTrainedConfig):
    r"""
    Configuration of [`DeepLocModel`] and [`DeepLocForSequenceClassification`].

    The two fields that you will most likely change are `lstm_size` (the model's width, which determines nearly all of
    its cost) and `max_length` (the number of residues read from each protein). Defaults follow Almagro Armenteros et
    al. 2017 (report, section 2.1), except for the learned embedding and the 32 filters per width.

    Args:
        vocab_size (`int`): Tokens of DeepLoc and ESM-2.
        input_features (`str`): Input features of a residue: `"embedding"` (learned), `"blosum62"` (its row of the
            matrix), `"physicochemical"` (ten AAindex scales), `"profile"` (20 numbers of a PSI-BLAST profile instead of
            token ids), or `"backbone"` (a transformers encoder).
        embedding_size (`int`): Size of the learned embedding of a residue.
        backbone_config (`dict` or `PreTrainedConfig`, *optional*): The encoder of `"backbone"`, such as an `EsmConfig`;
            [`DeepLocForSequenceClassification.from_backbone_pretrained`] fills it in.
        projection_size (`int`): Number of principal components that the backbone's states are projected to first, 0 for
            none; the projection is from a folder of `protloc embed --project N`.
        companion_config (`dict`, *optional*): Configuration of a trained DeepLoc with its own embedding of residues,
            whose logits are averaged with those of a model on UniRep
            ([`DeepLocForSequenceClassification.add_companion`]).
        spaced_residues (`bool`): Whether the tokenizer needs spaces between residues (ProtBert).
        fixed_length (`bool`): The layout of the 2025 report (section 2.2.1) for comparison: every protein is padded to
            `max_length`, unknown residues are read as padding, and nothing is masked.
        conv_widths (`list[int]`): Widths of the motif-detecting convolutions, each odd; empty for none.
        conv_filters (`int`): Filters per width (20 in the 2017 network).
        second_conv_channels (`int`): Channels of the second convolution, 0 for none (as in the 2025 report).
        second_conv_width (`int`): Width of the second convolution, odd.
        lstm_size (`int`): Units of the recurrent encoder in each direction, 0 for none.
        pooling (`str`): Pooling of a protein's states to one vector: `"decoder"` (an LSTM that attends several times),
            `"light_attention"` (Stärk et al. 2021) or `"regions"` (means over the protein, its beginning and its end).
        light_attention_width (`int`): Width of the convolutions of `"light_attention"`, odd.
        region_sizes (`list[int]`): For `"regions"`: numbers of first and last residues that form a region.
        attention_size (`int`): Size of the attention's scoring layer; channels of `"light_attention"`.
        decoder_size (`int`): Units of the attention decoder's LSTM.
        decoder_steps (`int`): Steps of the attention decoder; its output is the last context. With 1 it is plain
            attention pooling.
        hidden_size (`int`): Units of the dense layer, the size of `pooler_output`.
        dropout (`float`): Dropout on the encoder's input and output and on the dense layer.
        max_length (`int`): Maximum number of residues of a sequence that is read completely.
        length_policy (`str`): Handling of longer sequences: `"middle"` removes residues from the middle (both ends
            carry the sorting signals), `"end"` removes the end, `"window"` averages over overlapping windows,
            `"error"` raises an error.
        membrane (`bool`): Whether the model has a head for membrane or soluble.
        tree (`bool`): Whether the model predicts nine decisions along the sorting pathways. In a single-label model
            their products are the ten probabilities; in a multi-label model they are trained together with the ten
            labels.
        signals (`bool`): Whether the model predicts nine sorting signals, whose positions also supervise the attention.
        residue_signals (`bool`): Whether the model predicts the same signals per residue, which gives their segments.
            Needs token ids of the model's own vocabulary; a model on UniRep takes them from its companion.
        residue_head_size (`int`): Channels of the head over residues.
        thresholds (`list[float]`, *optional*): Probability at which each label counts as predicted, 0.5 by default.
        membrane_threshold (`float`): The same for the membrane head.
        calibration_scale, calibration_bias (`list[float]`, *optional*): Per-class calibration; the logits returned are
            `scale * raw + bias`. Ones and zeros by default.
        membrane_calibration_scale, membrane_calibration_bias (`float`): The same for the membrane head.
        positive_weights (`list[float]`, *optional*): Weight of a positive in each label's loss (multi-label only).
        class_weights (`list[float]`, *optional*): Weight of each label's loss, as in a class-balanced loss.
        focal_gamma (`float`): If above 0, well-predicted examples have a smaller weight (focal loss, Lin et al. 2017).
        membrane_loss_weight, tree_loss_weight, signal_loss_weight, attention_loss_weight (`float`): Weights of the
            losses that are added to the localization loss; the last one is for attention on known signals.
    """

    model_type = "deeploc"
    sub_configs_defaults = {  # noqa: RUF012
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="esm", optional=True)
    }

    # What `Trainer` needn't gather of an evaluation: the logits are the predictions.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "membrane_logits",
        "localizations",
        "membrane",
        "tree_logits",
        "signal_logits",
        "residue_signal_logits",
        "attentions",
        "pooler_output",
        "hidden_states",
    ]

    # tokens
    vocab_size: int = 33
    pad_token_id: int = 1
    cls_token_id: int = 0
    eos_token_id: int = 2
    mask_token_id: int = 32

    # what a residue is given as
    input_features: str = "embedding"
    embedding_size: int = 32
    backbone_config: dict | PreTrainedConfig | None = None
    projection_size: int = 0
    companion_config: dict | None = None
    spaced_residues: bool = False
    fixed_length: bool = False

    # convolutions and recurrence over residues
    conv_widths: list[int] | tuple[int, ...] = (1, 3, 5, 9, 15, 21)
    conv_filters: int = 32
    second_conv_channels: int = 128
    second_conv_width: int = 3
    lstm_size: int = 256

    # from residues to one vector
    pooling: str = "decoder"
    light_attention_width: int = 9
    region_sizes: list[int] | tuple[int, ...] = (1, 20, 60)
    attention_size: int = 256
    decoder_size: int = 512
    decoder_steps: int = 10

    # dense layer
    hidden_size: int = 512
    dropout: float | int = 0.3

    # sequences longer than the network reads
    max_length: int = 1000
    length_policy: str = "middle"

    # heads beside localization
    membrane: bool = True
    tree: bool = False
    signals: bool = False
    residue_signals: bool = False
    residue_head_size: int = 96

    # from logits to labels; fitted after training
    thresholds: list[float] | None = None
    membrane_threshold: float | int = 0.5
    calibration_scale: list[float] | None = None
    calibration_bias: list[float] | None = None
    membrane_calibration_scale: float | int = 1.0
    membrane_calibration_bias: float | int = 0.0

    # losses
    positive_weights: list[float] | None = None
    class_weights: list[float] | None = None
    focal_gamma: float | int = 0.0
    membrane_loss_weight: float | int = 1.0
    tree_loss_weight: float | int = 0.2
    signal_loss_weight: float | int = 0.2
    attention_loss_weight: float | int = 0.1

    def __post_init__(self, **kwargs):
        self.conv_widths, self.region_sizes = list(self.conv_widths), list(self.region_sizes)
        if isinstance(self.backbone_config, dict) and self.backbone_config.get("model_type") == "unirep":
            self.backbone_config = UniRepConfig(**self.backbone_config)
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

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """
        As in `PreTrainedConfig`. With other labels or another problem type, everything fitted to the old labels is
        dropped: thresholds, calibration, label weights, the head over residues, the heads for membrane type and sorting
        signals unless `membrane=True` or `signals=True` is set, and, if the labels are not the ten compartments, the
        sorting tree and the companion.
        """
        old = list((config_dict.get("id2label") or dict(enumerate(COMPARTMENTS))).values())
        new = old
        if kwargs.get("id2label"):
            new = list(kwargs.pop("id2label").values())
            kwargs.pop("label2id", None)
            kwargs.setdefault("num_labels", len(new))
        elif kwargs.get("num_labels") not in (None, len(old)):
            new = [f"LABEL_{i}" for i in range(kwargs["num_labels"])]
        problem_type = kwargs.get("problem_type") or config_dict.get("problem_type")
        if new != old or problem_type != config_dict.get("problem_type"):
            config_dict = {name: value for name, value in config_dict.items() if name not in BY_LABEL}
            config_dict |= {"id2label": dict(enumerate(new)), "label2id": {name: i for i, name in enumerate(new)}}
            config_dict["problem_type"] = problem_type
            # Trained for new labels, the encoder gives these heads other states than they learnt from: without targets
            # of their own they would answer wrongly.
            config_dict |= {"membrane": False, "signals": False, "residue_signals": False}
            if config_dict.get("tree") and new != COMPARTMENTS:
                logger.warning("the sorting tree knows DeepLoc's ten compartments only: the new model has none")
                config_dict["tree"] = False
            if config_dict.get("companion_config") and new != old:
                logger.warning("the companion knows the old labels only: the new model has none")
                config_dict["companion_config"] = None
        return super().from_dict(config_dict, **kwargs)

    def validate_architecture(self):
        """Part of the validation that `@strict` runs."""
        check_numbers(self)
        check_ranges(self, AT_LEAST)
        if self.backbone_config is not None:
            check_numbers(self.backbone_config)
        widths = [*self.conv_widths, self.second_conv_width, self.light_attention_width]
        even = [width for width in widths if width % 2 == 0]
        if even:
            raise ValueError(f"convolution widths must be odd, got {even[0]}")
        choices = {"input_features": INPUT_FEATURES, "pooling": POOLINGS, "length_policy": LENGTH_POLICIES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if (self.input_features == "backbone") != (self.backbone_config is not None):
            raise ValueError("input_features 'backbone' and backbone_config go together: give both or neither")
        if self.projection_size and self.input_features != "backbone":
            raise ValueError(f"projection_size needs input_features 'backbone', got {self.input_features!r}")
        if self.residue_signals and (self.input_features in ("profile", "backbone") or self.fixed_length):
            raise ValueError("residue_signals needs a model of token ids: no backbone, no profiles, no fixed_length")
        if self.companion_config and getattr(self.backbone_config, "model_type", None) != "unirep":
            raise ValueError("companion_config needs a UniRep as backbone")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.fixed_length and self.input_features != "embedding":
            raise ValueError(f"fixed_length needs input_features 'embedding', got {self.input_features!r}")
        names = list(self.id2label.values())
        wrong = next((name for name in names if names.count(name) > 1 or str(name).lower() in RESERVED), None)
        if wrong is not None:
            reason = "is there twice" if names.count(wrong) > 1 else "is a column of its own in a table of predictions"
            raise ValueError(f"the label {wrong!r} {reason}: give it another name")
        if self.tree and names != COMPARTMENTS:
            raise ValueError("tree needs the ten DeepLoc compartments as labels")
        if self.problem_type == "regression":
            raise ValueError("problem_type must be single_label_classification or multi_label_classification")
        for name in BY_LABEL:
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                raise ValueError(f"{name} needs {self.num_labels} values, one a label, got {len(values)}")
        for threshold in [*self.thresholds, self.membrane_threshold]:
            if not 0 <= threshold <= 1:
                raise ValueError(f"a threshold is a probability, from 0 to 1, got {threshold}")
        for scale in [*self.calibration_scale, self.membrane_calibration_scale]:
            if not scale > 0:
                raise ValueError(f"a scale of the calibration must be above 0, got {scale}")


DeepLocConfig.register_for_auto_class()
