"""The commands of `protloc`, one module each; their arguments are parsed in `protloc_entry`."""

import argparse
import importlib
import os
import signal
import sys

from ..batching import memory_ran_out
from ..loading import one_line


def run(args: argparse.Namespace) -> int:
    """
    Run a command; errors are one line on standard error.

    Returns:
        `int`: The exit code: 0, 2 after an error, 3 where no protein could be predicted, 130 after an interrupt, and
        128 and its number after another signal.
    """
    # From here on an exception, so that temporary files are removed.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, signal.SIGINT)  # Windows has no SIGHUP
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    module = None
    try:
        module = importlib.import_module(f".{args.command.removeprefix('predict-')}", __name__)
        code = module.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # `protloc predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        print(f"protloc: stopped{by}{module.after_interrupt(args) if module else ''}", file=sys.stderr)
        return 128 + number
    except (ValueError, OSError) as error:  # pyarrow's are of both kinds
        print(f"protloc: {one_line(error)}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not memory_ran_out(error):
            raise
        print(
            f"protloc: memory does not suffice ({one_line(error)}): free some, or lower --max-tokens-per-batch",
            file=sys.stderr,
        )
        return 2
    return code or 0


def _interrupt(number, frame):
    raise KeyboardInterrupt(number)


def progress_bars() -> bool:
    """Whether standard error is a terminal; if not, the loading bars of transformers and the Hub are switched off."""
    show_bars = sys.stderr.isatty()
    if not show_bars:
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        disable_progress_bars()
    return show_bars
