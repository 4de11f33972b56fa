"""What people paste or upload, read as proteins: what is one, what is left out, and what it looks like instead."""

import io
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from protloc.sequences import SequenceError, clean_sequence, open_text, read_sequences, sequence_warning

MAX_PROTEINS = 100  # of a request
MAX_CHARACTERS = 1_000_000
MAX_RESIDUES = 20_000  # of a protein
MAX_REQUEST_RESIDUES = 200_000
MIN_RESIDUES = 10
# https://www.uniprot.org/help/accession_numbers
ACCESSION = re.compile(r"(?:[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?:-\d+)?")
SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9@/-]{0,11}")
RULER = re.compile(r"[\s\d]*\d[\s\d]*")  # a line of positions, as UniProt shows above the residues
NUMBERED = re.compile(r"\s*(?:\d+\s+)?([A-Za-z*.-]+(?:\s+[A-Za-z*.-]+)*)(?:\s+\d+)?\s*")
ONE_LETTER_OF = "ala arg asn asp cys gln glu gly his ile leu lys met phe pro ser thr trp tyr val"
THREE_LETTERS = re.compile(rf"(?:(?:{ONE_LETTER_OF.replace(' ', '|')})[\s-]*){{4,}}", re.IGNORECASE)
# Names that other data bases and UniProt's entries have (https://www.ensembl.org/info/genome/stable_ids, RefSeq's
# accessions, https://www.rcsb.org): what they look like.
OTHER_NAMES = {
    r"[A-Z0-9]{1,10}_[A-Z0-9]{3,5}": "the name of a UniProt entry",
    r"[NXYW]P_\d+(\.\d+)?": "a RefSeq accession",
    r"[NX][MR]_\d+(\.\d+)?": "a RefSeq accession of a transcript",
    r"ENS[A-Z]*[GTP]\d{11}(\.\d+)?": "an Ensembl identifier",
    r"[1-9][A-Z0-9]{3}(_[A-Z])?": "a PDB identifier",
    r"[A-Z]{3}\d{5}(\d\d)?(\.\d+)?": "a GenBank accession",
}
COLUMN_NAMES = {"protein sequence": "sequence", "amino acid sequence": "sequence", "aa sequence": "sequence"}
# In the order of their worth as an id
IDS = ["id", "protein id", "uniprot", "uniprot id", "uniprot accession", "protein", "gene", "gene name", "gene symbol"]
COLUMN_NAMES |= dict.fromkeys(IDS, "id")
PAGE = "https://www.uniprot.org/uniprotkb"
PASTED = "protein"  # the id of a sequence without a header; messages call it "Your sequence"


class InputError(ValueError):
    """What is wrong with the user's input, in words for them."""


def number(value: Any, what: str, whole: bool = False) -> Any:
    """
    The number of a field that may be empty: `None` then.

    Raises:
        InputError: In one sentence, for what is none.
    """
    said = "" if value is None else str(value).strip().replace(",", ".")
    if not said:
        return None
    try:
        return int(float(said)) if whole else float(said)
    except (ValueError, OverflowError):
        raise InputError(f"{what} must be a number, got {said[:30]!r}.") from None


class Reading(NamedTuple):
    """Proteins `(id, sequence)`, and a sentence for each record that was left out."""

    proteins: list[tuple[str, str]]
    skipped: list[str]


def read_proteins(
    text: str, file: str | None = None, look_up: Callable[[list[str]], list[tuple[str, str]]] | None = None
) -> Reading:
    """
    Proteins of pasted text, or of an uploaded file: a sequence (also with line numbers), FASTA, CSV, TSV, UniProt's or
    GenBank's text format, or accessions where `look_up` finds their sequences.

    Raises:
        InputError: In one sentence, if nothing of it is a protein, or it is too much.
    """
    try:
        if file:
            with open_text(file) as handle:
                text = handle.read(MAX_CHARACTERS + 1)  # never more, whatever a compressed file unpacks to
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"The file: {str(error).rpartition(': ')[2][:300]}.") from None
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"The input is longer than {MAX_CHARACTERS:,} characters: send it in parts.")
    text = text.strip("\ufeff \r\n\t\v\f")
    if not text:
        raise InputError("Paste a protein sequence, or choose a file.")
    words = re.split(r"[\s,;]+", text.strip(",;"))
    if accession(words[0]) and all(accessions := list(map(accession, words))):
        text = "".join(f">{name}\n{sequence}\n" for name, sequence in found_accessions(accessions, look_up))
    elif not text.startswith(">") and (said := no_sequence(text)):
        raise InputError(said)
    skipped: list[str] = []
    proteins: list[tuple[str, str]] = []
    residues = 0
    try:
        records = read_sequences([io.StringIO(as_fasta(text))], lambda error: skipped.append(problem(error)), raw=True)
        for name, raw in records:
            sequence = clean_sequence(raw)
            if said := no_protein(name, raw, len(sequence)):
                skipped.append(said)
                continue
            proteins.append((name, sequence))
            residues += len(sequence)
            if len(proteins) > MAX_PROTEINS:
                raise InputError(f"More than {MAX_PROTEINS} proteins: send at most {MAX_PROTEINS} at a time.")
            if residues > MAX_REQUEST_RESIDUES:
                raise InputError(f"More than {MAX_REQUEST_RESIDUES:,} residues in all: send the proteins in parts.")
    except SequenceError as error:
        raise InputError(problem(error)) from None
    if not proteins:
        more = f" {len(skipped) - 1} more records can't be read either." if len(skipped) > 1 else ""
        raise InputError(f"{skipped[0]}{more}" if skipped else "No protein was found in it.")
    return Reading(proteins, skipped)


