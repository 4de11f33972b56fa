"""No protein is trained on and then tested."""

from collections.abc import Iterable


def check_apart(train: Iterable[str], held_out: Iterable[str], what: str) -> None:
    """
    Args:
        train, held_out: Names of what is trained on, and of what validates or tests; empty ones are of nothing known.
        what (`str`): What the names are of, for the message.

    Raises:
        ValueError: If a name is on both sides, as in a folder of two builds.
    """
    both = (set(train) & set(held_out)) - {""}
    if both:
        raise ValueError(
            f"{len(both)} {what}, such as {min(both)!r}, are both trained on and held out: build the data set anew"
        )
