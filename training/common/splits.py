"""Checks that no protein is both trained on and tested."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence, Set


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


def choose_groups(labels: Sequence[Set[str]], groups: Sequence[str], share: float, seed: int) -> list[bool]:
    """
    Which proteins to hold out: about `share` of each label's, the rarest label first, and whole groups.

    A label of two or more groups keeps one to train on and gives one away, where their sizes allow it.

    Args:
        labels: Labels of each protein.
        groups: Group of each protein, such as its homology cluster.
        share (`float`): Of each label's proteins.
        seed (`int`): Of the order in which groups are tried.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: len(members[group]))  # small groups fit what is wanted best
    counts = Counter(label for own in labels for label in own)
    held: dict[str, bool] = {}
    for label in sorted(counts, key=lambda name: (counts[name], name)):
        carriers = {group: sum(label in labels[i] for i in members[group]) for group in order}
        carriers = {group: count for group, count in carriers.items() if count}
        wanted = max(1, round(share * counts[label])) - sum(
            count for group, count in carriers.items() if held.get(group)
        )
        undecided = [group for group in carriers if group not in held]
        spare = len(undecided) - all(held.get(group, True) for group in carriers)  # one is left to train on
        for group in undecided:
            held[group] = spare > 0 and carriers[group] <= wanted
            if held[group]:
                wanted, spare = wanted - carriers[group], spare - 1
    return [held.get(group, False) for group in groups]