def accession(word: str) -> str:
    """The UniProt accession that a word is, or holds as a header or an address of UniProt does; empty for others."""
    word = re.sub(r"^(?:sp|tr)\||\|\w+$", "", word, flags=re.IGNORECASE)
    word = re.sub(r"^https?://(?:www|rest)\.uniprot\.org/\w+/(\w[\w-]*).*$", r"\1", word)
    word = re.sub(r"\.\d{1,3}$", "", word.upper())  # the version of a sequence
    return word if ACCESSION.fullmatch(word) else ""


def found_accessions(
    accessions: list[str], look_up: Callable[[list[str]], list[tuple[str, str]]] | None
) -> list[tuple[str, str]]:
    accessions = list(dict.fromkeys(accessions))
    if len(accessions) > MAX_PROTEINS:
        raise InputError(f"More than {MAX_PROTEINS} accessions: send at most {MAX_PROTEINS} at a time.")
    if look_up is None:
        first = accessions[0]
        of = f"{first} looks like a UniProt accession" if len(accessions) == 1 else "These look like UniProt accessions"
        raise InputError(f"{of}, not a sequence: copy the sequence from {PAGE}/{first.partition('-')[0]} and paste it.")
    return look_up(accessions)


def no_sequence(text: str) -> str:
    """Why text without a header is no sequence but a name or words; empty if it may be one, or a table or a page."""
    words = text.split()
    names = re.split(r"[\s,;]+", text.strip(",;"))
    for pattern, kind in OTHER_NAMES.items():
        if len(words) == 1 and re.fullmatch(pattern, text, re.IGNORECASE):
            at = f"look for it at {PAGE}?query={text}"
            return f"{text!r} looks like {kind}, not a sequence: {at}, and paste the sequence or its accession."
    if re.fullmatch(SYMBOL, text) and len(text) < MIN_RESIDUES:
        return (
            f"{text!r} looks like a gene's symbol or a name, not a sequence of at least {MIN_RESIDUES} residues: "
            f"look for it at {PAGE}?query={text}, and paste the sequence or its accession."
        )
    if re.fullmatch(THREE_LETTERS, text):
        return f"{text[:40]!r} is in three-letter codes: paste the sequence in one-letter codes, such as MALWMRLLPLL."
    if re.match(r"(CLUSTAL|MUSCLE|# STOCKHOLM|#NEXUS|!!)", text):
        return "This is an alignment: paste the sequences as FASTA."
    lengths = {len(word) for word in words[:-1]}
    in_blocks = lengths == {1} or (lengths == {5} and len(words) > 5)  # as some pages show a sequence
    if in_blocks:
        return ""
    if len(text.splitlines()) == 1 and len(words) > 2 and max(map(len, words)) < 10 and all(map(str.isalpha, words)):
        return f"{text[:60]!r} looks like words, not a sequence: paste one in one-letter codes, such as MALWMRLLPLL."
    if len(names) > 1 and all(re.fullmatch(SYMBOL, name) and len(name) < MIN_RESIDUES for name in names):
        if any(map(accession, names)):
            other = next(name for name in names if not accession(name))
            return f"{other!r} among the accessions is none: leave it out, or give its accession."
        return f"{text[:60]!r} looks like names, not a sequence: give UniProt accessions, or sequences as FASTA."
    return ""


def title_above(text: str) -> str:
    """Why the first line of text without a header is no part of the sequence below it; empty where it may be."""
    first, *rest = [line for line in map(unnumbered, text.splitlines()) if line.strip()]
    letters, below = (re.sub(r"\s", "", line) for line in (first, rest[0] if rest else ""))
    if letters and len(letters) <= 20 and len(letters) < len(below):
        return f"{first.strip()[:40]!r} above the sequence looks like a name: put '>' before it, or leave it out."
    return ""


