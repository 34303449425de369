# SPDX-License-Identifier: MIT
"""The console command ``tsl``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from torchsparse_lite.errors import needs_extra

__all__ = ["TRAINING", "main"]

_COMMANDS = {
    "train": ("training", "train a network by a recipe"),
    "validate": ("training", "scores of a trained network"),
    "predict": ("training", "label scans, in the format of the data set's benchmark"),
    "search": ("search", "find an architecture for a latency"),
    "benchmark": ("benchmark", "latency of networks on this machine; tiles for its GPU"),
    "simulate": ("simulate", "write streets as a LiDAR sees them, labelled"),
    "view": ("view", "show a scan, its labels, a prediction"),
    "doctor": ("doctor", "say what this machine and this installation have"),
}
"""Module with a function of the command's name, and what it does."""
TRAINING = ("lightning", "torchmetrics", "jsonargparse", "tensorboard")
_PACKAGES = {"training": TRAINING, "search": TRAINING}
"""What a module imports of the extra ``train``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the name of the program; by default those of this process.

    Returns:
        Exit status: 0, 1 after an error of ours, 2 for wrong arguments, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser("tsl", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "commands:\n" + "\n".join(
        f"  {name:10s} {text}" for name, (_, text) in _COMMANDS.items()
    )
    parser.add_argument("command", choices=_COMMANDS, metavar="command", help="see below")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="tsl command --help")
    options = parser.parse_args(arguments)
    name = _COMMANDS[options.command][0]
    try:
        for package in _PACKAGES.get(name, ()):
            needs_extra(f"tsl {options.command}", package, "train")
        module = import_module(f"torchsparse_lite.cli.{name}")
        run: Callable[[list[str]], None] = getattr(module, options.command)
        run(options.rest)
    except KeyboardInterrupt:
        sys.stderr.write(f"tsl {options.command}: stopped\n")
        return 130
    except argparse.ArgumentError as error:
        sys.stderr.write(f"tsl {options.command}: {error}\n")
        return 2
    except SystemExit as exit_:
        if exit_.code != 1:  # that of --help, or of wrong arguments
            raise
        sys.stderr.write(f"tsl {options.command}: stopped\n")  # how Lightning answers Ctrl-C
        return 130
    except Exception as error:
        if options.debug:
            raise
        sys.stderr.write(f"tsl {options.command}: {_in_short(error)}\n")
        return 1
    return 0


def _in_short(error: Exception) -> str:
    """The message; where a library wraps one of ours in many lines, ours alone."""
    text = str(error) or type(error).__name__
    ours = [line for line in text.splitlines() if " must be " in line]
    return re.sub(r"^[\s-]*(\w+Error: )?", "", ours[-1]) if ours else text
