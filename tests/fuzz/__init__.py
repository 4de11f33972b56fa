"""
What readers make of damaged files: a result, or `ValueError` in one sentence; never another error, a hang or a flood.

    python -m tests.fuzz --cases 2000                 mutated files for each reader; exit code 1 if one has a fault
    python -m tests.fuzz --reader images --seed 7
    python -m tests.fuzz --reader images --seed 7 --only 1234 --keep case.bin      one of them again, and its file

A reader is registered in `tests/fuzz/readers.py`. Each case runs in a process of its own (so Linux or macOS), with a
timeout, and may take 1 GB of memory.
"""
