"""DeepLoc: shapes, masks, calibration and thresholds, losses, configuration."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModel, AutoTokenizer

from protloc import DeepLocConfig, DeepLocForSequenceClassification
from protloc.models.configuration_deeploc import COMPARTMENTS
from protloc.models.losses_deeploc import tree_log_probabilities
from protloc.models.residue_features import RESIDUES, VOCABULARY, residue_table
from tests.helpers import TINY_DEEPLOC, tiny_deeploc
from tests.models.test_common import DeepLocTester

INPUTS = DeepLocTester().inputs()
LENGTHS = [30, 7, 19]


@torch.no_grad()
def test_output_shapes():
    outputs = tiny_deeploc()(**INPUTS)
    assert outputs.loss is None
    assert outputs.logits.shape == (3, 10)
    assert outputs.membrane_logits.shape == (3,)
    assert outputs.attentions.shape == (3, 3, 32)
    assert outputs.pooler_output.shape == (3, 16)
    assert outputs.localizations.shape == (3, 10) and outputs.localizations.dtype == torch.bool
    assert outputs.membrane.shape == (3,) and outputs.membrane.dtype == torch.bool


@torch.no_grad()
def test_attention_is_a_distribution_over_residues():
    attentions = tiny_deeploc()(**INPUTS).attentions
    torch.testing.assert_close(attentions.sum(-1), torch.ones(3, 3))
    for row, length in zip(attentions, LENGTHS, strict=True):
        assert (row[:, 1 : length + 1] > 0).all()
        assert not row[:, 0].any() and not row[:, length + 1 :].any()


@torch.no_grad()
def test_recurrence_equals_packing():
    encoder = tiny_deeploc().deeploc.encoder
    lengths = torch.tensor([9, 4, 6])
    hidden = torch.randn(3, 9, 12)
    mask = torch.arange(9) < lengths[:, None]
    states = encoder(hidden, mask)

    packed_lstm = torch.nn.LSTM(12, 8, batch_first=True, bidirectional=True)
    forward, backward = encoder.forward_lstm.state_dict(), encoder.backward_lstm.state_dict()
    packed_lstm.load_state_dict({**forward, **{f"{name}_reverse": weight for name, weight in backward.items()}})
    packed, _ = packed_lstm(pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False))
    torch.testing.assert_close(states, pad_packed_sequence(packed, batch_first=True)[0], rtol=0, atol=1e-6)


VARIANTS = [
    {"second_conv_channels": 0},
    {"conv_widths": [1, 21]},
    {"decoder_steps": 1},
    {"conv_widths": [], "second_conv_channels": 0, "lstm_size": 0, "decoder_steps": 1},
    {"pooling": "light_attention"},
    {"pooling": "regions", "region_size": 5},
    {"input_features": "blosum62"},
    {"input_features": "physicochemical"},
    {"fixed_length": True},
    {"tree": True, "signals": True},
    {"tree": True, "problem_type": "single_label_classification"},
]


@torch.no_grad()
@pytest.mark.parametrize("overrides", VARIANTS)
def test_variants_are_batch_invariant_too(overrides):
    model, tester = tiny_deeploc(**overrides), DeepLocTester()
    together = model(**INPUTS).logits
    alone = torch.cat([model(**tester.single(INPUTS, i)).logits for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_light_attention():
    """Stärk et al. 2021, equations 1 to 3, residue by residue."""
    layer = tiny_deeploc(pooling="light_attention", light_attention_width=3).deeploc.decoder
    states, mask = torch.randn(1, 5, 16), torch.tensor([[True, True, True, True, False]])
    context, attention = layer(states, mask)
    padded = [torch.zeros(16), *states[0, :4], torch.zeros(16)]
    columns = [torch.stack(padded[i : i + 3], dim=1).flatten() for i in range(4)]

    def convolution(layer):
        return torch.stack([layer.weight.flatten(1) @ column + layer.bias for column in columns])  # (residues, C)

    values, weights = convolution(layer.values), convolution(layer.weights).softmax(dim=0)
    expected = torch.cat([(values * weights).sum(dim=0), values.amax(dim=0)])
    torch.testing.assert_close(context[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(attention[0, 0, :4], weights.mean(dim=1), rtol=0, atol=1e-6)
    assert attention[0, 0, 4] == 0


@torch.no_grad()
def test_regions():
    layer = tiny_deeploc(pooling="regions", region_size=2).deeploc.decoder
    states = torch.randn(1, 6, 16)
    mask = torch.tensor([[False, True, True, True, True, False]])  # <cls>, four residues, <eos>
    context, attention = layer(states, mask)
    residues = states[0, 1:5]
    means = torch.stack([residues.mean(dim=0), residues[:2].mean(dim=0), residues[2:].mean(dim=0)])
    torch.testing.assert_close(context[0], layer.norm(means).flatten())
    torch.testing.assert_close(attention[0, 0], torch.tensor([0, 0.25, 0.25, 0.25, 0.25, 0]))


@torch.no_grad()
def test_without_a_mask_padding_is_told_by_its_token():
    model = tiny_deeploc()
    torch.testing.assert_close(model(INPUTS["input_ids"]).logits, model(**INPUTS).logits, rtol=0, atol=0)


@torch.no_grad()
def test_second_convolution_is_optional():
    assert tiny_deeploc(second_conv_channels=0).deeploc.convolutions.second is None
    assert tiny_deeploc().deeploc.convolutions.second.out_channels == 12


@torch.no_grad()
def test_calibration_is_applied_to_logits():
    plain = tiny_deeploc()(**INPUTS)
    scale, bias = [0.5 + i for i in range(10)], [i / 10 - 1 for i in range(10)]
    model = tiny_deeploc(
        calibration_scale=scale, calibration_bias=bias, membrane_calibration_scale=2.0, membrane_calibration_bias=-1.0
    )
    outputs = model(**INPUTS)
    torch.testing.assert_close(outputs.logits, plain.logits * torch.tensor(scale) + torch.tensor(bias))
    torch.testing.assert_close(outputs.membrane_logits, plain.membrane_logits * 2 - 1)


@torch.no_grad()
def test_thresholds_decide_and_the_most_probable_label_stands_in():
    probabilities = tiny_deeploc()(**INPUTS).logits.sigmoid()
    low, high = probabilities.min().item() - 0.01, probabilities.max().item() + 0.01
    outputs = tiny_deeploc(thresholds=[low] * 3 + [high] * 7, membrane_threshold=0.0)(**INPUTS)
    assert outputs.localizations.tolist() == [[True] * 3 + [False] * 7] * 3
    assert outputs.membrane.all()
    outputs = tiny_deeploc(thresholds=[high] * 9 + [high / 2], membrane_threshold=1.0)(**INPUTS)
    called = probabilities[:, 9] >= high / 2
    assert outputs.localizations[:, 9].equal(called | (probabilities.argmax(dim=1) == 9))
    outputs = tiny_deeploc(thresholds=[high] * 10, membrane_threshold=1.0)(**INPUTS)
    assert outputs.localizations.sum(dim=1).tolist() == [1, 1, 1]
    assert outputs.localizations.int().argmax(dim=1).tolist() == probabilities.argmax(dim=1).tolist()
    assert not outputs.membrane.any()


@torch.no_grad()
def test_multi_label_loss_is_weighted_bce_plus_membrane():
    weights = [float(i + 1) for i in range(10)]
    model = tiny_deeploc(positive_weights=weights, membrane_loss_weight=0.5)
    labels, membrane = torch.eye(10)[[0, 3, 5]], torch.tensor([1, 0, -1])
    outputs = model(**INPUTS, labels=labels, membrane_targets=membrane)
    p = outputs.logits.sigmoid()
    bce = -(torch.tensor(weights) * labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    q = outputs.membrane_logits.sigmoid()[:2]  # the third one's type is unknown
    membrane_bce = -(q[0].log() + (1 - q[1]).log()) / 2
    torch.testing.assert_close(outputs.loss, bce + 0.5 * membrane_bce)


@torch.no_grad()
def test_unknown_membrane_types_alone_cost_nothing():
    outputs = tiny_deeploc()(**INPUTS, membrane_targets=torch.tensor([-1, -1, -1]))
    assert outputs.loss.item() == 0


@torch.no_grad()
def test_single_label():
    model = tiny_deeploc(problem_type="single_label_classification")
    outputs = model(**INPUTS, labels=torch.tensor([2, 0, 9]))
    torch.testing.assert_close(outputs.loss, -outputs.logits.log_softmax(-1)[[0, 1, 2], [2, 0, 9]].mean())
    torch.testing.assert_close(model.probabilities(outputs.logits).sum(-1), torch.ones(3))
    assert outputs.localizations.int().argmax(-1).tolist() == outputs.logits.argmax(-1).tolist()
    assert outputs.localizations.sum() == 3


@torch.no_grad()
def test_a_protein_of_34350_residues():
    ids = torch.randint(4, 24, (1, 34_350), generator=torch.Generator().manual_seed(0))
    assert tiny_deeploc()(ids).attentions.shape == (1, 3, 34_350)


def test_prepare_sequence():
    model = tiny_deeploc(max_length=5)
    whole, reads = model.prepare_sequence("mkt-ayiak*")
    assert (whole, reads) == ("MKTAYIAK", [[slice(0, 3), slice(6, 8)]])
    assert model.window_text(whole, reads[0]) == "MKTAK"
    assert model.prepare_sequence("mkt") == ("MKT", [[slice(0, 3)]])
    with pytest.raises(ValueError, match="'7' at position 3"):
        model.prepare_sequence("MK7T")


def test_labels_and_their_order():
    config = DeepLocConfig()
    assert list(config.id2label.values()) == COMPARTMENTS
    assert COMPARTMENTS[0] == "Cytoplasm" and COMPARTMENTS[9] == "Peroxisome" and len(COMPARTMENTS) == 10
    assert config.label2id["Golgi apparatus"] == 8
    assert DeepLocConfig(num_labels=3).thresholds == [0.5] * 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("conv_widths", [2], "must be odd, got 2"),
        ("length_policy", "start", "length_policy must be one of middle, end, window, error, got 'start'"),
        ("input_features", "esm", "got 'esm'"),
        ("input_features", "backbone", "go together"),
        ("class_weights", [1.0], "class_weights needs 10 values"),
        ("thresholds", [0.5], "thresholds needs 10 values, one a label, got 1"),
        ("problem_type", "regression", "problem_type must be"),
        ("lstm_size", "big", "lstm_size"),
    ],
)
def test_bad_configurations_are_refused(field, value, message):
    with pytest.raises(Exception, match=message):
        DeepLocConfig(**{**TINY_DEEPLOC, field: value})


@torch.no_grad()
@pytest.mark.parametrize("overrides", VARIANTS)
def test_variants_round_trip(overrides, tmp_path):
    model = tiny_deeploc(**overrides)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**INPUTS).logits, model(**INPUTS).logits, rtol=0, atol=0)


def test_residue_tables():
    blosum = residue_table("blosum62")
    assert blosum.shape == (33, 20)
    assert blosum[VOCABULARY.index("W"), RESIDUES.index("W")] == 5.5  # 11 half bits
    matrix = blosum[[VOCABULARY.index(residue) for residue in RESIDUES]]
    assert matrix.equal(matrix.T)
    assert blosum[VOCABULARY.index("U")].equal(blosum[VOCABULARY.index("C")])
    assert not blosum[[VOCABULARY.index(token) for token in ("<cls>", "<pad>", "<eos>", "<mask>", "-")]].any()
    scales = residue_table("physicochemical")
    assert scales.shape == (33, 10)
    twenty = scales[[VOCABULARY.index(residue) for residue in RESIDUES]]
    torch.testing.assert_close(twenty.mean(dim=0), torch.zeros(10), atol=1e-6, rtol=0)
    assert twenty[:, 0].argmax() == RESIDUES.index("I")  # the most hydrophobic by Kyte and Doolittle
    torch.testing.assert_close(scales[VOCABULARY.index("X")], torch.zeros(10), atol=1e-6, rtol=0)


def test_the_vocabulary_is_the_tokenizer_s(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(33)) == VOCABULARY


def test_residue_tables_are_not_trained():
    model = tiny_deeploc(input_features="blosum62").train()
    model(**INPUTS, labels=torch.eye(10)[[0, 3, 5]]).loss.backward()
    assert model.deeploc.embeddings.weight.grad is None
    assert model.deeploc.embeddings.weight.equal(residue_table("blosum62"))


@torch.no_grad()
def test_profiles_in_place_of_ids():
    model = tiny_deeploc(input_features="profile")
    profiles = torch.rand(2, 9, 20)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    together = model(profiles=profiles, attention_mask=mask.long())
    alone = model(profiles=profiles[1:, :4])
    torch.testing.assert_close(together.logits[1:], alone.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.attentions.sum(-1), torch.ones(2, 3))


@torch.no_grad()
def test_the_report_reads_unknown_residues_as_padding():
    model = tiny_deeploc(fixed_length=True)
    ids = INPUTS["input_ids"].clone()
    ids[1, 5] = VOCABULARY.index("X")
    unknown = model(ids).logits
    ids[1, 5] = VOCABULARY.index("<pad>")
    torch.testing.assert_close(model(ids).logits, unknown, rtol=0, atol=0)
    outputs = model(**INPUTS)
    assert outputs.attentions.shape == (3, 3, 32)
    assert (outputs.attentions[1, :, 20:] > 0).all()  # padding is not masked


@torch.no_grad()
@pytest.mark.parametrize("kind", ["esm", "protbert"])
def test_a_backbone_with_its_weights(tiny_backbones, kind, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones[kind])
    model = DeepLocForSequenceClassification.from_backbone_pretrained(
        str(tiny_backbones[kind]), **{**TINY_DEEPLOC, "signals": True}
    ).eval()
    backbone = AutoModel.from_pretrained(tiny_backbones[kind]).eval()
    texts = [model.window_text(sequence, [slice(0, len(sequence))]) for sequence in ("MKTAYIAKQR", "MKW")]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    assert inputs["attention_mask"].sum(dim=1).tolist() == [12, 5]
    expected = backbone(**inputs).last_hidden_state
    torch.testing.assert_close(model.deeploc.backbone(**inputs).last_hidden_state, expected)
    outputs = model(**inputs)
    assert (outputs.attentions[:, :, 0] == 0).all() and (outputs.attentions[1, :, 4:] == 0).all()
    alone = model(inputs["input_ids"][1:, :5], inputs["attention_mask"][1:, :5])
    torch.testing.assert_close(outputs.logits[1:], alone.logits, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = DeepLocForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.backbone_config.model_type == ("esm" if kind == "esm" else "bert")
    torch.testing.assert_close(loaded(**inputs).logits, outputs.logits, rtol=0, atol=0)


def test_tree_probabilities_by_hand():
    decisions = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    p = decisions.sigmoid()
    leaves = tree_log_probabilities(decisions).exp()
    torch.testing.assert_close(leaves.sum(dim=1), torch.ones(4))
    secretory, inner, nucleus, peroxisome, mitochondrion, outside, surface, lysosome, reticulum = p.T
    torch.testing.assert_close(leaves[:, 1], (1 - secretory) * inner * nucleus)
    torch.testing.assert_close(leaves[:, 0], (1 - secretory) * inner * (1 - nucleus))
    torch.testing.assert_close(leaves[:, 5], (1 - secretory) * (1 - inner) * (1 - peroxisome) * (1 - mitochondrion))
    torch.testing.assert_close(leaves[:, 9], (1 - secretory) * (1 - inner) * peroxisome)
    torch.testing.assert_close(leaves[:, 2], secretory * outside)
    torch.testing.assert_close(
        leaves[:, 8], secretory * (1 - outside) * (1 - surface) * (1 - lysosome) * (1 - reticulum)
    )


@torch.no_grad()
def test_a_single_label_tree_gives_the_probabilities():
    model = tiny_deeploc(tree=True, problem_type="single_label_classification")
    outputs = model(**INPUTS, labels=torch.tensor([2, 0, 9]))
    leaves = tree_log_probabilities(outputs.tree_logits)
    torch.testing.assert_close(model.probabilities(outputs.logits), leaves.exp())
    torch.testing.assert_close(outputs.loss, -leaves[[0, 1, 2], [2, 0, 9]].mean())
    assert not hasattr(model, "classifier")


@torch.no_grad()
def test_losses_of_tree_signals_and_attention():
    model = tiny_deeploc(
        tree=True, signals=True, tree_loss_weight=0.5, signal_loss_weight=2.0, attention_loss_weight=3.0
    )
    labels = torch.eye(10)[[0, 3, 5]]
    labels[0, 1] = 1
    signal_targets = torch.full((3, 9), -1.0)
    signal_targets[1] = torch.eye(9)[2]
    positions = torch.zeros(3, 32)
    positions[1, 2:5] = 1
    outputs = model(**INPUTS, labels=labels, signal_targets=signal_targets, signal_positions=positions)
    p = outputs.logits.sigmoid()
    bce = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    leaves = tree_log_probabilities(outputs.tree_logits)
    tree = -((leaves[0, 0] + leaves[0, 1]) / 2 + leaves[1, 3] + leaves[2, 5]) / 3
    q = outputs.signal_logits.sigmoid()[1]
    signals = -(q[2].log() + (1 - q[[0, 1, 3, 4, 5, 6, 7, 8]]).log().sum()) / 9
    attention = -(outputs.attentions[1, -1, 2:5].log().mean() + torch.tensor(3.0).log())
    torch.testing.assert_close(outputs.loss, bce + 0.5 * tree + 2 * signals + 3 * attention)


@torch.no_grad()
def test_focal_and_class_weighted_losses():
    labels = torch.eye(10)[[0, 3, 5]]
    weights = [float(i + 1) for i in range(10)]
    outputs = tiny_deeploc(focal_gamma=2, class_weights=weights)(**INPUTS, labels=labels)
    p = outputs.logits.sigmoid()
    losses = -(labels * (1 - p) ** 2 * p.log() + (1 - labels) * p**2 * (1 - p).log())
    torch.testing.assert_close(outputs.loss, (losses * torch.tensor(weights)).mean())

    single = tiny_deeploc(class_weights=weights, problem_type="single_label_classification")
    targets = torch.tensor([2, 0, 9])
    outputs = single(**INPUTS, labels=targets)
    expected = torch.nn.functional.cross_entropy(outputs.logits, targets, weight=torch.tensor(weights))
    torch.testing.assert_close(outputs.loss, expected)
    soft = torch.nn.functional.one_hot(targets, 10) * 0.5 + 0.05
    expected = torch.nn.functional.cross_entropy(outputs.logits, soft)
    plain = tiny_deeploc(problem_type="single_label_classification")
    torch.testing.assert_close(plain(**INPUTS, labels=soft).loss, expected)
