"""deepGPS: its variants, long sequences, structures, losses, and images drawn from noise."""

import pytest
import torch
from diffusers import DDIMScheduler
from skimage.metrics import structural_similarity as reference_ssim
from transformers import AutoModel, EsmConfig, EsmModel

from protloc import DeepGPSConfig, DeepGPSModel
from protloc.models.losses_deepgps import image_loss, structural_similarity
from protloc.models.unet_deepgps import remove_grid
from tests.helpers import TINY_DEEPGPS, TINY_DEEPLOC, TINY_ESM, tiny_deepgps, tiny_deeploc
from tests.models.test_common import DeepGPSTester, DeepLocTester
from training.common.backbones import merged, set_backbone_training

TESTER = DeepGPSTester()
VARIANTS = {
    "paper": {"unet": "paper", "pooling": "mean"},
    "structure": {"inputs": "structure"},
    "both": {"inputs": "sequence+structure"},
    "paper, both": {"unet": "paper", "inputs": "sequence+structure"},
    "diffusion": {"objective": "diffusion", "condition_dropout": 0.0},
    "diffusion of structure": {"objective": "diffusion", "inputs": "structure", "condition_dropout": 0.0},
    "cell lines": {"cell_lines": ["HEK293T", "U2OS"]},
    "no label": {"classify": False},
    "multi-label": {"problem_type": "multi_label_classification", "id2label": {i: str(i) for i in range(17)}},
    "mae+ssim": {"image_loss": "mae+ssim"},
    "patches": {"patch_size": 2},
    "margin and shifts": {"patch_size": 2, "drawing_margin": 5, "drawing_shifts": 4},
    "deeploc": {"backbone_config": {"model_type": "deeploc", **TINY_DEEPLOC}},
    "one scale": {"unet_channels": [8]},
    "conditioned on the label": {"condition_on_label": True, "label_temperature": 0.5},
    "adversarial": {"objective": "adversarial", "noise_scales": [1, 4], "head_channels": 4, "patch_size": 2},
    "adversarial, of labels alone": {
        "objective": "adversarial",
        "noise_scales": [1],
        "head_channels": 4,
        "condition_on_label": True,
        "condition_on_residues": False,
    },
    "adversarial, of labels of structures": {
        "objective": "adversarial",
        "condition_on_label": True,
        "condition_on_residues": False,
        "inputs": "structure",
    },
    "conditioned on the label, both": {"condition_on_label": True, "inputs": "sequence+structure"},
}


def inputs_for(model):
    inputs = TESTER.inputs()
    if model.reads_structure:
        inputs["structure"] = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(4))
    if not model.reads_sequence:
        inputs = {name: inputs[name] for name in ("nucleus", "structure")}
    return inputs


