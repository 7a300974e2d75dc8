"""`cbam-lens serve`: the page and the API."""

from typing import Annotated

import typer

from app.cli.shared import RUNNERS, console
from cbam.backends.choose import AUTO


def serve(
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: every one")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(envvar="PORT", help="port to listen on")] = 8000,
    backend: Annotated[
        str, typer.Option(envvar="CBAM_LENS_BACKEND", help=f"what runs the networks: {RUNNERS}")
    ] = AUTO,
) -> None:
    """Start the page and the API. Settings are environment variables CBAM_LENS_*.

    SIGTERM and Ctrl-C let running requests finish. Exit status: 0 all finished, 1 some were cut off
    after CBAM_LENS_DRAIN_S seconds, 3 the start failed (port in use).
    """
    from app.edge.server import serve as serve_until_stopped
    from app.main import create_app
    from app.settings import Settings

    service = create_app(Settings(backend=backend))
    console.print(f"CBAM Lens on [bold]http://{host}:{port}[/bold]  (Ctrl-C ends it)")
    serve_until_stopped(service, host, port)
