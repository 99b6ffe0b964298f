"""`inception-zoo run`: the same as `python run.py`."""

import sys

import typer

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}  # Hydra reads the arguments
HELP = "Train, test or sweep, as `python run.py` does in a checkout. `run --help` prints the keys."


def run(context: typer.Context) -> None:
    """Run `run.py` with the arguments of the command."""
    from inception_zoo.app import main

    sys.argv = [sys.argv[0], *context.args]
    main()