def targets_for(model):
    targets = TESTER.labels()
    if model.config.problem_type == "multi_label_classification":
        targets["labels"] = torch.eye(17)[[0, 3, 5]]
    return targets


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_no_parameter_is_without_a_gradient(overrides):
    model = tiny_deepgps(**overrides).train()
    model(**inputs_for(model), **targets_for(model)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_alone_and_saved_give_the_same(overrides, tmp_path):
    model = tiny_deepgps(**overrides)
    inputs = inputs_for(model)

    def draw(model, **inputs):
        return model.generate(**inputs, num_inference_steps=2, generator=torch.Generator().manual_seed(0))

    together = draw(model, **inputs)
    assert together.protein_image.shape == (3, 1, 18, 21)
    assert together.protein_image.min() >= 0 and together.protein_image.max() <= 1
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(draw(loaded, **inputs).protein_image, together.protein_image, rtol=0, atol=0)
    if model.config.objective == "diffusion":
        assert DDIMScheduler.from_pretrained(tmp_path).config.prediction_type == "v_prediction"
        return
    for i in range(3):
        single = {"nucleus": inputs["nucleus"][i : i + 1]}
        if model.reads_sequence:
            single = TESTER.single(inputs, i)
        if model.reads_structure:
            single["structure"] = inputs["structure"][i : i + 1]
        alone = model(**single)  # an adversarial one draws from the noise of seed 0
        torch.testing.assert_close(alone.protein_image, together.protein_image[i : i + 1], rtol=0, atol=1e-5)
        if model.config.classify:
            torch.testing.assert_close(alone.logits, together.logits[i : i + 1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_long_sequences_are_read_in_windows():
    model = tiny_deepgps(max_length=12)
    inputs = {name: value for name, value in TESTER.inputs().items() if name != "nucleus"}  # 30, 7 and 19 residues
    states = model.encode_sequence(**inputs)
    assert states.shape == (3, 32, 16)
    backbone = model.backbone
    for protein, length in enumerate((30, 7, 19)):
        alone = {name: value[protein : protein + 1, : length + 2] for name, value in inputs.items()}
        torch.testing.assert_close(
            states[protein, 1 : length + 1], model.encode_sequence(**alone)[0, 1:-1], rtol=0, atol=1e-5
        )
    # The first window alone, where no other overlaps it
    ids = torch.cat([inputs["input_ids"][:1, :13], torch.tensor([[2]])], dim=1)
    first = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(states[0, 1:6], first[0, 1:6], rtol=0, atol=1e-5)


@torch.no_grad()
def test_states_computed_before_stand_for_the_sequence():
    model, inputs = tiny_deepgps(), TESTER.inputs()
    special = (inputs["input_ids"] == 0) | (inputs["input_ids"] == 2)
    states = model.encode_sequence(inputs["input_ids"], inputs["attention_mask"])
    given = {"residue_embeddings": states, "residue_mask": inputs["attention_mask"].bool() & ~special}
    outputs = model(**given, nucleus=inputs["nucleus"])
    torch.testing.assert_close(outputs.protein_image, model(**inputs).protein_image, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_order_of_atoms_does_not_matter():
    model = tiny_deepgps(inputs="structure")
    inputs = inputs_for(model)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    mixed = {**inputs, "structure": inputs["structure"][:, order]}
    torch.testing.assert_close(model(**mixed).logits, model(**inputs).logits, rtol=0, atol=1e-5)
    other = {**inputs, "structure": inputs["structure"].flip(0)}
    assert not torch.allclose(model(**other).logits, model(**inputs).logits)


@torch.no_grad()
def test_attention_is_over_residues():
    attentions = tiny_deepgps()(**TESTER.inputs()).attentions
    torch.testing.assert_close(attentions.sum(-1), torch.ones(3, 1))
    for row, length in zip(attentions[:, 0], (30, 7, 19), strict=True):
        assert (row[1 : length + 1] > 0).all() and not row[0].any() and not row[length + 1 :].any()


@torch.no_grad()
def test_the_published_attention_has_one_key_and_loses_the_bottleneck():
    """Why `unet="condition"` is the default: with one key it makes no difference what the bottleneck saw."""
    unet = tiny_deepgps(unet="paper").unet
    pooled = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    nucleus = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    inputs = {"timestep": 0, "encoder_hidden_states": pooled.unsqueeze(1), "timestep_cond": pooled}
    (drawn,) = unet(nucleus, **inputs)
    for weight in unet.query.parameters():
        weight.mul_(-3)
    torch.testing.assert_close(unet(nucleus, **inputs)[0], drawn, rtol=0, atol=1e-5)


@torch.no_grad()
def test_cell_lines():
    model = tiny_deepgps(cell_lines=["HEK293T", "U2OS"])
    inputs = TESTER.inputs()
    images = [model(**inputs, cell_line=torch.full((3,), i)).protein_image for i in range(3)]
    assert not torch.allclose(images[0], images[1])
    torch.testing.assert_close(model(**inputs).protein_image, images[2])  # unknown
    assert [model.config.cell_line_index(name) for name in ("u-2 os", "HEK293T", None, "unknown")] == [1, 0, 2, 2]
    with pytest.raises(ValueError, match="a cell line is given by its name, got nan"):
        model.config.cell_line_index(float("nan"))


@torch.no_grad()
def test_the_image_is_conditioned_on_the_label():
    """The true one in training, so that the head's mistakes teach it nothing; later what the head says, sharpened."""
    model = tiny_deepgps(condition_on_label=True)
    inputs = TESTER.inputs()
    as_predicted = model(**inputs).protein_image
    torch.testing.assert_close(model.generate(**inputs).protein_image, as_predicted)
    assert model(**inputs, labels=torch.tensor([0, 1, 0])).protein_image.equal(as_predicted)
    model.train()
    model.classifier.eval()  # without dropout, so that only the label differs
    drawn = [model(**inputs, labels=torch.tensor(labels)).protein_image for labels in ([0, 0, 0], [1, 0, -100])]
    assert not drawn[0][0].allclose(drawn[1][0]) and drawn[0][1].allclose(drawn[1][1])
    torch.testing.assert_close(drawn[1][2], as_predicted[2])
    model.eval().config.label_temperature = 1e-6
    certain = model(**inputs)
    label = torch.nn.functional.one_hot(certain.logits.argmax(dim=-1), 2).float()
    latents, mask, pooled, _ = model.read_protein(inputs["input_ids"], inputs["attention_mask"], None, None, None)
    pooled = pooled + model.label_latent(label).unsqueeze(1)
    by_hand = model.draw(2 * inputs["nucleus"] - 1, 0, latents, mask, pooled).sigmoid()
    torch.testing.assert_close(certain.protein_image, by_hand)


@torch.no_grad()
def test_the_grid_of_patches_is_averaged_out():
    """On a constant nucleus a pixel's place in its patch is all that its value can depend on, far from the border."""
    inputs = TESTER.inputs() | {"nucleus": torch.full((3, 1, 48, 48), 0.3)}

    def spread(shifts):
        model = tiny_deepgps(patch_size=4, image_size=48, drawing_margin=32, drawing_shifts=shifts)
        drawn = model(**inputs).protein_image
        places = drawn.unflatten(2, (12, 4)).unflatten(4, (12, 4)).mean(dim=(2, 4))  # (3, 1, 4, 4)
        lines = places.mean(dim=3).std() + places.mean(dim=2).std()
        return places.flatten(1).std(dim=1).mean().item(), lines.item()

    (once, lines_once), (diagonal, lines_diagonal), (everywhere, _) = spread(1), spread(4), spread(16)
    assert once > 0.01 and lines_diagonal < 0.05 * lines_once
    assert everywhere < 0.02 * once and everywhere < 0.2 * diagonal


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (5, 31), (33, 30)])
def test_margin_and_shifts_at_any_size(size):
    model = tiny_deepgps(patch_size=2, drawing_margin=8, drawing_shifts=4)
    inputs = TESTER.inputs() | {"nucleus": torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))}
    drawn = model(**inputs).protein_image
    assert drawn.shape == (3, 1, *size) and drawn.min() >= 0 and drawn.max() <= 1
    torch.testing.assert_close(model.generate(**inputs).protein_image, drawn, rtol=0, atol=1e-6)
    half = tiny_deepgps(patch_size=2, drawing_margin=8, drawing_shifts=4).bfloat16()(**inputs).protein_image
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, drawn, rtol=0, atol=0.05)


