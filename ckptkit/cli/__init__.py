"""The command line: ``ckptkit ls | verify | repair``, without TensorFlow.

$ ckptkit ls runs/digits
$ ckptkit verify --deep runs/digits
$ ckptkit repair runs/digits

A command is a module: its ``add`` gives it its options, and the function that runs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ckptkit.cli import ls, repair, verify
from ckptkit.cli.printing import plain
from ckptkit.errors import CheckpointNotFoundError, DirectoryLockedError

__all__ = ["main"]

_COMMANDS = (ls, verify, repair)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 problems found, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (CheckpointNotFoundError, DirectoryLockedError) as error:
        print("\n".join(map(plain, str(error).splitlines())), file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot {options.verb} {plain(options.path)}: {error.strerror or error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ckptkit",
        description="Look at directories of checkpoints, and bring them back in order.",
        epilog="exit codes: 0 fine, 1 problems found, 2 wrong usage",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
