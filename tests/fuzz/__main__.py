"""`python -m tests.fuzz`: see the package."""

import argparse
import hashlib
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from tests.fuzz.readers import READERS, Reader

MAX_BYTES = 10**9  # of memory that a case may take
ADDRESS_SPACE = 4 * 10**9  # where it is stopped: what is reserved need not be taken


def case(reader: Reader, seeds: list[bytes], seed: int, number: int) -> bytes:
    """A damaged file; the first ones are whole."""
    if number < len(seeds):
        return seeds[number]
    digest = hashlib.sha256(f"{reader.name} {seed} {number}".encode()).digest()
    generator = random.Random(digest)
    return reader.mutate(generator.choice(seeds), seeds, generator)


def run(read: Callable[[Path], None], path: Path, timeout: float) -> str:
    """`"read"`, `"refused: ..."`, or what went wrong, of a case in a process of its own."""
    before = resident_bytes()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        logging.disable(logging.CRITICAL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C say a lot
        resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + ADDRESS_SPACE,) * 2)
        torch.set_num_threads(1)  # makes torch's pool anew after the fork, before threads race for it
        try:
            read(path)
            outcome = "read"
        except ValueError as error:
            outcome = f"refused: {error}"
        except BaseException:
            outcome = traceback.format_exc()
        os.write(send, outcome.encode()[-4000:])
        os._exit(0)
    os.close(send)
    start = time.monotonic()
    ended, status, usage = os.wait4(child, os.WNOHANG)
    while not ended:
        if time.monotonic() - start > timeout:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            os.close(receive)
            return f"no answer within {timeout:g} seconds"
        time.sleep(0.001)
        ended, status, usage = os.wait4(child, os.WNOHANG)
    with open(receive, "rb") as pipe:
        outcome = pipe.read().decode(errors="replace")
    taken = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) - before
    if taken > MAX_BYTES:
        return f"{taken / 10**9:.1f} GB of memory"
    return outcome or f"the process was ended by signal {os.waitstatus_to_exitcode(status)}"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="for each reader (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case, of a run in pieces")
    parser.add_argument("--reader", choices=[reader.name for reader in READERS], action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=10, help="seconds for a case (default: 10)")
    parser.add_argument("--only", type=int, help="number of a single case")
    parser.add_argument("--keep", type=Path, help="where to write the file of --only")
    args = parser.parse_args()
    faults = 0
    for reader in READERS:
        if args.reader and reader.name not in args.reader:
            continue
        seeds, counts = reader.seeds(), Counter()
        with tempfile.TemporaryDirectory() as folder:
            for number in range(args.first, args.cases) if args.only is None else [args.only]:
                path = Path(folder) / "case"
                path.write_bytes(case(reader, seeds, args.seed, number))
                if args.keep:
                    args.keep.write_bytes(path.read_bytes())
                outcome = run(reader.read, path, args.timeout)
                known = outcome.split(":")[0]
                if known not in ("read", "refused") or (number < len(seeds) and known == "refused"):
                    known = "fault"  # a whole file that is refused is one
                counts[known] += 1
                if known == "fault":
                    print(f"{reader.name} --seed {args.seed} --only {number}: {outcome}", file=sys.stderr)
        print(
            f"{reader.name}: {counts['read']} read, {counts['refused']} refused, {counts['fault']} faults", flush=True
        )
        faults += counts["fault"]
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