@torch.no_grad()
def test_training_draws_once_and_without_a_margin():
    inputs, targets = TESTER.inputs(), TESTER.labels()
    plain, model = (tiny_deepgps(patch_size=2, **more) for more in ({}, {"drawing_margin": 8, "drawing_shifts": 4}))
    for one in (plain, model):
        one.train().classifier.eval()  # without dropout
    assert model(**inputs, **targets).loss == plain(**inputs, **targets).loss
    model.eval()
    outputs = model(**inputs, protein=targets["protein"])
    loss = (outputs.protein_image - targets["protein"]).square().mean()
    torch.testing.assert_close(outputs.loss, loss)
    assert not outputs.protein_image.allclose(plain.eval()(**inputs).protein_image)


@torch.no_grad()
def test_samples_seeds_steps_and_guidance():
    model = tiny_deepgps(objective="diffusion", num_inference_steps=3)
    inputs = TESTER.inputs()

    def draw(seed=0, **options):
        return model.generate(**inputs, num_samples=2, generator=torch.Generator().manual_seed(seed), **options)

    outputs = draw()
    assert outputs.samples.shape == (3, 2, 1, 18, 21)
    torch.testing.assert_close(outputs.protein_image, outputs.samples.mean(dim=1))
    torch.testing.assert_close(outputs.uncertainty, outputs.samples.std(dim=1, correction=0))
    assert outputs.uncertainty.mean() > 0
    torch.testing.assert_close(draw().samples, outputs.samples, rtol=0, atol=0)
    assert not torch.equal(draw(seed=1).samples, outputs.samples)
    assert not torch.equal(draw(num_inference_steps=5).samples, outputs.samples)
    assert not torch.equal(draw(guidance_scale=3.0).samples, outputs.samples)
    same = tiny_deepgps().generate(**inputs, num_samples=3)
    assert not same.uncertainty.any()


