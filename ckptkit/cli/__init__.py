"""The command line: ``ckptkit ls | show | verify | diff | prune | repair | export | report``.

$ ckptkit ls runs/digits
$ ckptkit verify --deep runs/digits
$ ckptkit repair runs/digits

A command is a module: its ``add`` gives it its options, and the function that runs it. None of them imports TensorFlow
before it needs it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ckptkit.cli import diff, export, ls, prune, repair, report, show, verify
from ckptkit.cli.usage import UsageError
from ckptkit.errors import CheckpointError
from ckptkit.readable import plain
from ckptkit.spelling import near

__all__ = ["main"]

# In the order of --help; one more is a module more, and a word here.
_COMMANDS = (ls, show, verify, diff, prune, repair, export, report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 fine, 1 problems found, 2 wrong usage."""
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where it can be caught that nobody reads any more
        return code
    except BrokenPipeError:  # ckptkit ls | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes once more
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell has it


def _run(arguments: Sequence[str] | None) -> int:
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        names = re.findall(r"--?[a-z][a-z-]*", options.parser.format_usage())
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}{near(unknown[0].split('=')[0], names)}")
    try:
        return int(options.run(options))
    except UsageError as error:
        return int(options.parser.error(str(error)))  # ends the process
    except CheckpointError as error:
        print("\n".join(map(plain, str(error).splitlines())), file=sys.stderr)
        return 1
    except RecursionError:
        print(f"cannot {options.verb} {plain(options.path)}: it is nested too deeply", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        where = plain(str(error.filename or options.path))
        print(f"cannot {options.verb} {where}: {error.strerror or error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ckptkit",
        description="Look at directories of checkpoints, and bring them back in order.",
        epilog="exit codes: 0 fine, 1 problems found, 2 wrong usage; example: ckptkit ls runs/digits",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Asks whether another name was meant, and takes no option for half of its name: ``--y`` does nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and end with exit code 2."""
        if (match := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)) is not None:
            message += near(match[1], re.findall(r"[\w-]+", match[2]))
        super().error("\n".join(map(plain, message.splitlines())))
