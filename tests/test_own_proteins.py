"""Labels of one's own: tables as laboratories have them, splits, and a model from a CSV to a local Hub."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, pipeline

from protloc import DeepLocConfig
from protloc.endpoints.handler import EndpointHandler
from protloc.loading import load_model
from protloc.models.configuration_deeploc import COMPARTMENTS
from protloc.prediction import columns, predict
from tests.helpers import ROOT, run_protloc, tiny_deeploc
from training.common.splits import choose_groups
from training.deeploc.own_evaluation import flat_labels
from training.deeploc.own_proteins import has_compartments, read_own_proteins
from training.deeploc.validation import fit_decisions

LABELS = ["bud neck", "cytosol", "nucleolus", "vacuole"]


@pytest.fixture
def clustered(monkeypatch):
    """With MMseqs2, if it is installed; all other tests are without, as it takes seconds to begin."""
    monkeypatch.undo()
    if shutil.which("mmseqs") is None:
        pytest.skip("MMseqs2 is not installed")


@pytest.fixture(autouse=True)
def without_mmseqs2(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)


def sequence(i: int) -> str:
    """The first residues tell the label `i % 4`."""
    generator = random.Random(i)
    return "M" + "".join(generator.choices("ADEK"[i % 4] + "GS", k=30)) + "".join(generator.choices("LPQT", k=20))


def write(path, rows, header=("id", "sequence", "label"), delimiter=","):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def table(count=40):
    return [[f"Y{i}", sequence(i), LABELS[i % 4]] for i in range(count)]


def read(path, **options):
    return read_own_proteins(path, columns=options.pop("columns", {}), **options)


def test_one_label_a_protein(tmp_path):
    own = read(write(tmp_path / "a.csv", table()))
    assert own.labels == LABELS and own.single_label and not own.has_membrane and own.notes == []
    counts = own.counts()
    assert all(count == 2 for count in counts["validation"].values())
    assert all(count == 8 for count in counts["train"].values())
    assert not set(own.parts["train"]["sequence"]) & set(own.parts["validation"]["sequence"])
    assert own.rule.startswith("**Homologous proteins may stand on both sides")
    again = read(write(tmp_path / "b.csv", table()))
    assert list(again.parts["validation"]["id"]) == list(own.parts["validation"]["id"])


def test_a_table_as_a_laboratory_has_it(tmp_path):
    rows = [
        [f" {name} ", f" {residues.lower()} ", f"  {label.replace(' ', '  ')} "] for name, residues, label in table()
    ]
    rows[0][2] = "bud neck; nucleolus"
    rows += [["Y1", sequence(1), "vacuole"], ["dup", sequence(2), "nucleolus"], ["new", sequence(90), ""]]
    rows += [["odd", sequence(91), "nuclues"]]
    path = write(tmp_path / "a.csv", rows, ("ORF", "Protein seq", "Localisation"), ";")
    own = read(path, columns={"sequence": "Protein seq"})
    assert own.labels == LABELS and not own.single_label
    said = " ".join(own.notes)
    assert "1 row(s) without a label were left out, the first in line 44" in said and "2 row(s) repeat" in said
    assert "such as Y1" in said and "`nuclues` (1)" in said
    parts = [row for part in own.parts.values() for row in part]
    found = {row["id"]: [own.labels[i] for i in row["labels"]] for row in parts}
    assert found["Y0"] == ["bud neck", "nucleolus"] and found["Y1"] == ["cytosol", "vacuole"]
    assert "dup" not in found and "odd" not in found and len(found) == 40


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda rows: rows[5].__setitem__(2, "3"), {}, r"line 7: the label is the number 3, and labels need names"),
        (lambda rows: rows[5].__setitem__(2, "3"), {"label_names": ["a"]}, "label_names has 1 names"),
        (lambda rows: rows[5].__setitem__(2, "early, late Golgi"), {}, "has a comma"),
        (lambda rows: rows[5].__setitem__(2, "Cytosol"), {}, "'Cytosol' and 'cytosol' differ in case only"),
        (lambda rows: rows[5].__setitem__(1, "MK1"), {}, "line 7: '1' at position 3 is not an amino-acid code"),
        (lambda rows: rows[5].__setitem__(0, "Y4"), {}, "the id 'Y4' has another sequence than in"),
        (lambda rows: rows.__delitem__(slice(3, None)), {"min_proteins": 1}, "too few to hold some out"),
        (lambda rows: rows.__delitem__(slice(3, None)), {}, "there must be two labels or more"),
        (
            lambda rows: None,
            {"columns": {"labels": "Place"}},
            "no column 'Place', only id, sequence, label: name yours",
        ),
        (lambda rows: None, {"columns": {"place": "label"}}, "columns.place: only the columns sequence, labels"),
    ],
)
def test_what_no_model_can_learn_from_is_named(tmp_path, change, options, message):
    rows = table()
    change(rows)
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "a.csv", rows), **options)


def test_numbers_with_names(tmp_path):
    rows = [[name, residues, f"{LABELS.index(label)}.0"] for name, residues, label in table()]
    assert read(write(tmp_path / "a.csv", rows), label_names=LABELS).labels == LABELS


def test_a_given_split_and_partitions(tmp_path):
    rows = [[*row, ("train", "train", "val", "test")[i % 10 // 3]] for i, row in enumerate(table())]
    own = read(write(tmp_path / "a.tsv", rows, ("id", "sequence", "labels", "split"), "\t"))
    assert [len(part) for part in own.parts.values()] == [24, 12, 4] and "not checked" in own.rule
    rows = [[*row, i // 4 % 5] for i, row in enumerate(table())]
    path = write(tmp_path / "b.csv", rows, ("id", "sequence", "labels", "partition"))
    assert len(read(path).parts["validation"]) == 8 and "Partition 4" in read(path).rule
    assert "Partition 2" in read(path, validation_partition=2).rule
    rows[6][1], rows[6][0] = rows[2][1], "other"
    with pytest.raises(ValueError, match=r"is also in .*, with another partition"):
        read(write(tmp_path / "b.csv", rows, ("id", "sequence", "labels", "partition")))


@pytest.mark.slow
def test_homologs_stand_on_one_side_where_mmseqs2_is(tmp_path, clustered):
    generator = random.Random(0)
    rows = []
    for family in range(24):
        whole = "".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=120))
        for copy in range(3):
            mutated = whole[: copy * 5] + "W" + whole[copy * 5 + 1 :]
            rows.append([f"F{family}_{copy}", mutated, LABELS[family % 4]])
    own = read(write(tmp_path / "a.csv", rows))
    families = [{name.split("_")[0] for name in own.parts[part]["id"]} for part in ("train", "validation")]
    assert not families[0] & families[1] and len(own.parts["validation"]) == 12
    assert "30% identity" in own.rule and "**" not in own.rule


def test_every_label_is_on_both_sides_where_its_groups_allow():
    labels = [{"a"}] * 20 + [{"b"}] * 2 + [{"c"}] + [{"a", "d"}, {"d"}]
    held = choose_groups(labels, [str(i) for i in range(len(labels))], 0.2, seed=0)
    for label, wanted in (("b", 1), ("c", 0), ("d", 1)):
        assert sum(h for h, own in zip(held, labels, strict=True) if label in own) == wanted
    assert 3 <= sum(held[:20]) <= 5
    assert choose_groups([{"a"}] * 4, ["one"] * 4, 0.5, seed=0) == [False] * 4


def test_class_names_of_a_parquet_file(tmp_path):
    features = Features({"sequence": Value("string"), "label": ClassLabel(names=LABELS)})
    rows = [{"sequence": sequence(i), "label": i % 4} for i in range(20)]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "a.parquet")
    own = read(str(tmp_path / "a.parquet"))
    assert own.labels == LABELS and own.parts["train"]["id"][0].startswith("row_")


def test_the_ten_compartments_keep_their_order(tmp_path):
    rows = [[f"Y{i}", sequence(i), COMPARTMENTS[i % 10]] for i in range(40)]
    assert read(write(tmp_path / "a.csv", rows)).labels == COMPARTMENTS


def test_labels_that_tables_have_no_room_for():
    with pytest.raises(StrictDataclassError, match="the label 'membrane' is a column of its own"):
        DeepLocConfig(id2label={0: "membrane", 1: "soluble"})
    with pytest.raises(StrictDataclassError, match="the label 'bud' is there twice"):
        DeepLocConfig(id2label={0: "bud", 1: "bud"})


def test_predictions_of_a_model_without_a_membrane_head(tokenizer):
    model = tiny_deeploc(membrane=False)
    assert "membrane_probability" not in columns(model.config)
    (row,) = predict([("a", "MKTAYIAK")], model, tokenizer)
    assert set(row) == set(columns(model.config))
    assert pipeline("protein-localization", model=model, tokenizer=tokenizer)("MKTAYIAK")["membrane"] is None


def test_a_calibration_that_flattens_is_told():
    config = DeepLocConfig(id2label=dict(enumerate(LABELS)))
    labels = torch.arange(40) % 4
    noise = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    fit_decisions(config, 4 * noise, torch.zeros(40), torch.eye(4)[labels], -torch.ones(40))
    assert (
        flat_labels(config).startswith("On the validation proteins the raw answers for `")
        and min(config.calibration_scale) < 0.2
    )
    fit_decisions(config, 4 * torch.eye(4)[labels] - 2 + noise, torch.zeros(40), torch.eye(4)[labels], -torch.ones(40))
    assert flat_labels(config) == ""


def train(folder, path, *settings):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "training.deeploc.train"]
    arguments = [str(ROOT / "training/configs/finetune.yaml"), f"dataset={path}", f"output_dir={folder}", *settings]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    """A trained tiny model of ten compartments with everything fitted."""
    folder = tmp_path_factory.mktemp("start")
    fitted = {"calibration_scale": [2.0] * 10, "thresholds": [0.2] * 10, "positive_weights": [3.0] * 10}
    model = tiny_deeploc(tree=True, signals=True, **fitted)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_from_a_csv_to_a_model_on_the_hub(hub, start, tmp_path):
    clock = time.monotonic()
    path = write(tmp_path / "my.csv", table(120))
    result = train(
        *(tmp_path / "run", path, f"initial_weights={start}", "epochs=25", "learning_rate=0.01", "mask_rate=0"),
        "push_to_hub=owner/yeast",
    )
    assert result.returncode == 0, result.stderr
    model, tokenizer = load_model(tmp_path / "run")
    config = model.config
    assert list(config.id2label.values()) == LABELS and config.problem_type == "single_label_classification"
    assert not (config.tree or config.signals or config.membrane) and config.lstm_size == 8
    assert config.calibration_scale != [1.0] * 4
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["localization"]["argmax_accuracy"] > 0.7 and sum(map(sum, evaluation["confusion"])) == 24
    assert (tmp_path / "run" / "confusion.png").exists()
    card = ModelCard((tmp_path / "run" / "README.md").read_text())
    assert "Confusion matrix" in card.text and "| **bud neck** |" in card.text and card.data.base_model is None
    accuracy = evaluation["localization"]["argmax_accuracy"]
    assert f"for {accuracy:.3f} of the proteins" in card.text

    residues = sequence(1000)
    expected = pipeline("protein-localization", model=model, tokenizer=tokenizer)(residues)["scores"]
    code, _, _ = run_protloc("predict", path, "--model", tmp_path / "run", "-o", tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert code == 0 and len(rows) == 120 and set(LABELS) < set(rows[0]) and "membrane" not in rows[0]
    there = pipeline("protein-localization", model="owner/yeast", trust_remote_code=True)(residues)["scores"]
    assert there == pytest.approx(expected, abs=1e-5)
    answer = EndpointHandler(str(tmp_path / "run"))({"inputs": residues})
    assert {item["label"]: item["score"] for item in answer[0]} == pytest.approx(expected, abs=1e-5)
    assert time.monotonic() - clock < 600


@pytest.mark.slow
def test_several_labels_and_membrane_and_few_proteins(start, tmp_path):
    rows = [
        [f"Y{i}", sequence(i), f"{LABELS[i % 4]}|{LABELS[(i + 1) % 4]}" if i % 5 == 0 else LABELS[i % 4], i % 2]
        for i in range(60)
    ]
    rows[7][2], rows[11][2] = "rare", "rare"
    path = write(tmp_path / "my.csv", rows, ("id", "sequence", "label", "membrane"))
    result = train(tmp_path / "run", path, f"initial_weights={start}", "epochs=2")
    assert result.returncode == 0, result.stderr
    config = load_model(tmp_path / "run")[0].config
    assert config.problem_type == "multi_label_classification" and config.membrane
    place = list(config.id2label.values()).index("rare")
    assert config.thresholds[place] == 0.5 and config.calibration_scale[place] == 1
    assert "`rare`" in result.stdout and "thresholds are 0.5" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.lstm_size=16"], "its weights don't fit the settings of model: deeploc."),
        (["companion=deeploc"], "a model and its companion must agree"),
        (["validation_share=1.5"], "validation_share must be above 0 and below 1"),
    ],
)
def test_initial_weights_that_do_not_fit(start, tmp_path, settings, message):
    result = train(tmp_path / "run", write(tmp_path / "my.csv", table()), f"initial_weights={start}", *settings)
    assert message in result.stderr and not (tmp_path / "run" / "training.yaml").exists()


@pytest.mark.slow
def test_initial_weights_on_a_backbone_keep_it(tiny_backbones, tmp_path):
    model = tiny_deeploc().from_backbone_pretrained(str(tiny_backbones["esm"]), hidden_size=8, lstm_size=4)
    model.save_pretrained(tmp_path / "start")
    AutoTokenizer.from_pretrained(tiny_backbones["esm"]).save_pretrained(tmp_path / "start")
    path = write(tmp_path / "my.csv", table())
    result = train(tmp_path / "run", path, f"initial_weights={tmp_path / 'start'}", "epochs=1")
    assert result.returncode == 0, result.stderr
    trained = load_model(tmp_path / "run")[0]
    for name, weight in model.deeploc.backbone.state_dict().items():
        found = trained.deeploc.backbone.state_dict()[name]
        assert found.sub(weight).abs().max() <= 0.01 * weight.abs().max(), name


def test_a_table_that_is_not_there_is_no_name_on_the_hub(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        has_compartments(str(tmp_path / "nothere.csv"), None)
