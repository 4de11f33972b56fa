"""`protloc push`: push a model, a data set or a Space to the Hugging Face Hub."""

import argparse

from httpx2 import HTTPError

from .. import hub
from ..loading import LOAD_ERRORS
from . import progress_bars


def run(args: argparse.Namespace) -> None:
    progress_bars()
    to = {name: getattr(args, name) for name in ("private", "create_pr", "revision", "dry_run")}
    try:
        named = {"datasets": args.datasets, "base_model": args.base_model, "models": args.models}
        print(hub.push(args.kind, args.folder, args.repo_id, **to, **named))
    except (*LOAD_ERRORS, HTTPError) as error:
        raise ValueError(hub.refusal(error)) from None


def after_interrupt(args: argparse.Namespace) -> str:
    return "; push again, a whole push changes nothing"
