"""Submissions in a folder and on our own Hub: kept, reviewed, approved, and then data like any other."""

import dataclasses
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image
from store import LABELS, LICENCE, FolderStore, HubStore, Submission, to_table

from protloc.microscopy import simulate
from training.deepgps.data import ImageSource, load_crops

SCORES = {"psnr": 15.0, "ssim": 0.4}
SEQUENCE = "MKLLVAGEDLKKA"


@pytest.fixture(scope="module")
def submission() -> Submission:
    field = simulate("mitochondria", size=240, seed=3)
    return Submission(field.nucleus, field.protein, SEQUENCE, "U-2 OS", gene="ABC1", labels=("Mitochondria",))


@pytest.fixture(scope="module")
def table(submission):
    return to_table(submission, submission.crops(), SCORES)


def other(submission: Submission, **changes) -> Submission:
    return dataclasses.replace(submission, protein=submission.protein[::-1], **changes)


def test_a_submission_is_its_pixels_and_what_is_said_of_them(submission):
    assert dataclasses.replace(submission, credit="other").id == submission.id
    assert other(submission).images_id != submission.images_id
    mended = dataclasses.replace(submission, sequence="MKVMKVMKVMKV")  # a wrong first claim doesn't keep it out
    assert mended.id != submission.id and mended.images_id == submission.images_id


def test_rows_have_the_features_of_crops(table, submission):
    (row,) = table.to_pylist()
    assert row["sequence"] == SEQUENCE and row["licence"] == LICENCE and row["source_image"] == submission.id
    assert [LABELS[label] for label in row["labels"]] == ["Mitochondria"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protein": np.zeros((20, 30))}, "has 240 x 240 pixels and that of the protein 30 x 20"),
        ({"cell_line": ""}, "no cell line"),
        ({"cell_line": "x" * 101}, "must be at most 100 printable letters"),
        ({"gene": "A\x1b[31m"}, "must be at most 100 printable letters"),
        ({"labels": ("Mars",)}, "there is no location 'Mars'; known are Nucleoplasm"),
        ({"um_per_px": float("nan")}, "give a size from 0.02 to 2"),
        ({"um_per_px": 100.0}, "give a size from 0.02 to 2"),
    ],
)
def test_what_is_no_submission(submission, changes, said):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(submission, **changes)
    assert said in str(error.value)


def test_one_image_twice_and_no_nucleus(submission):
    with pytest.raises(ValueError, match="the same image"):
        dataclasses.replace(submission, protein=submission.nucleus)
    with pytest.raises(ValueError, match="are too many at once"):
        dataclasses.replace(
            other(submission), nucleus=np.zeros((1000, 1000)), protein=np.ones((1000, 1000)), um_per_px=2
        )
    dark = np.zeros((240, 240))
    dark[0, 0] = 1
    with pytest.raises(ValueError, match="empty around every nucleus"):
        dataclasses.replace(submission, protein=dark).crops()
    empty = np.random.default_rng(0).normal(100, 1, (240, 240))
    with pytest.raises(ValueError, match="no whole nucleus was found"):
        dataclasses.replace(submission, nucleus=empty).crops()


def test_in_a_folder_from_sent_to_trained_with(tmp_path, submission, table, tiny_crops, run_script):
    folder = tmp_path / "submissions"
    store = FolderStore(folder)
    second = other(submission, sequence="MTESTA")
    store.add(submission.id, table)
    store.add(second.id, to_table(second, second.crops(), SCORES))
    assert store.known() == {submission.id, second.id}

    code, out, _ = run_script("review", "list", folder, "--preview", tmp_path / "preview")
    header, first, _ = out.splitlines()
    assert code == 0 and header.startswith("id\treceived\tgene") and first.startswith(submission.id)
    assert "\tMitochondria\t1\t15.0\t0.4" in first
    assert np.asarray(Image.open(tmp_path / "preview" / f"{submission.id}.png")).std() > 10

    (tmp_path / "exclude.fasta").write_text(">x\nMTESTA\n")
    ids = [submission.id, second.id]
    code, out, _ = run_script("review", "approve", folder, *ids, "--exclude", tmp_path / "exclude.fasta")
    assert (code, out) == (0, f"{folder}: 2 approved, 1 of them for testing only\n")
    assert store.pending() == [] and store.known() == set(ids)
    rows = load_dataset(str(folder), cache_dir=tmp_path / "cache")
    assert (len(rows["train"]), len(rows["test"])) == (1, 1) and rows["train"][0]["gene"] == "ABC1"

    sources = [ImageSource(str(folder), "default"), ImageSource(str(tiny_crops / "known"), "known")]
    crops = load_crops(sources, "train", ["cytoplasm", "mitochondria"])
    assert len(crops) == 13 and crops[0]["class"] == 1 and crops[0]["nucleus"].size == (208, 208)

    third = other(other(submission), nucleus=submission.nucleus[:, ::-1])
    store.add(third.id, to_table(third, third.crops(), SCORES))
    assert run_script("review", "reject", folder, third.id)[0] == 0
    assert store.pending() == [] and store.known() == set(ids)
    assert run_script("review", "list", folder)[1] == f"{folder}: nothing is pending\n"


