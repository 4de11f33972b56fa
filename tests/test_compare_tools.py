"""Other tools' tables, in the layouts that they have, against the same proteins."""

import pytest
from datasets import load_dataset


@pytest.fixture
def known(tiny_proteins):
    return [(row["uniprot_id"], row["source_labels"]) for row in load_dataset(str(tiny_proteins), split="test")]


def test_layouts(run_script, tiny_proteins, known, tmp_path):
    # Accessions of the fixture stand for two proteins each; take those of one class.
    right = {"nucleoplasm": ("0.1", "0.9"), "cytoplasmic": ("0.8", "0.1")}
    tables = {
        "DeepLoc": "Protein_ID,Localizations,Cytoplasm,Nucleus\n",
        "MultiLoc2": "id\tcytoplasmic\tnuclear\tmitochondrial\n",
        "BUSCA": "Accession,GO-term,Score\n",
        "wrong": "gene;Location\n",
        "elsewhere": "id,prediction\n",
    }
    for accession, label in known:
        if label == "cytoplasmic":
            continue
        low, high = right[label]
        tables["DeepLoc"] += f"{accession},Nucleus,{low},{high}\n"
        tables["MultiLoc2"] += f"{accession}\t{low}\t{high}\t0\n"
        tables["BUSCA"] += f"{accession},C:nucleus,0.8\n"
        tables["elsewhere"] += f"{accession},Golgi\n"
        tables["wrong"] += f"{accession};Cytosol then nucleus\n"
    options = []
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
        options += ["--tool", f"{name}={tmp_path / name}"]
    code, out, err = run_script(
        "training.deepgps.compare_tools", "--proteins", tiny_proteins, *options, "--fasta", tmp_path / "test.fasta"
    )
    assert code == 0, err
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in out.splitlines()}
    for name in ("DeepLoc", "MultiLoc2", "BUSCA"):  # nuclear: all right; the same accessions as cytosolic: all wrong
        assert "| 6/6 | 0.500 | 0.000 | 1.000 |" in rows[name]
    assert "| 6/6 | 0.500 | 1.000 | 0.000 |" in rows["wrong"]
    assert "| 6/6 | 0.000 | 1.000 | 0.000 | 0.000 | 0.500 " in rows["elsewhere"]
    assert (tmp_path / "test.fasta").read_text().count(">") == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column for the protein among a, b"),
        ("id,b\n1,2\n", "no columns of scores for cytoplasm and nucleus, and none of compartments, among id, b"),
        ("id,Cytoplasm,Nucleus\nX,5%,95%\n", "no number in column 'Cytoplasm' or 'Nucleus'"),
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
