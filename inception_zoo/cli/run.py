"""`inception-zoo run`: what `python run.py` does."""

import sys

import typer

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}  # Hydra reads the arguments
HELP = "Train, test or sweep: what `python run.py` does in a checkout; `run --help` shows the keys."


def run(context: typer.Context) -> None:
    from inception_zoo.app import main

    sys.argv = [sys.argv[0], *context.args]
    main()