def test_ssim_is_scikit_image_s():
    one, other = torch.rand(2, 1, 24, 30, generator=torch.Generator().manual_seed(0)).double().split(1)
    options = {
        "data_range": 1.0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "win_size": 11,
    }
    _, whole = reference_ssim(one[0, 0].numpy(), other[0, 0].numpy(), full=True, **options)
    assert structural_similarity(one, other).item() == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-6)
    assert structural_similarity(one, one).item() == pytest.approx(1)


def test_image_losses_by_hand():
    logits, protein = torch.randn(2, 1, 12, 12), torch.rand(2, 1, 12, 12)
    image = logits.sigmoid()
    torch.testing.assert_close(image_loss(logits, protein, "mse"), ((image - protein) ** 2).mean())
    torch.testing.assert_close(image_loss(logits, protein, "mae"), (image - protein).abs().mean())
    bce = -(protein * image.log() + (1 - protein) * (1 - image).log()).mean()
    torch.testing.assert_close(image_loss(logits, protein, "bce"), bce)
    both = (image - protein).abs().mean() + 1 - structural_similarity(image, protein).mean()
    torch.testing.assert_close(image_loss(logits, protein, "mae+ssim"), both)


@torch.no_grad()
def test_the_loss_is_weighted():
    model = tiny_deepgps(label_loss_weight=0.5, image_loss_weight=3.0)
    inputs, targets = TESTER.inputs(), TESTER.labels()
    outputs = model(**inputs, **targets)
    label = torch.nn.functional.cross_entropy(outputs.logits, targets["labels"])
    image = ((outputs.protein_image - targets["protein"]) ** 2).mean()
    torch.testing.assert_close(outputs.loss, 0.5 * label + 3 * image)


@torch.no_grad()
def test_around_trained_backbones(tmp_path, tokenizer):
    torch.manual_seed(1)
    esm = EsmModel(EsmConfig(**TINY_ESM)).eval()
    esm.save_pretrained(tmp_path / "esm")
    tokenizer.save_pretrained(tmp_path / "esm")
    inputs = DeepLocTester().inputs()
    fields = {name: value for name, value in TINY_DEEPGPS.items() if name != "backbone_config"}
    model = DeepGPSModel.from_backbone_pretrained(str(tmp_path / "esm"), **fields).eval()
    torch.testing.assert_close(model.encode_sequence(**inputs), esm(**inputs).last_hidden_state)

    deeploc = tiny_deeploc()
    deeploc.save_pretrained(tmp_path / "deeploc")
    model = DeepGPSModel.from_backbone_pretrained(str(tmp_path / "deeploc"), **fields).eval()
    torch.testing.assert_close(model.encode_sequence(**inputs), deeploc.deeploc(**inputs).last_hidden_state)


