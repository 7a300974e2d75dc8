"""The installed script, and `python -m app.cli`."""

import sys


def main() -> None:
    """Run the command. Ctrl-C ends it with one line, even while PyTorch is being imported."""
    try:
        from app.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("cbam-lens: interrupted\n")
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
