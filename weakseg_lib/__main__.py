"""`python -m weakseg_lib`: the same as the command `weakseg`."""

import sys

from weakseg_lib.cli import main

sys.exit(main())
