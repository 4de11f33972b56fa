"""FASTA and tables as people have them, and what is said of bad ones."""

import gzip
import io
import itertools

import pytest

from protloc.models.protein_sequence import window_text
from protloc.sequences import SequenceError, clean_sequence, read_fasta, read_sequences, split_windows


def read(tmp_path, content: bytes, name="input.fasta", **options):
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_sequences([path], **options))


GOOD = {
    "plain": b">a first\nMKT\nAYI\n>b\nGGG\n",
    "no last newline": b">a\nMKTAYI\n>b\nGGG",
    "windows line ends": b">a\r\nMKT\r\nAYI\r\n>b\r\nGGG\r\n",
    "old Mac line ends": b">a\rMKTAYI\r>b\rGGG\r",
    "byte order mark": b"\xef\xbb\xbf>a\nMKTAYI\n>b\nGGG\n",
    "lower case and stop": b">a\nmktayi*\n>b\nggg*\n",
    "stop in an alignment": b">a\nMKTAYI*--\n>b\nGGG*\n",
    "gaps": b">a\nMK--T.AYI\n>b\nGGG---\n",
    "blank lines and spaces": b"\n\n>a\nMKT AYI\n\n>b\n\n GGG\n",
    "space after the sign": b"> a\nMKTAYI\n> b\nGGG\n",
    "Latin-1 header": ">a Söre\nMKTAYI\n>b\nGGG\n".encode("latin-1"),
    "UTF-8 header": ">a Söre\nMKTAYI\n>b\nGGG\n".encode(),
    "gzip": gzip.compress(b">a\nMKTAYI\n>b\nGGG\n"),
    "CSV": b"id,sequence\na,MKTAYI\nb,GGG\n",
    "CSV, other columns": b'Entry,Kingdom,Sequence\na,"x, y",mktayi*\nb,z,GGG\n',
    "TSV": b"Entry\tProtein names\tSequence\r\na\tx, y\tMKTAYI\r\nb\tz\tGGG\r\n",
    "gzipped CSV": gzip.compress(b"ACC,Sequence\na,MKTAYI\nb,GGG\n"),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD.keys())
def test_reads(tmp_path, content):
    assert read(tmp_path, content) == [("a", "MKTAYI"), ("b", "GGG")]


def test_header_with_latin_1_id(tmp_path):
    assert read(tmp_path, ">Söre\nMKT\n".encode("latin-1")) == [("Söre", "MKT")]


def test_table_ids_are_whole_cells(tmp_path):
    content = b'id,sequence\nprotein 1,MKT\n"protein 2","MK\nT"\nprotein 3,M\n'
    assert read(tmp_path, content) == [("protein 1", "MKT"), ("protein 2", "MKT"), ("protein 3", "M")]


def test_other_residues_are_kept_and_j_is_unknown(tmp_path):
    assert read(tmp_path, b">a\nMUOBZXJ\n") == [("a", "MUOBZXX")]


def test_handles():
    assert list(read_fasta(io.BytesIO(b">a\nMKT\n"))) == [("a", "MKT")]
    assert list(read_fasta(io.StringIO(">a\nMKT\n"))) == [("a", "MKT")]


def test_full_headers(tmp_path):
    path = tmp_path / "deeploc1.fasta"
    path.write_text(">Q9H400 Cell.membrane-M test\nMKT\n")
    assert list(read_fasta(path, full_header=True)) == [("Q9H400 Cell.membrane-M test", "MKT")]


BAD = {
    "empty file": (b"", "the file holds no sequences", 0),
    "blank file": (b"\n\n", "the file holds no sequences", 0),
    "no FASTA": (b"<html>\n", "no FASTA", 1),
    "table without a sequence": (b"id,length\na,3\n", "one for the sequence", 1),
    "table without rows": (b"id,sequence\n", "the file holds no sequences", 0),
    "empty record": (b">ok\nMKT\n>a\n>b\nMKT\n", "the sequence is empty", 3),
    "only gaps": (b">a\n--\n", "the sequence is empty", 1),
    "digits": (b">a\nMKT\nAY1\nGGG\n", "'1' at position 6 is not an amino-acid code", 3),
    "stop inside": (b">a\nMK*T\n", "'*' at position 3", 2),
    "other letters": (">a\nMKÄ\n".encode(), "'Ä' at position 3", 2),
    "letters that become residues in upper case": (">a\nMKß\n".encode(), "'ß' at position 3", 2),
    "Latin-1 in a sequence": (">a\nMKß\n".encode("latin-1"), "'ß' at position 3", 2),
    "empty sequence in a table": (b"id,sequence\na,\n", "the sequence is empty", 2),
    "short row in a table": (b"id,sequence\na\n", "the row has 1 cell where the header has 2", 2),
    "bad sign in a table": (b"id,sequence\nb,MKT\na,MK7\n", "'7' at position 3", 3),
    "repeated id": (b">a\nMKT\n>a\nGGG\n", "this id was used before", 3),
    "no id": (b">\nMKT\n", "the record has no id", 1),
}


