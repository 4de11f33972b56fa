"""What people do with a trained DeepLoc in the ecosystem: other labels, Trainer, PEFT, quantization."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.ao.quantization import quantize_dynamic
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, pipeline
from transformers.utils.generic import find_labels

from protloc import DeepLocForSequenceClassification
from protloc.models.configuration_deeploc import COMPARTMENTS
from tests.helpers import tiny_deeploc

YEAST = ["bud", "vacuole", "nucleolus", "cytosol"]
SEQUENCES = ["MKTAYIAKQR", "MSLLTEVETYVLS", "MAAAKKKRKV", "MGSSHHHHHH"]
IDS = dict(enumerate(YEAST))


@pytest.fixture(scope="module")
def fitted_dir(tmp_path_factory):
    """A model with a tree, signals, and calibration and thresholds that are not the default."""
    folder = tmp_path_factory.mktemp("fitted")
    values = {"thresholds": [0.3] * 10, "calibration_scale": [2.0] * 10, "positive_weights": [3.0] * 10}
    tiny_deeploc(tree=True, signals=True, **values).save_pretrained(folder)
    AutoTokenizer.from_pretrained("modeling/protloc/assets/deeploc").save_pretrained(folder)
    return folder


def inputs(tokenizer, **more):
    return {**tokenizer(SEQUENCES, padding=True, return_tensors="pt"), **more}


@pytest.mark.parametrize(
    "options",
    [
        {"num_labels": 4, "id2label": IDS, "ignore_mismatched_sizes": True},
        {"id2label": IDS, "ignore_mismatched_sizes": True},
        {"num_labels": 4, "ignore_mismatched_sizes": True},
        {"id2label": IDS, "problem_type": "single_label_classification", "ignore_mismatched_sizes": True},
    ],
)
def test_other_labels(fitted_dir, tmp_path, options):
    model = AutoModelForSequenceClassification.from_pretrained(fitted_dir, **options)
    names = list(options.get("id2label", {i: f"LABEL_{i}" for i in range(4)}).values())
    assert list(model.config.id2label.values()) == names and model.config.num_labels == 4
    assert model.config.thresholds == [0.5] * 4 and model.config.positive_weights is None
    assert model.config.calibration_scale == [1.0] * 4 and not model.config.tree
    # Heads without targets would be left behind by the trunk, which is the trained one.
    assert not model.config.membrane and not model.config.signals
    old = DeepLocForSequenceClassification.from_pretrained(fitted_dir)
    assert torch.equal(model.deeploc.dense.weight, old.deeploc.dense.weight)
    single = "problem_type" in options
    labels = torch.tensor([0, 1, 2, 3]) if single else torch.eye(4)
    tokenizer = AutoTokenizer.from_pretrained(fitted_dir)
    outputs = model(**inputs(tokenizer, labels=labels))
    assert outputs.loss.isfinite() and outputs.logits.shape == (4, 4)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.id2label == model.config.id2label
    torch.testing.assert_close(again.eval()(**inputs(tokenizer)).logits, model.eval()(**inputs(tokenizer)).logits)
    answers = pipeline("protein-localization", model=again, tokenizer=tokenizer)(SEQUENCES[0])
    assert set(answers["scores"]) == set(names)


def test_the_same_labels_keep_what_was_fitted(fitted_dir):
    model = AutoModelForSequenceClassification.from_pretrained(fitted_dir, num_labels=10)
    assert list(model.config.id2label.values()) == COMPARTMENTS
    assert model.config.thresholds == [0.3] * 10 and model.config.tree


def test_heads_that_are_trained_on_stay_where_asked_for(fitted_dir):
    options = {"id2label": IDS, "ignore_mismatched_sizes": True}
    model = AutoModelForSequenceClassification.from_pretrained(fitted_dir, membrane=True, signals=True, **options)
    old = DeepLocForSequenceClassification.from_pretrained(fitted_dir)
    assert torch.equal(model.membrane_head.weight, old.membrane_head.weight)
    assert torch.equal(model.signal_head.weight, old.signal_head.weight)


def test_a_number_as_label_is_told_what_to_do(fitted_dir):
    model = AutoModelForSequenceClassification.from_pretrained(fitted_dir, id2label=IDS, ignore_mismatched_sizes=True)
    tokenizer = AutoTokenizer.from_pretrained(fitted_dir)
    with pytest.raises(ValueError, match=r"labels are \(4,\).*load it with problem_type='single_label_classification'"):
        model(**inputs(tokenizer, labels=torch.arange(4)))


def test_trainer_evaluates_with_stock_settings(fitted_dir, tmp_path):
    assert find_labels(DeepLocForSequenceClassification) == ["labels"]
    model = AutoModelForSequenceClassification.from_pretrained(fitted_dir, id2label=IDS, ignore_mismatched_sizes=True)
    tokenizer = AutoTokenizer.from_pretrained(fitted_dir)
    rows = [{**tokenizer(s), "labels": np.eye(4, dtype=np.float32)[i]} for i, s in enumerate(SEQUENCES)]
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions.shape)
        return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids.argmax(1)).mean())}

    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True, max_steps=2, per_device_eval_batch_size=3)
    trainer = Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer, compute_metrics=metrics
    )
    trainer.train()
    scores = trainer.evaluate()
    assert np.isfinite(scores["eval_loss"]) and 0 <= scores["eval_accuracy"] <= 1
    assert seen == [(4, 4)]


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "single_label_classification"])
def test_a_protein_without_labels_has_a_finite_loss(problem_type):
    model = tiny_deeploc(tree=True, problem_type=problem_type)
    tokens = torch.tensor([[0, 20, 5, 6, 2], [0, 20, 7, 8, 2]])
    loss = model(tokens, labels=torch.eye(10)[:2] * torch.tensor([[1.0], [0.0]])).loss
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_low_rank_updates_by_peft(fitted_dir, tmp_path, hub):
    tokenizer = AutoTokenizer.from_pretrained(fitted_dir)
    model = AutoModelForSequenceClassification.from_pretrained(fitted_dir)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=2))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    names = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert any("decoder.energy" in name for name in names) and not any("modules_to_save" in name for name in names)
    adapted.save_pretrained(tmp_path)
    adapted.push_to_hub("owner/adapter")
    expected = adapted.eval()(**inputs(tokenizer)).logits
    for place in (tmp_path, "owner/adapter"):
        base = AutoModelForSequenceClassification.from_pretrained(fitted_dir)
        again = PeftModel.from_pretrained(base, place)
        torch.testing.assert_close(again.eval()(**inputs(tokenizer)).logits, expected)
    plain = AutoModelForSequenceClassification.from_pretrained(fitted_dir)
    assert not torch.allclose(plain(**inputs(tokenizer)).logits, expected)


def test_eight_bits_and_autocast(fitted_dir):
    tokenizer = AutoTokenizer.from_pretrained(fitted_dir)
    model = AutoModelForSequenceClassification.from_pretrained(fitted_dir).eval()
    expected = model(**inputs(tokenizer)).logits.sigmoid()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**inputs(tokenizer)).logits.sigmoid()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    quantized = quantize_dynamic(model, {torch.nn.LSTM, torch.nn.Linear}, dtype=torch.qint8)
    torch.testing.assert_close(quantized(**inputs(tokenizer)).logits.sigmoid(), expected, rtol=0, atol=0.05)


def test_embeddings_and_states_as_tools_ask_for_them(tokenizer):
    """Captum gives `inputs_embeds`, others ask for `hidden_states`, or for a tuple."""
    model = tiny_deeploc(tree=True, signals=True)
    batch = inputs(tokenizer)
    outputs = model(**batch, output_hidden_states=True)
    assert outputs.hidden_states[0].shape == (*batch["input_ids"].shape, 16)
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    found = model(inputs_embeds=embedded, attention_mask=batch["attention_mask"])
    torch.testing.assert_close(found.logits, outputs.logits)
    torch.testing.assert_close(found.attentions, outputs.attentions)
    found.logits[:, 1].sum().backward()
    assert embedded.grad[batch["attention_mask"].bool()].abs().sum(dim=-1).min() > 0
    found = model(**batch, return_dict=False)
    assert isinstance(found, tuple) and torch.equal(found[0], outputs.logits)
    with pytest.raises(ValueError, match="inputs_embeds needs a model with an embedding of residues of its own"):
        tiny_deeploc(input_features="profile")(inputs_embeds=embedded)