def test_a_disk_that_is_full_and_a_kill_leave_nothing(tmp_path, submission, table, monkeypatch):
    store = FolderStore(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError("full")))
        store.add(submission.id, table)
    assert list((tmp_path / "pending").iterdir()) == []
    (tmp_path / "pending" / "x.partial").write_bytes(b"half")
    (tmp_path / "pending" / "y.partial").write_bytes(b"of another process that is at it")
    os.utime(tmp_path / "pending" / "x.partial", (0, 0))
    store.clean()
    assert [path.name for path in (tmp_path / "pending").iterdir()] == ["y.partial"]


def test_what_the_command_refuses(tmp_path, run_script):
    def said(*arguments):
        code, _, err = run_script("review", *arguments)
        assert code == 2
        return err.splitlines()[-1]

    assert "no submission 'abc' is pending" in said("approve", tmp_path, "abc")
    assert "there is no folder" in said("list", tmp_path / "nowhere")
    assert "required: ID" in said("approve", tmp_path)
    assert "unrecognized arguments: abc" in said("list", tmp_path, "abc")


def test_a_damaged_submission_hides_no_other(tmp_path, submission, table, run_script):
    store = FolderStore(tmp_path)
    store.add(submission.id, table)
    whole = store.fetch(submission.id).read_bytes()
    damaged = {"cut": whole[:-200], "note": b"no", "zeros": whole[:100] + bytes(len(whole) - 3000) + whole[-2900:]}
    for name, content in damaged.items():
        store.fetch(name).write_bytes(content)
    code, out, err = run_script("review", "list", tmp_path, "--preview", tmp_path / "preview")
    assert code == 2 and [line.split("\t")[0] for line in out.splitlines()] == ["id", submission.id]
    assert sorted(line.split(": ")[1] for line in err.splitlines()) == sorted(damaged)
    assert [path.stem for path in (tmp_path / "preview").iterdir()] == [submission.id]
    code, _, err = run_script("review", "approve", tmp_path, "cut", submission.id)
    assert code == 2 and "cut.parquet is no submission, or a damaged one: reject it, or move it away" in err
    assert run_script("review", "reject", tmp_path, *damaged)[0] == 0
    assert store.pending() == [submission.id]


def test_on_the_hub_nobody_sees_what_is_pending(hub, tmp_path, submission, table, run_script):
    store = HubStore("owner/cells", tmp_path / "spool")
    store.add(submission.id, table)
    assert store.deliver() and list((tmp_path / "spool").iterdir()) == []
    inbox = hub.repo("owner/cells-pending", "dataset")
    assert inbox.private and f"pending/{submission.id}.parquet" in inbox.files()
    assert ("dataset", "owner/cells") not in hub.repos
    assert store.known() == {submission.id}

    code, out, err = run_script("review", "list", "owner/cells")
    assert code == 0 and submission.id in out, err
    assert run_script("review", "approve", "owner/cells", submission.id)[0] == 0
    assert not any(name.startswith("pending/") for name in inbox.files())
    approved = hub.repo("owner/cells", "dataset")
    assert not approved.private and store.known() == {submission.id}
    assert load_dataset("owner/cells", split="train", cache_dir=tmp_path / "cache")[0]["sequence"] == SEQUENCE
    store.spool.stop()


def test_what_the_hub_does_not_take_waits(hub, tmp_path, submission, table):
    store = HubStore("owner/cells", tmp_path / "spool")
    store.spool.last_future.result()
    hub.faults += [("POST", "/commit/", 500)] * 20
    store.add(submission.id, table)
    assert not store.deliver()
    store.spool.stop()
    (waiting,) = (tmp_path / "spool").iterdir()
    assert pq.read_table(waiting).num_rows == 1 and store.known() == {submission.id}

    hub.faults.clear()
    again = HubStore("owner/cells", tmp_path / "spool")  # as after a restart
    again.spool.trigger().result()
    assert list((tmp_path / "spool").iterdir()) == []
    assert f"pending/{submission.id}.parquet" in hub.repo("owner/cells-pending", "dataset").files()
    again.spool.stop()


def test_a_public_inbox_is_refused(hub, tmp_path):
    hub.add("owner/cells-pending", {}, "dataset")
    with pytest.raises(ValueError, match="owner/cells-pending is public"):
        HubStore("owner/cells", tmp_path / "spool")
