"""What several commands use."""

from rich.console import Console

from cbam.backends.choose import AUTO, BACKENDS

console = Console()
RUNNERS = ", ".join((*BACKENDS, AUTO))
