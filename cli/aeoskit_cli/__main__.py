"""`python -m aeoskit_cli` is `aeoskit`, which imports nothing from the working directory."""

import os
import sys

from aeoskit_cli import main

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[0] == os.getcwd():
        del sys.path[0]  # `-m` put it there.
    sys.exit(main())
