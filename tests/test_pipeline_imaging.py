"""The imaging pipeline and its processor: from a sequence and a nucleus to a label and a picture."""

import base64
import io

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from protloc import DeepGPSImageProcessor, DeepGPSProcessor, ProteinImagingPipeline
from protloc.microscopy import DEFAULT_NUCLEUS
from tests.helpers import run_without_protloc, tiny_deepgps

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"
NUCLEUS = np.random.default_rng(0).integers(0, 60_000, (18, 21)).astype(np.uint16)
CLOUD = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def processor(tokenizer):
    return DeepGPSProcessor(tokenizer=tokenizer, image_processor=DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))


def imaging(processor, **overrides) -> ProteinImagingPipeline:
    return pipeline("protein-imaging", model=tiny_deepgps(dropout=0.9, **overrides).train(), processor=processor)


def test_processor(processor):
    inputs = processor(text=["mkt-ayi*", "MK"], images=NUCLEUS, structure=[CLOUD, CLOUD])
    assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {
        "nucleus": (2, 1, 18, 21),
        "input_ids": (2, 8),
        "attention_mask": (2, 8),
        "structure": (2, 20, 6),
    }
    assert processor(text="MK")["nucleus"].shape == (1, 1, 208, 208)
    assert "input_ids" not in processor(structure=CLOUD, images=NUCLEUS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a sequence, a structure, or both"),
        ({"text": "MK7"}, "'7' at position 3"),
        ({"text": ["MK", "MKT"], "structure": CLOUD}, "2 sequences and 1 structures"),
        ({"text": "MK", "images": [NUCLEUS] * 2}, "1 proteins and 2 nuclei"),
        ({"text": "MK", "images": np.zeros((20, 20))}, "the image is empty"),
        ({"text": "MK", "images": "none.png"}, "none.png: there is no such file"),
        ({"text": "MK", "return_tensors": "np"}, "return_tensors must be 'pt'"),
    ],
)
def test_bad_input(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_result(processor):
    draw = imaging(processor)
    result = draw({"sequence": SEQUENCE, "nucleus": Image.fromarray(NUCLEUS)})
    assert set(result) == {"label", "scores", "image", "uncertainty"}
    assert list(result["scores"]) == ["cytoplasm", "nucleoplasm"]
    assert sum(result["scores"].values()) == pytest.approx(1)
    assert result["label"] == max(result["scores"], key=result["scores"].get)
    assert result["image"].mode == "L" and result["image"].size == (21, 18) and result["uncertainty"] is None
    again = draw({"sequence": SEQUENCE, "nucleus": NUCLEUS})
    assert again["image"].tobytes() == result["image"].tobytes()  # in evaluation mode
    assert draw({"sequence": SEQUENCE})["image"].size == (208, 208)
    several = draw([{"sequence": SEQUENCE, "nucleus": NUCLEUS}, {"sequence": "MK", "nucleus": NUCLEUS}])
    assert several[0]["scores"] == pytest.approx(result["scores"]) and len(several) == 2


def test_a_nucleus_in_any_form(processor, tmp_path):
    draw = imaging(processor)
    Image.fromarray(NUCLEUS).save(tmp_path / "nucleus.png")
    content = (tmp_path / "nucleus.png").read_bytes()
    expected = draw({"sequence": SEQUENCE, "nucleus": NUCLEUS})["image"].tobytes()
    path, url = tmp_path / "nucleus.png", f"data:image/png;base64,{base64.b64encode(content).decode()}"
    of_datasets = [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}]
    for nucleus in (path, str(path), content, io.BytesIO(content), url, *of_datasets):
        assert draw({"sequence": SEQUENCE, "nucleus": nucleus})["image"].tobytes() == expected


def test_diffusion_gives_an_uncertainty(processor):
    draw = imaging(processor, objective="diffusion")
    protein = {"sequence": SEQUENCE, "nucleus": NUCLEUS}
    result = draw(protein, num_samples=3, num_inference_steps=2, seed=0)
    assert result["uncertainty"].mode == "L" and np.asarray(result["uncertainty"]).any()
    again = draw(protein, num_samples=3, num_inference_steps=2, seed=0)
    assert again["image"].tobytes() == result["image"].tobytes()


def test_structure_and_several_labels(processor):
    draw = imaging(
        processor,
        inputs="sequence+structure",
        problem_type="multi_label_classification",
        id2label={0: "nucleolus", 1: "er", 2: "golgi"},
    )
    result = draw({"sequence": SEQUENCE, "nucleus": NUCLEUS, "structure": CLOUD})
    called = [label for label, score in result["scores"].items() if score >= 0.5]
    assert sorted(filter(None, result["label"].split("|"))) == sorted(called)
    with pytest.raises(ValueError, match=r"reads sequence\+structure: the protein comes without a structure"):
        draw({"sequence": SEQUENCE, "nucleus": NUCLEUS})


