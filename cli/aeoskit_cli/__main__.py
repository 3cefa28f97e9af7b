"""`python -m aeoskit_cli` is `aeoskit`."""

import sys

from aeoskit_cli import main

if __name__ == "__main__":
    sys.exit(main())