def test_low_rank_updates_of_the_encoder():
    model = tiny_deepgps()
    inputs, targets = TESTER.inputs(), TESTER.labels()
    plain = model.state_dict()
    set_backbone_training(model, "lora", lora_rank=2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step leaves one of the two factors at zero
        optimizer.zero_grad()
        model.train()(**inputs, **targets).loss.backward()
        optimizer.step()
    trained = [name for name, weight in model.named_parameters() if weight.grad is not None]
    assert all("lora" in name for name in trained if name.startswith("backbone."))
    assert any("lora" in name for name in trained)
    with torch.no_grad():
        expected = model.eval()(**inputs)
        whole = merged(model)
        assert whole.state_dict().keys() == plain.keys()
        name = "backbone.encoder.layer.0.attention.self.query.weight"
        assert not torch.equal(whole.state_dict()[name], plain[name])
        torch.testing.assert_close(whole(**inputs).protein_image, expected.protein_image, rtol=0, atol=1e-5)
    assert merged(whole) is whole

    with pytest.raises(ValueError, match="has no linear layers for LoRA"):
        set_backbone_training(tiny_deepgps(**VARIANTS["deeploc"]), "lora")
    frozen = tiny_deepgps()
    set_backbone_training(frozen, "frozen")
    frozen.train()(**inputs, **targets).loss.backward()
    without = [name for name, weight in frozen.named_parameters() if weight.grad is None]
    assert without == [name for name, _ in frozen.named_parameters() if name.startswith("backbone.")]


def test_the_paper_s_size():
    """ESM2-650M and 64 ... 1,024 channels on the meta device: shapes and parameters."""
    esm = {"hidden_size": 1280, "num_hidden_layers": 33, "num_attention_heads": 20, "intermediate_size": 5120}
    config = DeepGPSConfig(
        backbone_config={**TINY_ESM, **esm}, unet="paper", unet_channels=[64, 128, 256, 512, 1024], pooling="mean"
    )
    with torch.device("meta"):
        model = DeepGPSModel(config).eval()
    counts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("backbone", "unet")}
    assert counts["backbone"] == pytest.approx(651e6, rel=0.01)
    assert counts["unet"] == pytest.approx(34e6, rel=0.05)
    ids = torch.zeros(2, 50, dtype=torch.long, device="meta")
    skips = []
    model.unet.down[-1].register_forward_hook(lambda module, inputs, output: skips.append(output.shape))
    states = torch.zeros(2, 50, 1280, device="meta")
    nucleus = torch.zeros(2, 1, 208, 208, device="meta")
    outputs = model(residue_embeddings=states, residue_mask=ids, nucleus=nucleus)
    assert skips == [(2, 1024, 13, 13)]
    assert outputs.protein_image.shape == (2, 1, 208, 208) and outputs.logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"unet": "big"}, "unet must be one of condition, paper, got 'big'"),
        ({"inputs": "image"}, "inputs must be one of"),
        ({"condition_dropout": 1}, "condition_dropout must be at least 0 and below 1, got 1"),
        ({"unet": "paper", "objective": "diffusion"}, "draws the mean of what a protein looks like"),
        (
            {"condition_on_residues": False, "objective": "adversarial"},
            "depends on the label alone: set condition_on_label",
        ),
        (
            {"condition_on_residues": False, "condition_on_label": True, "objective": "diffusion"},
            "must be true but for objective 'adversarial'",
        ),
        ({"objective": "adversarial", "patch_size": 3}, "must be a power of two for an adversarial model, got 3"),
        ({"objective": "adversarial", "noise_scales": [0]}, "noise_scales must be 1 or more, got 0"),
        ({"objective": "adversarial", "noise_scales": []}, "noise_scales is empty"),
        ({"objective": "adversarial", "head_channels": 0}, "head_channels must be 1 or more, got 0"),
        ({"unet": "paper", "cell_lines": ["U2OS"]}, "knows no cell lines"),
        ({"cell_lines": ["U2OS", "U-2 OS"]}, "must be different names"),
        ({"cell_lines": ["U2OS", "unknown"]}, "must be different names"),
        ({"problem_type": "regression"}, "problem_type must be"),
        ({"condition_on_label": True, "classify": False}, "condition_on_label needs a head for single labels"),
        ({"label_temperature": 0}, "label_temperature must be above 0, got 0"),
        ({"drawing_margin": -1}, "drawing_margin must be 0 or more, got -1"),
        ({"drawing_margin": 17}, "drawing_margin must be at most image_size, 16, got 17"),
        (
            {"patch_size": 2, "drawing_shifts": 3},
            r"drawing_shifts must be 1, patch_size or its square \(1, 2, 4\), got 3",
        ),
    ],
)
def test_bad_configurations(overrides, message):
    with pytest.raises(Exception, match=message):
        DeepGPSConfig(**{**TINY_DEEPGPS, **overrides})