def test_as_a_diffusers_pipeline(processor, run_script, tmp_path):
    imaging(processor, objective="diffusion").save_pretrained(tmp_path / "model")
    folder = tmp_path / "diffusers"
    options = "training.common.export", "--model", tmp_path / "model", "--out", folder
    code, out, err = run_script(*options)
    assert (code, out) == (0, f"{folder}\n"), err
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(folder)
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    options = {"nucleus": NUCLEUS, "num_images_per_prompt": 2, "num_inference_steps": 3, "output_type": "np"}

    def draw():
        return pipe([SEQUENCE, "MKT"], **options, generator=torch.Generator().manual_seed(0)).images

    images = draw()
    assert images.shape == (4, 18, 21, 1) and images.min() >= 0 and images.max() <= 1
    model = AutoModel.from_pretrained(tmp_path / "model").eval()
    inputs = processor(text=[SEQUENCE, "MKT"], images=NUCLEUS)
    generation = {"num_samples": 2, "num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
    expected = model.generate(**inputs, **generation).samples.flatten(0, 1)
    np.testing.assert_allclose(images[..., 0], expected[:, 0], atol=1e-6)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert np.isfinite(draw()).all() and not np.allclose(draw(), images)
    assert pipe(SEQUENCE).images[0].size == (208, 208) and pipe.unet is pipe.model.unet


DIFFUSERS_SCRIPT = """
import importlib.util, sys, numpy, torch
assert importlib.util.find_spec("protloc") is None
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
options = {"num_inference_steps": 3, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
numpy.save(sys.argv[4], pipe(sys.argv[3], nucleus=numpy.load(sys.argv[2]), **options).images)
"""


def test_a_diffusers_pipeline_needs_no_protloc(hub, processor, run_script, tmp_path):
    """From a folder and from the Hub, where diffusers fetches only what it thinks is needed."""
    draw = imaging(processor, objective="diffusion")
    draw.save_pretrained(tmp_path / "model")
    folder = tmp_path / "diffusers"
    assert run_script("training.common.export", "--model", tmp_path / "model", "--out", folder)[0] == 0
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.add("owner/drawn", files)
    np.save(tmp_path / "nucleus.npy", NUCLEUS)
    options = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
    expected = draw.model.generate(**processor(text=SEQUENCE, images=NUCLEUS), **options).samples[0, 0, 0]
    for source in (folder, "owner/drawn"):
        arguments = [source, tmp_path / "nucleus.npy", SEQUENCE, tmp_path / "image.npy"]
        run_without_protloc(DIFFUSERS_SCRIPT, *arguments, cache=tmp_path)
        np.testing.assert_allclose(np.load(tmp_path / "image.npy")[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("regression", "has the objective 'regression'"), ("none", "none"), ("deeploc", "deeploc model")],
)
def test_what_is_no_diffusers_pipeline(processor, tiny_model_dir, run_script, tmp_path, kind, message):
    model = tiny_model_dir if kind == "deeploc" else tmp_path / kind
    if kind == "regression":
        imaging(processor).save_pretrained(model)
    code, _, err = run_script("training.common.export", "--model", model, "--out", tmp_path / "out")
    assert code == 2 and message in err.splitlines()[-1] and not (tmp_path / "out").exists()


REMOTE_SCRIPT = """
import importlib.util, sys, numpy
assert importlib.util.find_spec("protloc") is None
from transformers import AutoImageProcessor, AutoProcessor, pipeline
folder = sys.argv[1]
draw = pipeline("protein-imaging", model=folder, trust_remote_code=True)
AutoProcessor.from_pretrained(folder, trust_remote_code=True)
AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
nucleus = numpy.load(sys.argv[2])
result = draw({"sequence": sys.argv[3], "nucleus": nucleus})
numpy.save(sys.argv[4], numpy.asarray(result["image"]))
print(draw({"sequence": sys.argv[3]})["image"].size, result["label"])
"""


@pytest.mark.parametrize("saved_by", ["pipeline", "model"])
def test_saved_and_without_protloc(processor, tmp_path, saved_by):
    draw = imaging(processor)
    for part in [draw] if saved_by == "pipeline" else [draw.model, processor]:
        part.save_pretrained(tmp_path / "saved")
    assert type(AutoProcessor.from_pretrained(tmp_path / "saved")) is DeepGPSProcessor
    np.save(tmp_path / "nucleus.npy", NUCLEUS)
    arguments = [tmp_path / "saved", tmp_path / "nucleus.npy", SEQUENCE, tmp_path / "image.npy"]
    out = run_without_protloc(REMOTE_SCRIPT, *arguments, cache=tmp_path)
    expected = draw({"sequence": SEQUENCE, "nucleus": NUCLEUS})
    assert out.splitlines()[-1] == f"(208, 208) {expected['label']}"
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), np.asarray(expected["image"], dtype=int), atol=1)


def test_texts_that_may_be_no_proteins_are_warned_of_once(processor):
    draw = imaging(processor)
    genes = [{"sequence": text, "nucleus": NUCLEUS} for text in ("ACGTRYKMSWBDHVNACGT", SEQUENCE, "ATGGCCCTGTGG")]
    for proteins in (genes, (gene for gene in genes)):
        with pytest.warns(
            UserWarning, match=r"^2 record\(s\) may be no protein: 'ACGT\w+' \(looks like nucleotides\), 'ATG"
        ):
            assert len(list(draw(proteins))) == 3
    with pytest.warns(UserWarning, match=r"^1 record\(s\) may be no protein"):
        draw(genes[0])
