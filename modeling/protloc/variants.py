"""Variants of proteins in short form (`R175H`, `p.Arg175His`, `F508del`, `R213*`), and their effect on a prediction."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from . import prediction
from .loading import load_model
from .models.configuration_deeploc import DeepLocConfig
from .models.protein_sequence import AMINO_ACIDS
from .prediction import Row, predict

# https://hgvs-nomenclature.org: three letters and one
CODES = (
    "Ala A Arg R Asn N Asp D Cys C Gln Q Glu E Gly G His H Ile I Leu L Lys K Met M Phe F Pro P Ser S Thr T Trp W Tyr Y"
)
THREE = dict(zip(CODES.split()[::2], CODES.split()[1::2], strict=True)) | {"Val": "V", "Ter": "*"}
START_LOST = "the start codon is lost: a cell begins this protein elsewhere, or not at all"
CHANGE = re.compile(r"(?:p\.)?\(?([A-Za-z]|[A-Z][a-z]{2})(\d+)([A-Za-z*]|[A-Z][a-z]{2}|del)\)?")


def change(sequence: str, variant: str) -> str:
    """
    A protein with a variant.

    Args:
        sequence (`str`): The reference.
        variant (`str`): A substitution, a stop (`*` or `Ter`) or a deletion of one residue, counted from 1; several
            joined by `+`.

    Returns:
        `str`: The changed sequence.

    Raises:
        ValueError: If the variant is invalid, lies outside of the protein, changes nothing or a residue twice, or if
            the reference has another residue there.
    """
    residues = list(sequence)
    places: set[int] = set()
    for one in variant.split("+"):
        found = CHANGE.fullmatch(one.strip())
        if not found:
            raise ValueError(f"{one.strip()[:40]!r} is no variant: write R175H, p.Arg175His, R213* or F508del")
        reference, new = (THREE.get(letters, letters.upper()) for letters in (found[1], found[3]))
        place = int(found[2])
        if place in places:
            raise ValueError(f"{variant}: residue {place} is changed twice")
        places.add(place)
        if not 1 <= place <= len(sequence):
            raise ValueError(f"{one.strip()}: the protein has {len(sequence)} residues")
        if sequence[place - 1] != reference:
            raise ValueError(f"{one.strip()}: residue {place} is {sequence[place - 1]}, not {reference}")
        if new not in (*AMINO_ACIDS, "*", "DEL"):
            raise ValueError(f"{one.strip()}: {found[3]} is no amino acid")
        if new == reference:
            raise ValueError(f"{one.strip()} changes nothing")
        residues[place - 1] = "" if new == "DEL" else new
    changed = "".join(residues).partition("*")[0]
    if not changed:
        raise ValueError(f"{variant}: nothing of the protein is left")
    return changed


def read_variants(text: str) -> list[str]:
    """Variants of a list, separated by commas, semicolons, spaces or lines, each once."""
    return list(dict.fromkeys(word for word in re.split(r"[\s,;]+", text) if word))


def scan(sequence: str, start: int, end: int) -> list[str]:
    """
    All single substitutions of the residues `start` to `end`, counted from 1.

    Raises:
        ValueError: If the window is not inside of the protein.
    """
    if not 1 <= start <= end <= len(sequence):
        raise ValueError(f"a window from {start} to {end} is not inside of a protein of {len(sequence)} residues")
    places = range(start, end + 1)
    return [
        f"{sequence[place - 1]}{place}{new}" for place in places for new in AMINO_ACIDS if new != sequence[place - 1]
    ]


def columns(config: DeepLocConfig) -> list[str]:
    """The columns of `compare`, in order."""
    first, *rest = prediction.columns(config)
    after = rest.index("localizations") + 1
    deltas = ["delta_membrane"] * ("membrane" in rest) + [f"delta_{label}" for label in config.id2label.values()]
    return [first, "variant", *rest[:after], "gained", "lost", *rest[after:-1], *deltas, rest[-1]]


def compare(
    protein_id: str,
    sequence: str,
    variants: Iterable[tuple[str, str]],
    model: Any = None,
    tokenizer: Any = None,
    **heads: bool,
) -> Iterator[Row]:
    """
    Predict a protein and its variants.

    Args:
        protein_id, sequence (`str`): The reference.
        variants: Pairs of a name and a changed sequence (`change`).
        model, tokenizer: As for `protloc.prediction.predict`.
        heads (`bool`): Whether to return `signals`, `tree` and `attention` too.

    Yields:
        `dict`: A row of `predict`, first of the reference (with an empty `variant`), with `variant`; `gained` and
        `lost`, the localizations that differ from the reference, joined by `|`; and the difference of every
        probability from the reference, `delta_<label>` and `delta_membrane`.
    """
    if model is None:
        model, tokenizer = load_model()
    labels = list(model.config.id2label.values())
    records = [("", sequence), *variants]
    reference: Row = {}
    rows = predict(records, model, tokenizer, **heads)  # type: ignore[arg-type]
    for (_, changed), row in zip(records, rows, strict=True):
        if sequence[:1].upper() == "M" != changed[:1].upper():
            row["warning"] = "; ".join(filter(None, [row["warning"], START_LOST]))
        reference = reference or row
        before, after = (one["localizations"].split("|") for one in (reference, row))
        if "membrane" in row:
            row["delta_membrane"] = round(row["membrane_probability"] - reference["membrane_probability"], 6)
        yield row | {
            "protein_id": protein_id,
            "variant": row["protein_id"],
            "gained": "|".join(name for name in after if name not in before),
            "lost": "|".join(name for name in before if name not in after),
            **{f"delta_{label}": round(row[label] - reference[label], 6) for label in labels},
        }
