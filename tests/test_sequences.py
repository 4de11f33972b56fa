"""FASTA and tables as people have them, and what is said of bad ones."""

import bz2
import gzip
import io
import itertools
import lzma
import random
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from protloc.models.protein_sequence import window_text
from protloc.sequences import (
    SequenceError,
    Warned,
    clean_sequence,
    read_fasta,
    read_sequences,
    sequence_warning,
    split_windows,
)


def read(tmp_path, content: bytes, name="input.fasta", **options):
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_sequences([path], **options))


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet(**columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


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
    "TSV of UniProt with a quote": b'Entry\tOrganism\tSequence\na\t"Candidatus X\tMKTAYI\nb\t"C. Y" sp.\tGGG\n',
    "quoted TSV": b'"Entry"\t"Sequence"\n"a"\t"MKTAYI"\n"b"\t"GGG"\n',
    "semicolons": b"id;sequence\na;MKTAYI\nb;GGG\n",
    "semicolons of Excel": b"\xef\xbb\xbfsep=;\r\nid;name, full;sequence\r\na;x;MKTAYI\r\nb;y;GGG\r\n",
    "empty cells at the end": b"id,sequence,,\na,MKTAYI,,\n,,,\nb,GGG,,\n",
    "more empty cells than the header": b"id\tsequence\na\tMKTAYI\t\nb\tGGG\t\t\n",
    "a note of several lines": b'id,sequence,note\na,MKTAYI,"one,\ntwo"\nb,GGG,x\n',
    "comments before FASTA": b"; from somewhere\n# more\n>a\nMKTAYI\n>b\nGGG\n",
    "comments before a table": b"# made today\nid,sequence\na,MKTAYI\nb,GGG\n",
    "a header behind #": b"#id\tsequence\na\tMKTAYI\nb\tGGG\n",
    "UTF-16 FASTA": ">a \u00f6\nMKTAYI\n>b\nGGG\n".encode("utf-16"),
    "UTF-16 table": "id\tsequence\r\na\tMKTAYI\r\nb\tGGG\r\n".encode("utf-16-le").join([b"\xff\xfe", b""]),
    "bzip2": bz2.compress(b">a\nMKTAYI\n>b\nGGG\n"),
    "xz": lzma.compress(b">a\nMKTAYI\n>b\nGGG\n"),
    "gzipped UTF-16": gzip.compress(">a\nMKTAYI\n>b\nGGG\n".encode("utf-16")),
    "zip": zipped(**{"p.fasta": b">a\nMKTAYI\n>b\nGGG\n"}),
    "lower case in parts": b">a\nmkt ayi\n>b\nggg\n",
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
    "an unquoted comma": (b"id,name,sequence\na,x,MKT\nb,x, y,MKT\n", "4 cells where the header has 3", 3),
    "row names of R": (b"Entry\tSequence\nr1\tTTN\tMKT\n", "3 cells where the header has 2", 2),
    "a missing cell": (b"id,name,sequence\na,MKT\n", "2 cells where the header has 3", 2),
    "the header again": (b"id,sequence\na,MKT\nID,Sequence\nb,MKT\n", "the row is the header again", 3),
    "two columns of a name": (b"id,sequence,Sequence\na,MKT,MKT\n", "'sequence' is there 2 times", 1),
    "a quote that swallows rows": (b'id,name,sequence\na,"x,MKT\nb,y",GGG\n', "may hold other rows", 2),
    "a quote that swallows sequences": (b'id,sequence\na,"MKT\nb,GGG"\n', "may hold other rows", 2),
    "a quote that ends nowhere": (b'id,sequence\na,MKT\nb,"GGG\nc,MM\n', "a quote in the row is wrong", 3),
    "text behind a quote": (b'id,sequence\na,"MK"T\n', "a quote in the row is wrong", 2),
    "a line break in an id": (b'id,sequence\n"a\nb",MKT\n', "the id has a line break or control character", 2),
    "a control character in an id": (b">a\x1b[31mb\nMKT\n", "the id has a line break or control character", 1),
    "a missing value": (b"id,sequence\na,NA\n", "'NA' stands for a missing sequence", 2),
    "no sequence from Ensembl": (b">a\nSequence unavailable\n", "stands for a missing sequence", 1),
    "a title": (b">a\nsome text\nMKT\n", "reads as words", 1),
    "a file name": (b"id,sequence\na,proteins.fasta\n", "is a file name", 2),
    "PIR": (b">P1;a\ntitle\nMKT*\n", "this is NBRF/PIR", 1),
    "bytes": (b"\x00\x01\x02\n", "the file is no text", 0),
    "UTF-16 without a mark": (">a\nMKT\n".encode("utf-16-le"), "the file is no text", 0),
    "a zip of two files": (zipped(a=b">a\nMKT\n", b=b">b\nMKT\n"), "a zip archive of 2 files: unpack it", 0),
    "Excel": (zipped(**{"xl/workbook.xml": b"<x/>"}), "an Excel workbook: save it as CSV", 0),
    "zstd": (b"\x28\xb5\x2f\xfd1234", "compressed by zstd", 0),
    "PDF": (b"%PDF-1.7\n", "is a PDF", 0),
    "Parquet of lists": (parquet(id=["a"], sequence=[["M", "K"]]), "the column 'sequence' holds list", 0),
    "Parquet of numbers": (parquet(id=["a"], sequence=[7]), "the column 'sequence' holds int64, not text", 0),
    "Parquet with fractions for ids": (parquet(id=[0.5], sequence=["MKT"]), "the column 'id' holds double", 0),
    "Parquet without sequences": (parquet(id=["a"]), "no column for the id", 0),
    "Parquet of other bytes": (parquet(id=["a"], sequence=[b"\xff"]), "bytes that are no UTF-8", 1),
    "damaged Parquet": (parquet(id=["a"], sequence=["MKT"])[:-20], "the Parquet file is damaged", 0),
    "a bad sign in Parquet": (parquet(id=["a", "b"], sequence=["MKT", "MK7"]), "'7' at position 3", 2),
    "an empty cell of Parquet": (parquet(id=["a", "b"], sequence=["MKT", None]), "the sequence is empty", 2),
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
        assert f"{'row' if content.startswith(b'PAR1') else 'line'} {line}" in str(error)


def test_parquet_columns(tmp_path):
    sequences = pa.array(["MKTAYI", "GGG"])
    for ids, column in ((["a", "b"], sequences), ([b"a", b"b"], sequences.cast(pa.large_binary()))):
        assert read(tmp_path, parquet(other=[1, 2], id=ids, sequence=column)) == [("a", "MKTAYI"), ("b", "GGG")]
    assert read(tmp_path, parquet(entry=[1, 2], seq=sequences.dictionary_encode())) == [("1", "MKTAYI"), ("2", "GGG")]
    table = pa.Table.from_arrays([pa.array(["a"]), *[pa.array(["MKT"])] * 2], names=["id", "sequence", "sequence"])
    pq.write_table(table, tmp_path / "two.parquet")
    with pytest.raises(SequenceError, match=r"two.parquet: the column 'sequence' is there 2 times"):
        list(read_sequences([tmp_path / "two.parquet"]))
    with open(tmp_path / "input.fasta", "rb") as file:
        assert list(read_sequences([file])) == [("1", "MKTAYI"), ("2", "GGG")]


def test_bad_rows_can_be_skipped(tmp_path):
    errors = []
    content = b"id,name,sequence\na,x,MKT\nb,x, y,MKT\nid,name,sequence\nc,x,None\nd,x,GGG\n"
    assert read(tmp_path, content, on_error=errors.append) == [("a", "MKT"), ("d", "GGG")]
    assert [error.line for error in errors] == [3, 4, 5]


def test_control_characters_are_escaped_in_errors():
    error = SequenceError("p.fasta", "no", "a\nb\x1b", 1)
    assert error.record == "a\\nb\\x1b" and str(error) == "p.fasta, record 'a\\nb\\x1b', line 1: no"


def test_raw_text_and_warnings(tmp_path):
    content = b">a\nMKTAYI\nAKQR*\n>b\nMKT.AYIAKQR\n>c\nAUGGCCCUGUGGNNN\n>d\nMYOGLOBINLIKE\n>e\nMKX\n"
    found = read(tmp_path, content, raw=True)
    assert found[0] == ("a", "MKTAYIAKQR*") and found[1] == ("b", "MKT.AYIAKQR")
    warned = Warned()
    for name, text in found:
        warned.add(name, sequence_warning(text))
    assert str(warned) == (
        "4 record(s) may be no protein: b (has '.' inside, read as a gap), c (looks like nucleotides), d (looks like "
        "text), and 1 more"
    )
    for text in ("ACGTRYKMSWBDHVN", "ACGWNSTTRRYYKKMMGHDV", "acgtn" * 3, "GATTACA-GATTACA"):
        assert sequence_warning(text) == "looks like nucleotides"
    for text in ("MKVRNSTDAWYC", "MKVAAGHCWTSDRNY", "MARYRCCRSQSRSRYYRQRQRSRRRRRRS"):  # short, or with E, F, I, L, P, Q
        assert not sequence_warning(text)
    selenoprotein = "MASKTAYUQRQISFVKSHFSRQLEERLGLIEVQAPILSRUGDGTQ"
    assert sequence_warning("X" * 12) == "mostly unknown residues" and not sequence_warning(selenoprotein)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda text: zipped(p=text)])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_truncated_archives(tmp_path, keep, pack):
    generator = random.Random(0)
    text = "".join(f">p{i}\n{''.join(generator.choices('ACDEFGHIKL', k=90))}\n" for i in range(2000))
    whole = pack(text.encode())
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
    assert clean_sequence("mktayiakqr qisfvkshfs rqleerlgl") == "MKTAYIAKQRQISFVKSHFSRQLEERLGL"
    with pytest.raises(ValueError, match="'>' at position 1"):
        clean_sequence(">a")