def no_protein(name: str, raw: str, length: int) -> str:
    """Why what reads as a sequence is not answered; empty for a protein."""
    name = called(name)
    if length > MAX_RESIDUES:
        return f"{name} has {length:,} residues; at most {MAX_RESIDUES:,} are read."
    if length < MIN_RESIDUES:
        return f"{name} has {length} residue{'s' * (length != 1)}: at least {MIN_RESIDUES} are needed to say anything."
    warning = sequence_warning(raw)
    if "nucleotides" in warning:
        return f"{name} looks like DNA or RNA, not a protein: translate it first."
    if "unknown" in warning:
        return f"{name} is mostly X, unknown residues: nothing can be read from it."
    if "text" in warning:
        return f"{name} looks like text, not a protein: paste a sequence in one-letter codes."
    return ""


def problem(error: SequenceError) -> str:
    """What is wrong with a record, by the name that its sender gave it."""
    where = called(error.record) or (f"Line {error.line}" if error.line else "The input")
    return f"{where}: {error.reason[:300]}."


def called(name: str) -> str:
    return "Your sequence" if name == PASTED else name


def as_fasta(text: str) -> str:
    """Text formats that `read_sequences` does not know, as FASTA; others as they are."""
    first = text.splitlines()[0]
    if re.match(r"ID   .*\bAA\.", first):
        return "".join(uniprot_entries(text))
    if first.startswith("LOCUS "):
        return "".join(genbank_entries(text))
    if text.startswith(">"):
        return "\n".join(line if line.startswith(">") else unnumbered(line) for line in text.splitlines())
    for delimiter in "\t;,":
        columns = [cell.strip().strip('"').lower() for cell in first.split(delimiter)]
        named = [COLUMN_NAMES.get(column, column) for column in columns]
        if named == ["sequence"]:
            return "".join(
                f">{PASTED}_{i}\n{line}\n" for i, line in enumerate(text.splitlines()[1:], 1) if line.strip()
            )
        if "sequence" in named and len(named) > 1:
            if named.count("id") > 1:  # the accession, not the gene
                keep = min((i for i, name in enumerate(named) if name == "id"), key=lambda i: IDS.index(columns[i]))
                named = [name if name != "id" or i == keep else columns[i] for i, name in enumerate(named)]
            return "\n".join([delimiter.join(named), *text.splitlines()[1:]])
    if {",", "\t", ";"} & set(first) and not re.search(r"[A-Za-z*]{10}", first):
        return text  # a table that lacks a column: `read_sequences` says which
    if said := title_above(text):
        raise InputError(said)
    return f">{PASTED}\n" + "\n".join(map(unnumbered, text.splitlines()))


def unnumbered(line: str) -> str:
    """A line of a sequence without the positions before and behind it."""
    if RULER.fullmatch(line):
        return ""
    found = NUMBERED.fullmatch(line)
    return found[1] if found else line


def uniprot_entries(text: str) -> Iterator[str]:
    """https://web.expasy.org/docs/userman.html"""
    for entry in re.split(r"^//\s*$", text, flags=re.MULTILINE):
        if not entry.strip():
            continue
        accession = re.search(r"^AC   (\w+)", entry, re.MULTILINE) or re.search(r"^ID   (\w+)", entry, re.MULTILINE)
        body = re.split(r"^SQ   .*$", entry, maxsplit=1, flags=re.MULTILINE)
        if len(body) < 2 or not accession:
            raise InputError("The UniProt text has an entry without its sequence (the lines below SQ): copy all of it.")
        yield f">{accession[1]}\n{body[1]}\n"


def genbank_entries(text: str) -> Iterator[str]:
    """Proteins of GenPept, or the translations in GenBank (https://www.ncbi.nlm.nih.gov/genbank/samplerecord/)."""
    for entry in re.split(r"^//\s*$", text, flags=re.MULTILINE):
        if not (locus := re.search(r"^LOCUS\s+(\S+).*", entry, re.MULTILINE)):
            continue
        if re.search(r"\s\d+ aa\s", locus[0] + " "):
            body = re.split(r"^ORIGIN.*$", entry, maxsplit=1, flags=re.MULTILINE)
            yield f">{locus[1]}\n" + re.sub(r"\d+", "", body[-1] if len(body) > 1 else "") + "\n"
            continue
        translations = re.findall(r'/translation="([^"]+)"', entry)
        if not translations:
            raise InputError(f"The GenBank record {locus[1]} holds DNA and no translation: send the protein's record.")
        for number, protein in enumerate(translations, start=1):
            yield f">{locus[1]}_{number}\n{protein}\n"
