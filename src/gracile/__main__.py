"""``python -m gracile``."""

from gracile.cli import main

if __name__ == "__main__":
    main()
