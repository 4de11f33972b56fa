"""DeepLoc: shapes, masks, calibration and thresholds, losses, configuration."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from conftest import TINY_DEEPLOC, tiny_deeploc
from models.test_common import DeepLocTester
from protloc import DeepLocConfig
from protloc.models.configuration_deeploc import COMPARTMENTS

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


@torch.no_grad()
@pytest.mark.parametrize("overrides", [{"second_conv_channels": 0}, {"conv_widths": [1, 21]}, {"decoder_steps": 1}])
def test_variants_are_batch_invariant_too(overrides):
    model, tester = tiny_deeploc(**overrides), DeepLocTester()
    together = model(**INPUTS).logits
    alone = torch.cat([model(**tester.single(INPUTS, i)).logits for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


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
    outputs = model(**INPUTS, labels=labels, membrane_labels=membrane)
    p = outputs.logits.sigmoid()
    bce = -(torch.tensor(weights) * labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    q = outputs.membrane_logits.sigmoid()[:2]  # the third one's type is unknown
    membrane_bce = -(q[0].log() + (1 - q[1]).log()) / 2
    torch.testing.assert_close(outputs.loss, bce + 0.5 * membrane_bce)


@torch.no_grad()
def test_unknown_membrane_types_alone_cost_nothing():
    outputs = tiny_deeploc()(**INPUTS, membrane_labels=torch.tensor([-1, -1, -1]))
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
    assert model.prepare_sequence("mkt-ayiak*") == ("MKTAK", slice(3, 6))
    assert model.prepare_sequence("mkt") == ("MKT", slice(3, 3))
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
        ("length_policy", "window", "got 'window'"),
        ("thresholds", [0.5], "thresholds needs 10 values, one a label, got 1"),
        ("problem_type", "regression", "problem_type must be"),
        ("lstm_size", "big", "lstm_size"),
    ],
)
def test_bad_configurations_are_refused(field, value, message):
    with pytest.raises(Exception, match=message):
        DeepLocConfig(**{**TINY_DEEPLOC, field: value})
