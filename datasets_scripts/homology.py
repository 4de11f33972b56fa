"""Proteins that are similar to others, by MMseqs2."""

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path


def similar(sequences: Iterable[str], references: Iterable[str], identity: float = 0.3) -> set[str]:
    """
    The sequences with this identity to one of `references` over half of either.

    Raises:
        ValueError: If MMseqs2 fails.
        FileNotFoundError: If it is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("query.fasta", "target.fasta", "found.tsv", "tmp")]
        queries = sorted(set(sequences))
        for path, proteins in ((paths[0], queries), (paths[1], sorted(set(references)))):
            path.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(proteins)), encoding="utf-8")
        options = ["--min-seq-id", str(identity), "-c", "0.5", "--cov-mode", "5", "--format-output", "query"]
        result = subprocess.run(["mmseqs", "easy-search", *map(str, paths), *options], capture_output=True, text=True)
        if result.returncode:
            raise ValueError(f"mmseqs easy-search failed: {(result.stdout + result.stderr).strip()[-200:]}")
        return {queries[int(line)] for line in paths[2].read_text(encoding="utf-8").split()}
