"""What the commands of `protloc` do, one module each; their arguments are parsed in `protloc_entry`."""

import argparse
import importlib
import os
import sys

from ..loading import one_line


def run(args: argparse.Namespace) -> int:
    """
    Run a command; errors are one line on standard error.

    Returns:
        `int`: The exit code: 0, 2 after an error, 130 after an interrupt.
    """
    module = importlib.import_module(f".{args.command.removeprefix('predict-')}", __name__)
    try:
        module.run(args)
    except BrokenPipeError:  # `protloc predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:  # pyarrow's are of both kinds
        print(f"protloc: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"protloc: stopped{module.after_interrupt(args)}", file=sys.stderr)
        return 130
    return 0


def progress_bars() -> bool:
    """Whether standard error is a terminal; if not, the loading bars of transformers and the Hub are switched off."""
    show_bars = sys.stderr.isatty()
    if not show_bars:
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        disable_progress_bars()
    return show_bars
