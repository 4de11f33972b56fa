"""`protloc submissions`: list, approve or reject the images that people sent through the site."""

import argparse

from httpx2 import HTTPError

from .. import hub, submissions
from . import progress_bars


def run(args: argparse.Namespace) -> None:
    progress_bars()
    try:
        print(submissions.review(args.action, args.where, args.ids, args.exclude, args.preview))
    except (ValueError, OSError, HTTPError) as error:
        raise ValueError(hub.refusal(error)) from None


def after_interrupt(args: argparse.Namespace) -> str:
    return "; start again, each submission is in one place only"
