"""The `dreamfusion` command, as a script and as `python -m dreamfusion`."""

from dreamfusion.interrupts import guarded


def main() -> None:
    """The command line; Ctrl-C counts from here on, while the first libraries load too."""
    guarded(_command_line)


def _command_line() -> None:
    import sys

    from dreamfusion.streams import lost_output, protect

    protect()
    from dreamfusion.cli import main

    try:
        main()
    except SystemExit as end:
        if not end.code and (reason := lost_output()):
            sys.stderr.write(f"standard output cannot be written: {reason}\n")
        raise


if __name__ == "__main__":
    main()
