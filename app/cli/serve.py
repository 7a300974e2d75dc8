"""`cbam-lens serve`: the page and the API."""

from typing import Annotated

import typer

from app.cli.shared import RUNNERS, complain, say
from cbam.backends.choose import AUTO, check_backend
from cbam.errors import BadOption

START_FAILED = 3


def serve(
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0: every one")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option(envvar="PORT", min=0, max=65_535, help="port to listen on; 0: any free")
    ] = 8000,
    backend: Annotated[
        str, typer.Option(envvar="CBAM_LENS_BACKEND", help=f"what runs the networks: {RUNNERS}")
    ] = AUTO,
) -> None:
    """Start the page and the API. Settings are environment variables CBAM_LENS_*.

    SIGTERM and Ctrl-C let running requests finish. Exit status: 0 all finished, 1 some were cut off
    after CBAM_LENS_DRAIN_S seconds, or a setting is wrong, 3 the start failed (port in use).
    """
    from app.edge.server import bind, url
    from app.edge.server import serve as serve_until_stopped
    from app.main import create_app
    from app.settings import read_settings

    check_backend(backend)
    settings = read_settings(backend=backend)
    if not host.strip():
        raise BadOption("--host is empty. Name an address: 127.0.0.1, or 0.0.0.0 for every one.")
    try:
        sockets = bind(host, port)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        complain(f"Cannot listen on {url(host, port)}: {reason}. Choose another --host or --port.")
        raise typer.Exit(START_FAILED) from None
    bound: int = sockets[0].getsockname()[1]
    try:
        serve_until_stopped(
            create_app(settings),
            sockets,
            lambda: say(f"CBAM Lens on {url(host, bound)}  (Ctrl-C ends it)"),
        )
    finally:
        for each in sockets:
            each.close()
