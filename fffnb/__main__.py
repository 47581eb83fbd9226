"""``python -m fffnb`` is ``fffnb``."""

import sys

from .cli import main

sys.exit(main())
