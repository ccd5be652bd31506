"""``python -m lpft``."""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    sys.path.append(sys.path.pop(0))  # Python puts the working directory first, where its files would shadow libraries

from lpft.cli import main

if __name__ == "__main__":
    main()
