"""Protein sequences: validation, windows of long sequences, and tokens."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# Selenocysteine, pyrrolysine, Asx, Glx, Leu-or-Ile and unknown. `EsmTokenizer` has no token for J, so it is read as X.
OTHER_RESIDUES = "UOBZXJ"

_RESIDUES = set(AMINO_ACIDS + OTHER_RESIDUES)
_CHARACTERS = _RESIDUES | {residue.lower() for residue in _RESIDUES} | {"-", "."}
_NUCLEOTIDES = set("ACGTURYKMSWBDHVN")
_READ_AS = str.maketrans("J", "X", "-.")
# What tools write where there is no sequence; each of its letters stands for a residue.
_MISSING = {"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "missing", "unknown", "unavailable", "not available",
            "sequence unavailable", "sequence not available", "no sequence", "sequence"}  # fmt: skip
_FILE_NAME = re.compile(
    r"[\w-]\.(?:aln|bam|bz|cif|csv|dat|docx?|faa?|fas|(?i:fasta)|fna|fsa|gbk?|gz|jsonl?|msf|parquet|pdb|pdf|pep|pir|png|"
    r"pssm|seq|tab|tsv|txt|xlsx?|xml|xz|zip)$"
)


class InvalidResidueError(ValueError):
    """A character that is no amino-acid code: `letter`, its 1-based `position`, and its `line` in a file if known."""

    def __init__(self, letter: str, position: int, line: int = 0):
        self.letter, self.position, self.line = letter, position, line
        super().__init__(f"{letter!r} at position {position} is not an amino-acid code")


def clean_sequence(text: Any) -> str:
    """
    Clean a pasted sequence for the models.

    The result is upper case, without white space, gaps (`-`, `.`) and a trailing stop (`*`); J becomes X.

    Args:
        text (`str`): One-letter amino-acid codes, or any input of `sequence_text`.

    Returns:
        `str`: Letters of the 20 amino acids and U, O, B, Z, X.

    Raises:
        InvalidResidueError: With the first character that is not a residue and its position.
        ValueError: If nothing is left, or the text is a placeholder for a missing sequence, a file name, or words.
    """
    text = sequence_text(text)
    words = text.split()
    if len(text) < 40 and " ".join(words).casefold() in _MISSING:
        raise ValueError(f"{' '.join(words)!r} stands for a missing sequence")
    characters = "".join(words).rstrip("*-.")
    if not _CHARACTERS.issuperset(characters):
        position, character = next((i, one) for i, one in enumerate(characters, start=1) if one not in _CHARACTERS)
        raise InvalidResidueError(character, position)
    if not characters:
        raise ValueError("the sequence is empty")
    if _FILE_NAME.search(characters):
        raise ValueError(f"{characters[-60:]!r} is a file name, not a sequence: read the file first")
    if not text.isupper() and any(map(_are_words, text.splitlines())):
        raise ValueError(f"{' '.join(words)[:60]!r} reads as words, not as a sequence")
    return characters.upper().translate(_READ_AS)


def _are_words(line: str) -> bool:
    """Whether a line is a title rather than residues, which may stand in blocks of one length."""
    words = line.split()
    if len(words) < 2 or not all(word.isalpha() and (word.islower() or word.istitle()) for word in words):
        return False
    size = len(words[0])
    blocks = {len(word) for word in words[:-1]} == {size} and len(words[-1]) <= size and (size == 10 or len(words) > 3)
    return not blocks and max(map(len, words)) >= 4


def sequence_text(item: Any) -> str:
    """
    The text of a sequence as Python programs hold it.

    Args:
        item: Text, bytes, Biopython's `Seq` (which gives bytes), or `SeqRecord` (which has a `seq`).

    Raises:
        ValueError: Naming an item of another kind, such as `None` or NaN.
    """
    item = getattr(item, "seq", item)
    if isinstance(item, str):
        return item
    if hasattr(item, "__bytes__"):
        return bytes(item).decode("latin-1")
    raise ValueError(f"{shortened(item)} is no sequence: give one-letter codes as text")


def shortened(item: Any) -> str:
    """How messages name an item."""
    text = " ".join(repr(item).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def sequence_items(items: Any) -> list[Any]:
    """
    A list of sequences from what Python programs hold them in.

    Args:
        items: One sequence, as for `sequence_text`, or any iterable of them: a list, tuple, `pandas.Series`, numpy
            array or `datasets` column.

    Raises:
        ValueError: If it is neither, or a table of several columns.
    """
    if isinstance(items, str) or hasattr(items, "__bytes__") or hasattr(items, "seq"):
        return [items]
    if isinstance(items, dict) or not isinstance(items, Iterable) or getattr(items, "ndim", 1) != 1:
        raise ValueError(f"{shortened(items)} is no sequence and no list of sequences")
    return list(items)


def sequence_warning(text: str) -> str:
    """
    Reasons why a valid sequence may not be a protein: nucleotides, unknown residues, stops, text, a short peptide.

    Args:
        text (`str`): The text as it is in a file.

    Returns:
        `str`: Reasons joined by `; `, empty if it looks like a protein.
    """
    text = "".join(text.split()).strip("*-.").upper()
    residues = text.replace("-", "").replace(".", "")
    found = []
    if len(residues) < 10:
        found.append("under 10 residues")
    elif sum(map(residues.count, "ACGTUN")) >= 0.9 * len(residues) or _are_ambiguous_nucleotides(residues):
        found.append("looks like nucleotides")
    elif residues.count("X") >= 0.5 * len(residues):
        found.append("mostly unknown residues")
    elif sum(map(residues.count, "OUBZJ")) >= max(2, 0.1 * len(residues)):
        found.append("looks like text")
    if "." in text:
        found.append("has '.' inside, read as a gap")
    return "; ".join(found)


def _are_ambiguous_nucleotides(residues: str) -> bool:
    """Codes of the IUPAC alone: a third of a protein's residues are none (E, F, I, L, P, Q), and B is rare there."""
    found = set(residues)
    return set("ACG") <= found <= _NUCLEOTIDES and (len(residues) >= 20 or "B" in found)


