"""Other tools' tables, in the layouts that they have, against the same proteins."""

import numpy as np
import pytest
from datasets import load_dataset

from training.deepgps.labels import cytoplasm_or_nucleus, label_scores


@pytest.fixture
def known(tiny_proteins):
    return [(row["uniprot_id"], row["source_labels"]) for row in load_dataset(str(tiny_proteins), split="test")]


@pytest.mark.slow
def test_layouts(run_script, tiny_proteins, known, tmp_path):
    # Accessions of the fixture stand for two proteins each; take those of one class.
    names = [accession for accession, label in known if label == "nucleoplasm"]
    head = "Cytoplasm\tMembrane\tNucleus\tMitochondrion\tCell_membrane\n"
    tables = {
        "DeepLoc 1": f"ID\tLocation\t{head}" + "".join(f"{n}\tNucleus\t0.2\t0.9\t0.5\t0.2\t0.1\n" for n in names),
        "MultiLoc2": "MultiLoc2 Prediction Result\n\npredictor = MultiLoc2-LowRes\norigin = animal\n\n"
        + "".join(f"{n}\tnuclear: 0.9\tcytoplasmic: 0.1\tsecretory pathway: 0.0\n" for n in names),
        "BUSCA": "Accession,GO-term,Score\n" + "".join(f"{n},C:nucleus,0.8\n" for n in names),
        "MULocDeep": "".join(f">{n}\tNucleus:0.9\tCytoplasm:0.2\tGolgi apparatus:1e-3\n" for n in names),
        "two lines": "".join(f">{n}\nNucleus:0.9 Cytoplasm:0.2\n" for n in names),
        "wrong": "gene;Location\n" + "".join(f"{n};Cytosol then nucleus\n" for n in names),
        "elsewhere": "id,prediction\n" + "".join(f"{n},Mitochondrion\n" for n in names),
        "scores elsewhere": "id\tcytoplasmic\tnuclear\tmitochondrial\n" + "".join(f"{n}\t0\t0.4\t0.6\n" for n in names),
    }
    options = []
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
        options += ["--tool", f"{name}={tmp_path / name}"]
    code, out, err = run_script(
        "training.deepgps.compare_tools", "--proteins", tiny_proteins, *options, "--fasta", tmp_path / "test.fasta"
    )
    assert code == 0, err
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in out.splitlines()}
    # All are said to be nuclear, or all to be cytoplasm, the positive class: right about one half of the proteins.
    for name in ("DeepLoc 1", "MultiLoc2", "BUSCA", "MULocDeep", "two lines"):
        assert "| 6/6 | 0.500 | 1.000 | 0.000 |" in rows[name]
    for name in ("wrong", "elsewhere", "scores elsewhere"):
        assert "| 6/6 | 0.500 | 0.000 | 1.000 | 0.667 |" in rows[name]
    assert (tmp_path / "test.fasta").read_text().count(">") == 6


def test_the_papers_table():
    """DeepLoc 1.0 in Table 1: right about 34 of 40 cytoplasmic proteins and 18 of 23 nuclear ones."""
    truth = np.repeat([0, 1], [40, 23])
    nuclear = np.concatenate([np.arange(40) >= 34, np.arange(23) < 18]).astype(float)
    scores = label_scores(truth, np.stack([1 - nuclear, nuclear], axis=1), ["cytoplasm", "nucleoplasm"])
    found = [round(scores[name], 3) for name in ("accuracy", "specificity", "sensitivity", "f1")]
    assert found == [0.825, 0.783, 0.85, 0.861]


def test_what_is_not_nuclear_is_cytoplasm():
    probabilities = np.array([[0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    two = cytoplasm_or_nucleus(probabilities, ["cytoplasm", "nucleoplasm", "mitochondria"])
    assert two.argmax(axis=1).tolist() == [0, 1] and np.allclose(two.sum(axis=1), 1)


def test_proteins_of_hpa_crops(run_script, tiny_crops, tmp_path):
    (tmp_path / "tool.csv").write_text("id,location\nX,nucleus\n")
    source = f"{tiny_crops / 'cells'}:cells"
    options = "--images", source, "--split", "train", "--tool", f"x={tmp_path / 'tool.csv'}"
    code, _, err = run_script("training.deepgps.compare_tools", *options)
    assert code == 2 and "none of its proteins is among the" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column for the protein among a, b"),
        (
            "id,b\n1,2\n",
            "no columns of scores for the nucleus and other compartments, and none of compartments, among id, b",
        ),
        ("id,Cytoplasm,Nucleus\nX,5%,95%\n", "no number in column 'Cytoplasm'"),
        ("id,location\nX,nucleus\n", "none of its proteins is among the 6"),
        ("", "no table that can be read"),
    ],
)
def test_errors(run_script, tiny_proteins, tmp_path, text, message):
    (tmp_path / "tool.csv").write_text(text)
    code, _, err = run_script(
        "training.deepgps.compare_tools", "--proteins", tiny_proteins, "--tool", f"x={tmp_path / 'tool.csv'}"
    )
    assert code == 2 and err.startswith("training.deepgps.compare_tools: ") and message in err
