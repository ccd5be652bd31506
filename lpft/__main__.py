"""``python -m lpft``."""

from lpft.cli import main

if __name__ == "__main__":
    main()
