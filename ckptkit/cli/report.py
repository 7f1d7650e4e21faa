"""``ckptkit report DIR -o report.html``: what has happened in a directory, as one page that holds all it needs."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from dataclasses import asdict

from ckptkit.cli.printing import print_json
from ckptkit.durability import write_file
from ckptkit.errors import MissingExtraError
from ckptkit.readable import plain
from ckptkit.report.facts import Facts, gather

__all__ = ["add"]

_PAGE = "report.html"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    parser = commands.add_parser(
        "report",
        help="write what has happened in a directory as one page of HTML",
        description="Write one page that needs no network: metrics, checkpoints, what saves cost, and interruptions.",
        epilog="example: ckptkit report runs/digits -o report.html",
    )
    parser.add_argument("path", metavar="DIR")
    parser.add_argument("-o", "--output", metavar="FILE", help=f"the page, replaced if it is there (default: {_PAGE})")
    parser.add_argument("--json", action="store_true", help="print what the page is made of; no page without -o")
    parser.set_defaults(run=_run, verb="report on")


def _run(options: argparse.Namespace) -> int:
    facts = gather(options.path, now=time.time())
    if facts.is_empty:
        print(f"no checkpoints in {plain(options.path)}", file=sys.stderr)
        return 1
    if options.json:
        print_json(asdict(facts))
    if options.output is not None or not options.json:
        path = options.output or _PAGE
        try:
            _write(facts, path)
        except MissingExtraError as error:
            print(error, file=sys.stderr)
            return 2
        except OSError as error:
            print(f"cannot write {plain(path)}: {error.strerror or error}", file=sys.stderr)
            return 2
        if not options.json:
            print(f"wrote {plain(path)}")
    for save in facts.saves:
        if save.fate == "damaged":
            print(plain(f"{save.name} is damaged: {save.damage}"), file=sys.stderr)
    return 1 if facts.totals.damaged else 0


def _write(facts: Facts, path: str) -> None:
    from ckptkit.report.page import chart_library, page

    content = page(facts, chart_library()).encode()
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "Is not a file", path)  # a device would be replaced by one
    write_file(path, content, temporary=f"{path}.tmp-{os.getpid()}", durable=False)  # it can be made again at any time