@pytest.mark.parametrize("kind", ["mae+ssim", "mse+ssim"])
def test_ssim_is_computed_in_full_precision(kind):
    torch.manual_seed(0)
    protein = torch.rand(2, 1, 24, 24) * (torch.arange(24) < 12)  # half of it black
    logits = protein.logit(eps=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = image_loss(logits, protein, kind)
    torch.testing.assert_close(mixed, image_loss(logits, protein, kind), rtol=0, atol=1e-5)


def test_a_frozen_encoder_has_no_dropout():
    model = tiny_deepgps()
    assert model.train().backbone.training
    model.backbone.requires_grad_(False)
    assert not model.train().backbone.training and model.unet.training


@torch.no_grad()
def test_an_adversarial_model_draws_the_compartments_that_it_is_told():
    fields = {"objective": "adversarial", "noise_scales": [1, 4], "condition_on_label": True}
    model = tiny_deepgps(**fields, condition_on_residues=False, id2label={i: str(i) for i in range(4)})
    nucleus = torch.rand(2, 1, 16, 16)

    def draw(label, **more):
        labels = torch.tensor([label] * 2)
        return model.generate(nucleus, labels=labels, generator=torch.Generator().manual_seed(1), **more)

    first, other = draw(0).protein_image, draw(3).protein_image
    assert (first - other).abs().max() > 1e-3
    several = draw(0, num_samples=3)
    assert several.samples.shape == (2, 3, 1, 16, 16) and several.uncertainty.mean() > 0
    assert several.logits is None  # no protein was read
    # With a protein: the mean of the three most probable compartments
    inputs = {name: value[:2] for name, value in TESTER.inputs().items() if name != "nucleus"}
    probabilities = model(**inputs).logits.softmax(dim=-1)
    drawn = model.generate(nucleus, generator=torch.Generator().manual_seed(1), **inputs).protein_image
    for row, found in enumerate(probabilities):
        kept = found.topk(3).indices.tolist()
        expected = sum(found[i] * draw(i).protein_image[row] for i in kept) / found[kept].sum()
        torch.testing.assert_close(drawn[row], expected, rtol=0, atol=1e-5)
    # Noise that is given
    noise = model.draw_noise(nucleus, torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(nucleus=nucleus, noise=noise, **inputs).protein_image, drawn, rtol=0, atol=1e-6)


def test_a_grid_is_removed_and_texture_stays():
    texture = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    grid = 0.1 * (torch.arange(64) % 4 == 0).float()
    cleaned = remove_grid(texture + grid, 4)[..., 12:-12, 12:-12]
    columns = torch.stack([cleaned[..., i::4].mean() for i in range(4)])  # the grid's columns stood out by 0.1
    assert columns.std() < 0.01
    assert (cleaned - texture[..., 12:-12, 12:-12] - grid.mean()).std() < 0.25 * texture.std()


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 500), (20, 20), (33, 7), (1, 1)])
def test_small_and_narrow_nuclei(size):
    fields = {"unet_channels": [8, 8, 8, 8], "patch_size": 4, "image_size": 64}
    inputs = {**TESTER.inputs(), "nucleus": torch.rand(3, 1, *size)}
    for objective in ("adversarial", "regression"):
        assert tiny_deepgps(objective=objective, **fields)(**inputs).protein_image.shape == (3, 1, *size)


@pytest.mark.parametrize(
    ("fields", "labels", "message"),
    [
        ({}, [4], "the label 4 is none of 0 to 1"),
        ({}, [-1], "the label -1 is none of 0 to 1"),
        ({}, [0, 1], "one label for each of 1 nuclei"),
        ({"objective": "regression"}, [0], "draws no given labels"),
        ({"condition_on_label": False}, [0], "draws no given labels"),
    ],
)
def test_labels_that_are_not_drawn(fields, labels, message):
    model = tiny_deepgps(**{"objective": "adversarial", "condition_on_label": True, **fields})
    inputs = {name: value[:1] for name, value in TESTER.inputs().items()}
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs, labels=torch.tensor(labels))
