"""`python -m dreamfusion` is the `dreamfusion` command."""

from dreamfusion.cli import main

if __name__ == "__main__":
    main()
