"""``python -m lpft``."""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    sys.path.append(sys.path.pop(0))  # Python has put the working folder first, where its files would hide libraries

from lpft.cli import main

if __name__ == "__main__":
    main()
