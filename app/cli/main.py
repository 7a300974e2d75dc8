"""The command `cbam-lens`: each subcommand has its own file; this one puts them together.

Exit status: 0 done, 1 an error, 2 a wrong option, 4 done, but some photos could not be read,
130 interrupted, 141 nobody read the rest of the output; `serve` has others of its own.
"""

import typer

from app.cli.ablate import ablate
from app.cli.detect import detect_command
from app.cli.evaluate import evaluate
from app.cli.explain import explain_command
from app.cli.figure import figure
from app.cli.models import models_app
from app.cli.open import open_command
from app.cli.paper import paper
from app.cli.report import report
from app.cli.serve import serve
from app.cli.shared import FAILED, INTERRUPTED, complain, say
from app.cli.train import train
from cbam import __version__
from cbam.errors import CBAMLensError

app = typer.Typer(
    help="See what attention changes: plain, SE and CBAM networks side by side.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help cuts names in narrow terminals and takes [words] for tags
)
app.command()(serve)
app.command("explain")(explain_command)
app.command()(figure)
app.command("open")(open_command)
app.command("detect")(detect_command)
app.add_typer(models_app, name="models")
app.command()(train)
app.command()(evaluate)
app.command()(report)
app.command()(ablate)
app.command()(paper)


@app.command()
def version() -> None:
    """Print the version."""
    say(__version__)


def main() -> None:
    """Run the command. Our own errors are one sentence on stderr, with exit status 1."""
    try:
        app()
    except CBAMLensError as error:
        complain(error)
        raise SystemExit(FAILED) from None
    except KeyboardInterrupt:
        complain("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # Typer turns Ctrl-C into this
            complain("interrupted")
        raise
