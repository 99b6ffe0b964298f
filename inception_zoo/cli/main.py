"""The `inception-zoo` command; subcommands are registered here in the order of the help."""

import warnings
from collections.abc import Callable

import typer

from inception_zoo.cli import (
    bench,
    convert,
    dashboard,
    data,
    describe,
    export,
    features,
    fid,
    parity,
    predict,
    report,
    run,
    visualize,
)
from inception_zoo.cli import list as list_command
from inception_zoo.errors import ZooError, fail, messages_of
from inception_zoo.system.huge_pages import use_huge_pages
from inception_zoo.system.terminal import asked, guard_output, leave

COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_command.list_networks,
    "describe": describe.describe_networks,
    "predict": predict.predict_images,
    "features": features.extract_features,
    "fid": fid.score_images,
    "visualize": visualize.visualize_features,
    "convert": convert.convert_weights,
    "export": export.export_network,
    "bench": bench.bench_machine,
    "parity": parity.prove_parity,
    "report": report.report_runs,
    "dashboard": dashboard.write_workspace,
}

app = typer.Typer(no_args_is_help=True, add_completion=True, help="Train, compare and recombine the Inception family.")
app.command("run", context_settings=run.SETTINGS, help=run.HELP)(run.run)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the console script. A `ZooError` is printed as one line per message on stderr, with exit status 2."""
    guard_output()
    use_huge_pages()
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # data/pictures.py raises a ZooError instead
    try:
        app()
    except ZooError as error:
        fail(*messages_of(error))
    finally:
        if asked():
            leave(0)


if __name__ == "__main__":
    main()
