"""How a server tells the process that started it where it is."""

import json
import sys
from collections.abc import Mapping
from typing import Any


def announce(record: Mapping[str, Any]) -> None:
    """One JSON line on standard output, at once."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()
