"""The command `cbam-lens`: each subcommand has its own file; this one puts them together."""

import typer
from rich.console import Console

from app.cli.evaluate import evaluate
from app.cli.explain import explain_command
from app.cli.models import models_app
from app.cli.serve import serve
from app.cli.train import train
from cbam import __version__
from cbam.errors import CBAMLensError

app = typer.Typer(
    help="See what attention changes: plain, SE and CBAM networks side by side.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command("explain")(explain_command)
app.add_typer(models_app, name="models")
app.command()(train)
app.command()(evaluate)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)  # noqa: T201


def main() -> None:
    """Run the command. Our own errors are one sentence on stderr, with exit status 1."""
    try:
        app()
    except CBAMLensError as error:
        Console(stderr=True).print(f"[red]cbam-lens:[/red] {error}", highlight=False)
        raise SystemExit(1) from None
