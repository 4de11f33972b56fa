"""
How the site answers, alone and with many people: `python -m benchmarks.site`.

Starts `spaces/opengps/app.py`, measures the first paint in Chromium (where there is one) and one protein of 500
residues, then lets users (each asks for a protein, waits for the answer, and asks again) work for a while: requests
answered and lost, median and 95th percentile of their time, and the server's memory before and after. With `--large 4`,
four others send 25 proteins of 500 residues meanwhile, again and again. `--costs` measures instead what a residue, one
of the accurate model (where it is installed) and a picture cost: `UNIREP_COST` and `PICTURE_COST` of
`spaces/opengps/service.py`.
"""

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from gradio_client import Client, handle_file
from playwright.sync_api import sync_playwright

from protloc.sequences import read_fasta

ROOT = Path(__file__).resolve().parents[1]


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def wait_for(url: str, server: subprocess.Popen) -> None:
    while True:
        try:
            urllib.request.urlopen(url)
            return
        except OSError:
            if server.poll() is not None:
                raise SystemExit("the site did not start") from None
            time.sleep(0.2)


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, subprocess.Popen, Path]]:
    """The site on a free port of this machine, offline: its address, its process and its folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = [sys.executable, str(ROOT / "spaces" / "opengps" / "app.py"), "--port", str(port)]
    env, null = os.environ | {"HF_HUB_OFFLINE": "1"}, subprocess.DEVNULL
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(app, cwd=folder, env=env, stdout=null, stderr=null) as server,
    ):
        try:
            yield f"http://127.0.0.1:{port}", server, Path(folder)
        finally:
            server.kill()


def first_paint(url: str, chromium: str, visits: int = 5, megabits: float = 0) -> tuple[float, float]:
    """
    Medians of the seconds to the first contentful paint and to a page that can be used, each with an empty cache; with
    `megabits`, over a line of so many a second and 50 ms.
    """
    painted, usable = [], []
    with sync_playwright() as playwright:
        for _ in range(visits):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            if megabits:
                speed = megabits * 1e6 / 8
                line = {"offline": False, "latency": 50, "downloadThroughput": speed, "uploadThroughput": speed}
                page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", line)
            start = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("#predict")
            usable.append(time.perf_counter() - start)
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            painted.append(page.evaluate(paint) / 1000)
            browser.close()
    return statistics.median(painted), statistics.median(usable)


def print_costs(proteins: list[tuple[str, str]]) -> None:
    """Medians over proteins of the seconds of each step, and their ratios."""
    sys.path.insert(0, str(ROOT / "spaces" / "opengps"))
    import service

    residues = statistics.mean(len(sequence) for _, sequence in proteins)
    jobs = {name: service.prepare(proteins, model=name) for name in service.MODELS}
    drawing, accurate = jobs[service.DEFAULT_MODEL], jobs.get(service.ACCURATE)
    steps = {
        "a protein": (service.localize, drawing),
        "a picture": (
            lambda protein, job: service.drawn({"protein_id": "", "sequence": protein[1], "localizations": ""}, job),
            drawing,
        ),
    }
    if accurate:
        steps["a protein, accurate"] = (lambda protein, job: service.localize(protein, job, True), accurate)
    seconds = {}
    for title, (step, job) in steps.items():
        step(proteins[0], job)
        times = []
        for protein in proteins:
            start = time.perf_counter()
            step(protein, job)
            times.append(time.perf_counter() - start)
        seconds[title] = statistics.mean(times)
    for title, mean in seconds.items():
        cost = mean / seconds["a protein"] * residues
        print(f"{title} of {residues:.0f} residues on average: {mean:.3f} s, as {cost:,.0f} residues of the fast model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50, help="at the same time (default: 50)")
    parser.add_argument("--seconds", type=float, default=60, help="(default: 60)")
    parser.add_argument("--large", type=int, default=0, help="clients that send large batches meanwhile (default: 0)")
    parser.add_argument("--costs", action="store_true", help="measure what one step costs, and nothing else")
    args = parser.parse_args()
    if args.costs:
        print_costs(list(read_fasta(ROOT / "examples" / "proteins.fasta"))[:6])
        return
    proteins = [sequence for _, sequence in read_fasta(ROOT / "examples" / "proteins.fasta")]
    longest = max(proteins, key=len)
    long = (longest * (500 // len(longest) + 1))[:500]
    with serving() as (url, server, folder):
        start = time.perf_counter()
        wait_for(url, server)
        print(f"start {time.perf_counter() - start:.1f} s", end="")
        start = time.perf_counter()
        urllib.request.urlopen(url).read()
        print(f", page {1000 * (time.perf_counter() - start):.0f} ms", end="")
        if chromium := shutil.which("chromium"):
            painted, usable = first_paint(url, chromium)
            print(f", first paint {painted:.2f} s, page in use {usable:.2f} s", end="")
            painted, usable = first_paint(url, chromium, 3, 1.6)
            print(f", at 1.6 Mbit/s {painted:.2f} s and {usable:.2f} s", end="")
        first = Client(url, verbose=False)
        alone = []
        for _ in range(6):
            start = time.perf_counter()
            first.predict(long, api_name="/predict")
            alone.append(time.perf_counter() - start)
        print(f", 500 residues {statistics.median(alone[1:]):.2f} s (the first {alone[0]:.2f} s)")

        before, times, lost = memory_mib(server.pid), [], []
        end = time.monotonic() + args.seconds

        def use(number: int) -> None:
            user = Client(url, verbose=False)
            while time.monotonic() < end:
                start = time.perf_counter()
                try:
                    user.predict(proteins[number % len(proteins)], api_name="/predict")
                    times.append(time.perf_counter() - start)
                except Exception as error:
                    lost.append(error)

        batch = folder / "batch.fasta"
        batch.write_text("".join(f">p{number}\n{long}\n" for number in range(25)), encoding="utf-8")

        def send_batches(_: int) -> None:
            client = Client(url, verbose=False)
            while time.monotonic() < end:
                with contextlib.suppress(Exception):  # the server ends before the last ones are done
                    client.predict(handle_file(batch), api_name="/predict_batch")

        for number in range(args.large):
            threading.Thread(target=send_batches, args=[number], daemon=True).start()
        users = [threading.Thread(target=use, args=[number]) for number in range(args.users)]
        for user in users:
            user.start()
        for user in users:
            user.join()
        after = memory_mib(server.pid)
    cuts = statistics.quantiles(times, n=20)
    print("| users | seconds | answered | lost | a second | median | 95th percentile | memory before, after |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {args.users} | {args.seconds:.0f} | {len(times)} | {len(lost)} | {len(times) / args.seconds:.1f} | "
        f"{statistics.median(times):.2f} s | {cuts[-1]:.2f} s | {before:.0f}, {after:.0f} MiB |"
    )
    for error in lost[:3]:
        print(f"lost: {type(error).__name__}: {error}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(0)  # not waiting for batches that nobody answers any more


if __name__ == "__main__":
    main()