class Warned:
    """How many records have a warning, and which are the first three; sums add up."""

    def __init__(self, count: int = 0, first: Iterable[str] = ()):
        self.count, self.first = count, list(first)[:3]

    def add(self, protein_id: str, warning: str) -> None:
        if warning:
            self.count += 1
            self.first = [*self.first, f"{protein_id} ({warning})"][:3]

    def __add__(self, other: "Warned") -> "Warned":
        return Warned(self.count + other.count, self.first + other.first)

    def __str__(self) -> str:
        more = f", and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return f"{self.count} record(s) may be no protein: {', '.join(self.first)}{more}"


def warned(items: Iterable[Any]) -> Iterator[Any]:
    """
    The items, and after the last one a single `UserWarning` if some may be no proteins.

    Args:
        items: Sequences as for `clean_sequence`, or dictionaries with a `"sequence"`. What is no sequence is refused
            where it is read.
    """
    found = Warned()
    for item in items:
        text = item.get("sequence") if isinstance(item, dict) else item
        with suppress(ValueError):
            clean_sequence(text)
            text = str(sequence_text(text))
            found.add(shortened(text), sequence_warning(text))
        yield item
    if found.count:
        warnings.warn(str(found), stacklevel=2)


def split_windows(length: int, max_length: int, policy: str) -> list[list[slice]]:
    """
    The windows of a protein that a model reads: each of at most `max_length` residues, composed of slices.

    Args:
        length (`int`): Number of residues of the protein.
        max_length (`int`): Maximum number of residues of a window.
        policy (`str`): For longer proteins. `"middle"` removes the middle, because both ends carry sorting signals
            (Almagro Armenteros et al. 2017); `"end"` keeps only the first residues; `"window"` uses windows that
            overlap by half or more and cover the protein, whose predictions are averaged; `"error"` raises an error.

    Returns:
        `list[list[slice]]`: Slices of the protein, in order, for each window.

    Raises:
        ValueError: With policy `"error"`, naming the length and the limit.
    """
    excess = length - max_length
    if excess <= 0:
        return [[slice(0, length)]]
    if policy == "middle":
        head = (max_length + 1) // 2
        return [[slice(0, head), slice(head + excess, length)]]
    if policy == "end":
        return [[slice(0, max_length)]]
    if policy == "window":
        steps = -(-excess // max(1, max_length // 2))  # rounded up; the last window ends with the protein
        starts = [round(excess * step / steps) for step in range(steps + 1)]
        return [[slice(start, start + max_length)] for start in starts]
    raise ValueError(f"{length} residues are more than the model's {max_length}: use the length policy 'middle'")


def window_text(whole: str, window: list[slice], spaced: bool = False) -> str:
    """The residues of one window of a sequence, with spaces between them if the tokenizer wants them (ProtBert)."""
    residues = "".join(whole[piece] for piece in window)
    return " ".join(residues) if spaced else residues


def tokenize(texts: Sequence[str], tokenizer: Any) -> dict[str, torch.Tensor]:
    """
    Tokens of proteins, the same that the tokenizer gives.

    A tokenizer reads a protein residue by residue, which takes milliseconds: longer than a GPU needs for the
    prediction. Here, the tokenizer is called only once for each letter, and for the tokens before and after a sequence.

    Args:
        texts (`Sequence[str]`): Sequences from `clean_sequence`, with or without spaces.
        tokenizer: Any stock tokenizer with a token for each residue, such as those of ESM, ProtBert and UniRep.

    Returns:
        `dict`: `input_ids` and `attention_mask`, `torch.LongTensor` of shape `(batch, tokens)`, padded on the right.
    """
    frame = tokenizer("")["input_ids"]
    letters = tokenizer([chr(code) for code in range(ord("A"), ord("Z") + 1)])["input_ids"]
    start = next((i for i, token in enumerate(frame) if token != letters[0][i]), len(frame))  # tokens before
    ids = np.array([tokens[start] for tokens in letters])
    proteins = [ids[np.frombuffer(text.replace(" ", "").encode(), dtype=np.uint8) - ord("A")] for text in texts]
    rows = [torch.from_numpy(np.concatenate([frame[:start], protein, frame[start:]])).long() for protein in proteins]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }
