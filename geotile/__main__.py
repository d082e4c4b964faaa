"""Run the command line: ``python -m geotile``."""

from geotile.cli.main import main

if __name__ == "__main__":
    main()
