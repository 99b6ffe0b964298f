"""`python -m inception_zoo.cli`, and the console script: the `inception-zoo` command."""

from inception_zoo.system.terminal import end_on_signals


def main() -> None:
    """Run the command. Signals are handled before the imports of the subcommands, which take a moment."""
    end_on_signals()
    from inception_zoo.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
