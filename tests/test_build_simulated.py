"""Simulated proteins on the real nuclei of other data sets."""

import numpy as np
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from protloc.simulation import PATTERNS, simulate, simulate_protein
from tests.test_build_pairs import write_pairs
from training.deepgps.data import ImageSource, load_crops


def test_crops_on_the_nuclei_of_a_training_split(tmp_path, run_script):
    rows = [{"sequence": f"MK{'AG' * number}", "label": "speckles"} for number in range(4)]
    pairs, made = tmp_path / "pairs", tmp_path / "simulated"
    assert run_script("datasets_scripts.build_pairs", write_pairs(tmp_path, rows), "--out", pairs)[0] == 0
    build = "datasets_scripts.build_simulated", f"{pairs}:all"
    code, _, err = run_script(*build, "--categories", "vesicles", "golgi", "--count", "3", "--out", made)
    assert code == 0 and "6 simulated images on nuclei of" in err, err
    crops = load_dataset(str(made), "all")["train"]
    assert crops.features["labels"].feature.names == ["golgi", "vesicles"] and len(crops) == 6
    assert set(crops["source_image"]) <= set(load_dataset(str(pairs), "all")["train"]["source_image"])
    classes = load_crops([ImageSource(str(made), "all")], "train", ["vesicles", "Golgi"])["class"]
    assert classes == [1, 1, 1, 0, 0, 0]
    assert "simulated" in DatasetCard.load(made / "README.md").text

    code, _, err = run_script(*build, "--categories", "nowhere", "--out", made)
    assert code == 2 and "nowhere" in err


def test_a_protein_around_given_nuclei():
    field = simulate("nucleoplasm", size=160, seed=1)
    near, far = (simulate_protein("membrane", field.labels, seed=2, cytoplasm=um) for um in (4, 12))
    again = simulate_protein("membrane", field.labels, seed=2, cytoplasm=4)
    np.testing.assert_array_equal(near, again)
    rows, columns = np.indices(near.shape) - 80

    def radius(image):
        bright = image > np.quantile(image, 0.98)
        return np.hypot(rows[bright], columns[bright]).mean()

    assert near.dtype == np.uint16 and near.shape == (160, 160) and radius(far) > radius(near) + 10


def test_crops_that_are_not_there(tmp_path, run_script):
    code, _, err = run_script("datasets_scripts.build_simulated", f"{tmp_path}:all", "--out", tmp_path / "made")
    assert code == 2 and "is no DATASET:CONFIG with a split train" in err and not (tmp_path / "made").exists()


@pytest.mark.parametrize("category", sorted(PATTERNS))
@pytest.mark.parametrize("shape", [(120, 208), (208, 120)])
def test_a_field_of_any_shape_and_a_sliver_of_a_nucleus(category, shape):
    nuclei = np.zeros(shape, np.int32)
    nuclei[40:80, 40:80] = 1
    nuclei[0, 90:92] = 3  # and no 2
    protein = simulate_protein(category, nuclei)
    assert protein.shape == shape and protein.max() > protein.min()
