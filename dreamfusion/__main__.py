"""The `dreamfusion` command, as a script and as `python -m dreamfusion`."""

from dreamfusion.interrupts import guarded


def main() -> None:
    """The command line; Ctrl-C counts from here on, while the first libraries load too."""
    guarded(_command_line)


def _command_line() -> None:
    from dreamfusion.cli import main

    main()


if __name__ == "__main__":
    main()
