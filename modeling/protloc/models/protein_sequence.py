"""What counts as a protein sequence, and what happens to one that is too long: rules on plain strings."""

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# Selenocysteine, pyrrolysine, Asx, Glx, Leu-or-Ile and unknown. `EsmTokenizer` has no token for J, so it is read as X.
OTHER_RESIDUES = "UOBZXJ"
LENGTH_POLICIES = ("middle", "error")

_READ_AS = str.maketrans("J", "X", "-.")
_ALLOWED = set(AMINO_ACIDS + OTHER_RESIDUES)


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
    letters = "".join(text.split()).rstrip("*").upper()
    for position, letter in enumerate(letters, start=1):
        if letter not in _ALLOWED and letter not in "-.":
            raise InvalidResidueError(letter, position)
    sequence = letters.translate(_READ_AS)
    if not sequence:
        raise ValueError("the sequence is empty")
    return sequence


def shorten(sequence: str, max_length: int, policy: str = "middle") -> str:
    """
    Apply a length policy.

    Args:
        sequence (`str`): Residues.
        max_length (`int`): The most residues to keep.
        policy (`str`): `"middle"` removes residues from the middle and keeps both ends, where the sorting signals are
            (Almagro Armenteros et al. 2017, section 2.2); `"error"` refuses a longer sequence.

    Returns:
        `str`: At most `max_length` residues.

    Raises:
        ValueError: With policy `"error"`, naming the length and the limit.
    """
    if len(sequence) <= max_length:
        return sequence
    if policy == "error":
        raise ValueError(
            f"{len(sequence)} residues are more than the model's {max_length}: use the length policy 'middle'"
        )
    head = (max_length + 1) // 2
    tail = max_length - head
    return sequence[:head] + sequence[len(sequence) - tail :]