@pytest.mark.parametrize(("content", "reason", "line"), BAD.values(), ids=BAD.keys())
def test_refuses(tmp_path, content, reason, line):
    with pytest.raises(SequenceError) as caught:
        read(tmp_path, content)
    error = caught.value
    assert reason in error.reason and error.line == line
    assert str(error).startswith(str(tmp_path / "input.fasta"))
    assert "\n" not in str(error)
    if line:
        assert f"line {line}" in str(error)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_truncated_gzip(tmp_path, keep):
    whole = gzip.compress("".join(f">p{i}\n{'MKTAYIAKQR' * 9}\n" for i in range(2000)).encode())
    with pytest.raises(SequenceError, match="the compressed file is cut off or damaged after line"):
        read(tmp_path, whole[: int(len(whole) * keep)])


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(SequenceError, match="No such file"):
        list(read_fasta(tmp_path / "none.fasta"))
    with pytest.raises(SequenceError, match="directory"):
        list(read_fasta(tmp_path))


def test_ids_are_unique_over_files(tmp_path):
    for name in ("one.fasta", "two.fasta"):
        (tmp_path / name).write_text(">a\nMKT\n")
    with pytest.raises(SequenceError, match=r"two\.fasta, record 'a', line 1"):
        list(read_sequences([tmp_path / "one.fasta", tmp_path / "two.fasta"]))


def test_bad_records_can_be_skipped(tmp_path):
    errors = []
    content = b">a\nMKT\n>b\nM1\n>a\nGG\n>c\nGGG\n>\nMM\n>long\nMKTAYIAK\n"
    assert read(tmp_path, content, on_error=errors.append, max_length=5) == [("a", "MKT"), ("c", "GGG")]
    assert [(error.record, error.line) for error in errors] == [("b", 4), ("a", 5), ("", 9), ("long", 11)]
    assert "8 residues are more than the model's 5" in errors[-1].reason


def texts(sequence, max_length, policy):
    return [window_text(sequence, pieces) for pieces in split_windows(len(sequence), max_length, policy)]


def test_length_policies():
    sequence = "ABCDEFGHIJ"
    for policy in ("middle", "end", "window", "error"):
        assert texts(sequence, 10, policy) == [sequence]
    assert texts(sequence, 4, "middle") == ["ABIJ"]
    assert texts(sequence, 5, "middle") == ["ABCIJ"]
    assert texts(sequence, 1, "middle") == ["A"]
    assert texts(sequence, 4, "end") == ["ABCD"]
    assert texts(sequence, 8, "window") == ["ABCDEFGH", "CDEFGHIJ"]
    assert texts(sequence, 4, "window") == ["ABCD", "CDEF", "EFGH", "GHIJ"]
    assert window_text("MKV", [slice(0, 3)], spaced=True) == "M K V"
    with pytest.raises(ValueError, match="10 residues are more than the model's 9"):
        split_windows(10, 9, "error")


@pytest.mark.parametrize("length", [11, 15, 29, 1000])
def test_windows_cover_everything_and_overlap_by_half(length):
    windows = [window for (window,) in split_windows(length, 10, "window")]
    assert windows[0].start == 0 and windows[-1].stop == length
    assert {window.stop - window.start for window in windows} == {10}
    assert all(0 < after.start - before.start <= 5 for before, after in itertools.pairwise(windows))


def test_clean_sequence_names_the_sign():
    assert clean_sequence(" mk t\n") == "MKT"
    with pytest.raises(ValueError, match="'>' at position 1"):
        clean_sequence(">a")
