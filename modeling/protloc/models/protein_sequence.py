"""What counts as a protein sequence, and what happens to one that is too long: rules on plain strings."""

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# Selenocysteine, pyrrolysine, Asx, Glx, Leu-or-Ile and unknown. `EsmTokenizer` has no token for J, so it is read as X.
OTHER_RESIDUES = "UOBZXJ"

_RESIDUES = set(AMINO_ACIDS + OTHER_RESIDUES)
_SIGNS = _RESIDUES | {residue.lower() for residue in _RESIDUES} | {"-", "."}
_READ_AS = str.maketrans("J", "X", "-.")


class InvalidResidueError(ValueError):
    """A sign that is no amino-acid code: `letter`, its 1-based `position`, and the `line` of a file where known."""

    def __init__(self, letter: str, position: int, line: int = 0):
        self.letter, self.position, self.line = letter, position, line
        super().__init__(f"{letter!r} at position {position} is not an amino-acid code")


def clean_sequence(text: str) -> str:
    """
    Bring a sequence as people paste it into the form the models read.

    Upper case, without white space, gaps (`-`, `.`) and a trailing stop (`*`); J becomes X.

    Args:
        text (`str`): One-letter amino-acid codes.

    Returns:
        `str`: Letters of the 20 amino acids and U, O, B, Z, X.

    Raises:
        InvalidResidueError: Naming the first sign that is no residue and its position.
        ValueError: If nothing is left.
    """
    signs = "".join(text.split()).rstrip("*-.")
    if not _SIGNS.issuperset(signs):
        position, sign = next((i, sign) for i, sign in enumerate(signs, start=1) if sign not in _SIGNS)
        raise InvalidResidueError(sign, position)
    if not signs:
        raise ValueError("the sequence is empty")
    return signs.upper().translate(_READ_AS)


def left_out(length: int, max_length: int) -> slice:
    """
    The residues of a long protein that the length policy `"middle"` leaves out, an empty slice for a short one.

    Both ends stay, where the sorting signals are (Almagro Armenteros et al. 2017).
    """
    start = min(length, (max_length + 1) // 2)
    return slice(start, start + max(0, length - max_length))


def shorten(sequence: str, max_length: int, policy: str = "middle") -> str:
    """
    Apply a length policy.

    Args:
        sequence (`str`): Residues.
        max_length (`int`): The most residues to keep.
        policy (`str`): `"middle"` removes residues from the middle, `"error"` refuses a longer sequence.

    Returns:
        `str`: At most `max_length` residues.

    Raises:
        ValueError: With policy `"error"`, naming the length and the limit.
    """
    if policy == "error" and len(sequence) > max_length:
        raise ValueError(
            f"{len(sequence)} residues are more than the model's {max_length}: use the length policy 'middle'"
        )
    gap = left_out(len(sequence), max_length)
    return sequence[: gap.start] + sequence[gap.stop :]
