"""Length-sorted batches under a token budget: little padding, and a known bound on memory."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

SPECIAL_TOKENS = 2  # <cls> and <eos>
_POOL = 2048  # proteins sorted together when shuffling: enough to pad little, few enough to mix well


# What torch, oneDNN (which names no cause) and the system's allocator say; they have no type of error for it on a CPU.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "could not create a",
    "could not execute",
    "can't start new thread",
)


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, such as for too large a batch."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        text in str(error) for text in _OUT_OF_MEMORY
    )


def token_budget_batches(lengths: Sequence[int], max_tokens: int, max_proteins: int | None = None) -> list[list[int]]:
    """
    Group sequences of similar length, longest first.

    Args:
        lengths (`Sequence[int]`): Residues of each sequence; two special tokens are added to each.
        max_tokens (`int`): The most tokens of a batch, padding included. A longer sequence is a batch of its own.
        max_proteins (`int`, *optional*): The most sequences of a batch.

    Returns:
        `list[list[int]]`: Indices into `lengths`, each once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        size = len(batches[-1]) + 1 if batches else 0
        full = max_proteins is not None and size > max_proteins
        if batches and not full and size * (lengths[batches[-1][0]] + SPECIAL_TOKENS) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def packed_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """
    Group sequences as they come, to be read one after the other without padding.

    Args and returns: as for `token_budget_batches`.
    """
    batches: list[list[int]] = []
    tokens = 0
    for index, length in enumerate(lengths):
        tokens += length + SPECIAL_TOKENS
        if batches and tokens <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            tokens = length + SPECIAL_TOKENS
    return batches


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """
    Shuffled batches for training: proteins of similar length together, batches in random order.

    The order depends on `seed` and the epoch alone, so that a run that resumes sees the batches it would have seen.

    Args:
        lengths (`Sequence[int]`): Residues of each protein.
        max_tokens (`int`): The most tokens of a batch, padding included.
        seed (`int`): Seed of the order.
        num_processes (`int`): The number of batches is cut to a multiple of it, since every process must step as often.
        max_proteins (`int`, *optional*): The most proteins of a batch.
        repeats (`Sequence[float]`, *optional*): How often each protein comes in an epoch, on average; once by default.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_tokens: int,
        seed: int = 0,
        num_processes: int = 1,
        max_proteins: int | None = None,
        repeats: Sequence[float] | None = None,
    ):
        self.lengths = lengths
        self.max_tokens = max_tokens
        self.max_proteins = max_proteins
        self.repeats = torch.tensor(repeats) if repeats is not None else None
        self.seed = seed
        self.num_processes = num_processes
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the order, of the next iteration."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        proteins = torch.arange(len(self.lengths))
        if self.repeats is not None:  # a fraction is the chance of one time more
            counts = torch.floor(self.repeats + torch.rand(len(proteins), generator=generator)).long()
            proteins = proteins.repeat_interleave(counts)
        order = proteins[torch.randperm(len(proteins), generator=generator)].tolist()
        batches = []
        for start in range(0, len(order), _POOL):
            pool = order[start : start + _POOL]
            pool_batches = token_budget_batches([self.lengths[i] for i in pool], self.max_tokens, self.max_proteins)
            batches += [[pool[i] for i in batch] for batch in pool_batches]
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        kept = len(batches) // self.num_processes * self.num_processes
        self._batches = [batches[i] for i in shuffled[:kept]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
