"""What the Hub reads of a data set's card."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from huggingface_hub import DatasetCard, DatasetCardData

from datasets_scripts.arguments import describe_files, size_category

FEATURES = Features({"sequence": Value("string"), "labels": List(ClassLabel(names=["bud", "vacuole"]))})


def write(folder, rows):
    folder.mkdir(exist_ok=True)
    files = {}
    for name, parts in {"few": ["train"], "all": ["train", "test"]}.items():
        files[name] = {part: [folder / f"{part}.parquet"] for part in parts} | {"validation": []}
    for part in ("train", "test"):
        table = Dataset.from_list([{"sequence": "MKV" * i, "labels": [i % 2]} for i in range(rows)], features=FEATURES)
        table.to_parquet(folder / f"{part}.parquet")
    data = DatasetCardData(license="mit", **describe_files(folder, FEATURES, files, few="Some of them."))
    DatasetCard(f"---\n{data.to_yaml()}\n---\n# Some\n").save(folder / "README.md")
    return data


def test_a_default_configuration_and_what_it_holds(tmp_path):
    data = write(tmp_path / "some", 5)
    assert data.size_categories == ["n<1K"] and [config.get("default") for config in data.configs] == [None, True]
    assert data.configs[0]["description"].startswith("Some of them. Content ")
    info = data.dataset_info[1]
    assert info["config_name"] == "all" and [part["num_examples"] for part in info["splits"]] == [5, 5]
    assert info["download_size"] == sum(path.stat().st_size for path in (tmp_path / "some").glob("*.parquet"))
    parts = load_dataset(str(tmp_path / "some"))  # the default
    assert parts.keys() == {"train", "test"} and parts["train"].features == FEATURES
    assert load_dataset(str(tmp_path / "some"), "few").keys() == {"train"}


@pytest.mark.parametrize(("rows", "name"), [(0, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "n>1M")])
def test_sizes(rows, name):
    assert size_category(rows) == name
