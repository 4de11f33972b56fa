"""What every model family must do. A family joins by adding a tester to `FAMILIES`."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from protloc import (
    DeepGPSConfig,
    DeepGPSModel,
    DeepLocConfig,
    DeepLocForSequenceClassification,
    DeepLocModel,
    UniRepConfig,
    UniRepForCausalLM,
    UniRepModel,
)
from tests.helpers import (
    TINY_DEEPGPS,
    TINY_DEEPLOC,
    TINY_UNIREP,
    run_without_protloc,
    tiny_deepgps,
    tiny_deeploc,
    tiny_unirep,
)


class DeepLocTester:
    model_class = DeepLocForSequenceClassification
    base_class = DeepLocModel
    auto_class = AutoModelForSequenceClassification
    config_class = DeepLocConfig
    prediction_names = ("logits", "membrane_logits", "pooler_output")
    base_prediction_name = "pooler_output"
    whole_graph = True
    atol = 1e-6  # of the same weights in another process: products depend on memory and on the number of threads

    def config(self):
        return DeepLocConfig(**TINY_DEEPLOC)

    def model(self):
        return tiny_deeploc()

    def inputs(self, lengths=(30, 7, 19)):
        """Right-padded token ids of random proteins."""
        generator = torch.Generator().manual_seed(1)
        input_ids = torch.full((len(lengths), max(lengths) + 2), 1)
        for row, length in zip(input_ids, lengths, strict=True):
            row[0], row[length + 1] = 0, 2
            row[1 : length + 1] = torch.randint(4, 24, (length,), generator=generator)
        return {"input_ids": input_ids, "attention_mask": (input_ids != 1).long()}

    def single(self, inputs, index):
        """One example of a batch, without padding."""
        length = inputs["attention_mask"][index].sum()
        return {name: value[index : index + 1, :length] for name, value in inputs.items()}

    def labels(self):
        return {"labels": torch.eye(10)[[0, 3, 5]], "membrane_targets": torch.tensor([1, 0, -1])}


class DeepGPSTester:
    model_class = DeepGPSModel
    base_class = DeepGPSModel
    auto_class = AutoModel
    config_class = DeepGPSConfig
    prediction_names = ("logits", "protein_image")
    base_prediction_name = "protein_image"
    whole_graph = True
    atol = 1e-6

    def config(self):
        return DeepGPSConfig(**TINY_DEEPGPS)

    def model(self):
        return tiny_deepgps()

    def inputs(self):
        """Random proteins of three lengths, each on a random nucleus whose size no scale of the network divides."""
        nucleus = torch.rand(3, 1, 18, 21, generator=torch.Generator().manual_seed(2))
        return {**DeepLocTester().inputs(), "nucleus": nucleus}

    def single(self, inputs, index):
        sequence = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return {**DeepLocTester().single(sequence, index), "nucleus": inputs["nucleus"][index : index + 1]}

    def labels(self):
        protein = torch.rand(3, 1, 18, 21, generator=torch.Generator().manual_seed(3))
        return {"labels": torch.tensor([0, 1, 1]), "protein": protein}


class UniRepTester:
    model_class = UniRepForCausalLM
    base_class = UniRepModel
    auto_class = AutoModelForCausalLM
    config_class = UniRepConfig
    prediction_names = ("logits",)
    base_prediction_name = "last_hidden_state"
    whole_graph = False  # its steps are as many as the proteins of a batch are long
    atol = 1e-6

    def config(self):
        return UniRepConfig(**TINY_UNIREP)

    def model(self):
        return tiny_unirep()

    def inputs(self, lengths=(30, 7, 19)):
        """Right-padded token ids of random proteins."""
        generator = torch.Generator().manual_seed(1)
        input_ids = torch.zeros(len(lengths), max(lengths) + 1, dtype=torch.long)
        for row, length in zip(input_ids, lengths, strict=True):
            row[0] = 24
            row[1 : length + 1] = torch.randint(1, 24, (length,), generator=generator)
        return {"input_ids": input_ids, "attention_mask": (input_ids != 0).long()}

    def single(self, inputs, index):
        return DeepLocTester().single(inputs, index)

    def labels(self):
        inputs = self.inputs()
        return {"labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


class DeepLocOnUniRepTester(DeepLocTester):
    whole_graph = False
    atol = 1e-6

    def config(self):
        unirep = {
            "input_features": "backbone",
            "backbone_config": UniRepConfig(**TINY_UNIREP),
            "projection_size": 6,
            "vocab_size": 26,
            "pad_token_id": 0,
            "cls_token_id": 24,
            "eos_token_id": 25,
            "mask_token_id": 23,
        }
        return DeepLocConfig(**TINY_DEEPLOC, **unirep)

    def model(self):
        torch.manual_seed(1)
        return DeepLocForSequenceClassification(self.config()).eval()

    def inputs(self):
        return UniRepTester().inputs()


FAMILIES = [DeepLocTester(), DeepGPSTester(), UniRepTester(), DeepLocOnUniRepTester()]


@pytest.fixture(params=FAMILIES, ids=lambda family: type(family).__name__.removesuffix("Tester"))
def family(request):
    return request.param


def assert_same(family, actual, expected, rtol=0.0, atol=0.0):
    for name in family.prediction_names:
        torch.testing.assert_close(
            actual[name], expected[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.no_grad()
def test_round_trip_is_exact(family, tmp_path):
    model, inputs = family.model(), family.inputs()
    model.save_pretrained(tmp_path)
    for loader in (family.model_class, family.auto_class):
        loaded = loader.from_pretrained(tmp_path).eval()
        assert type(loaded) is family.model_class
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert_same(family, loaded(**inputs), model(**inputs), atol=family.atol)


@torch.no_grad()
def test_base_model_loads_from_the_same_folder(family, tmp_path):
    model, inputs = family.model(), family.inputs()
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert type(base) is family.base_class
    name = family.base_prediction_name
    torch.testing.assert_close(base(**inputs)[name], model.base_model(**inputs)[name], rtol=0, atol=family.atol)


def test_config_round_trip(family, tmp_path):
    config = family.config()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is family.config_class
    assert loaded.to_diff_dict() == config.to_diff_dict()


@torch.no_grad()
def test_alone_and_in_any_batch_the_same(family):
    model, inputs = family.model(), family.inputs()
    together = model(**inputs)
    for index in range(len(inputs["input_ids"])):
        alone = model(**family.single(inputs, index))
        rows = {n: together[n][index : index + 1] for n in family.prediction_names}
        # Logits of every token are as long as the longest protein of the batch.
        found = {n: row[tuple(slice(size) for size in alone[n].shape)] for n, row in rows.items()}
        assert_same(family, found, alone, atol=1e-5)


def test_every_weight_gets_a_gradient(family):
    model = family.model().train()
    model(**family.inputs(), **family.labels()).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_gradient_checkpointing_gives_the_same_gradients(family):
    gradients = []
    for checkpointing in (False, True):
        model = family.model().train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        torch.manual_seed(0)  # dropout
        model(**family.inputs(), **family.labels()).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_close(family, dtype, tmp_path):
    model, inputs = family.model(), family.inputs()
    model.save_pretrained(tmp_path)
    half = family.auto_class.from_pretrained(tmp_path, dtype=dtype).eval()
    assert half.dtype == dtype
    converted = family.model_class.from_pretrained(tmp_path).eval().to(dtype)
    assert {weight.dtype for weight in converted.parameters()} == {dtype}
    expected = model(**inputs)
    for model in (half, converted):
        outputs = model(**inputs)
        assert_same(family, {n: outputs[n].float() for n in family.prediction_names}, expected, rtol=0.05, atol=0.02)


@torch.no_grad()
@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}], ids=str)
def test_device_map(family, device_map, tmp_path):
    model, inputs = family.model(), family.inputs()
    model.save_pretrained(tmp_path)
    placed = family.auto_class.from_pretrained(tmp_path, device_map=device_map).eval()
    assert {weight.device.type for weight in placed.parameters()} == {"cpu"}
    assert_same(family, placed(**inputs), model(**inputs), atol=family.atol)


@torch.no_grad()
def test_compiled_gives_the_same(family):
    model, inputs = family.model(), family.inputs()
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=family.whole_graph)
        assert_same(family, compiled(**inputs), model(**inputs), atol=1e-5)


def test_initialization_leaves_nothing_as_allocated(family):
    """No weight keeps the garbage of an empty tensor."""
    with torch.device("meta"):
        model = family.model_class(family.config())
    model.to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.fill_(torch.nan)
    model.initialize_weights()
    assert [name for name, weight in model.named_parameters() if weight.isnan().any()] == []


def test_returns_a_tuple_on_request(family):
    outputs = family.model()(**family.inputs(), return_dict=False)
    assert isinstance(outputs, tuple)


REMOTE_SCRIPT = """
import importlib.util, sys, torch
assert importlib.util.find_spec("protloc") is None, "protloc must not be importable here"
from transformers import AutoConfig, AutoModel, AutoTokenizer, {auto_class}
folder, inputs, outputs = sys.argv[1:]
AutoConfig.from_pretrained(folder, trust_remote_code=True)
AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = {auto_class}.from_pretrained(folder, trust_remote_code=True).eval()
base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert type(base).__name__ == "{base_class}", type(base)
with torch.no_grad():
    result = model(**torch.load(inputs, weights_only=True))
torch.save({{name: result[name] for name in {names}}}, outputs)
"""


@torch.no_grad()
def test_remote_code_without_protloc(family, tmp_path, tokenizer):
    model, inputs = family.model(), family.inputs()
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(inputs, tmp_path / "inputs.pt")
    script = REMOTE_SCRIPT.format(
        auto_class=family.auto_class.__name__, base_class=family.base_class.__name__, names=family.prediction_names
    )
    run_without_protloc(script, folder, tmp_path / "inputs.pt", tmp_path / "outputs.pt", cache=tmp_path)
    assert_same(family, torch.load(tmp_path / "outputs.pt", weights_only=True), model(**inputs), atol=family.atol)


def test_the_script_above_would_notice_protloc():
    script = REMOTE_SCRIPT.format(auto_class="AutoModel", base_class="", names=())
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "AssertionError: protloc must not be importable here" in result.stderr
