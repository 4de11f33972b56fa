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


def split_reads(length: int, max_length: int, policy: str) -> list[list[slice]]:
    """
    What is read of a protein: one or several reads of at most `max_length` residues, each put together from slices.

    Args:
        length (`int`): The protein's residues.
        max_length (`int`): The most residues of a read.
        policy (`str`): For longer proteins. `"middle"` leaves the middle out, since both ends carry sorting signals
            (Almagro Armenteros et al. 2017); `"end"` reads the first residues only; `"window"` reads windows that
            overlap by half or more and cover the whole, whose answers are then averaged; `"error"` refuses them.

    Returns:
        `list[list[slice]]`: Slices of the protein, in order, for each read.

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


def read_text(whole: str, read: list[slice], spaced: bool = False) -> str:
    """What the tokenizer gets for one read of a sequence, with spaces between residues if it wants them (ProtBert)."""
    residues = "".join(whole[piece] for piece in read)
    return " ".join(residues) if spaced else residues
