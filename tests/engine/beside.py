"""`python -m tests.engine.beside FOLDER`: serves an emulated AWS that is not this repository's, a Python package with a
WSGI application `Emulator`, over the same connections as ours; says where in one JSON line, ends at SIGTERM."""

import importlib
import os
import signal
import sys
import threading
from pathlib import Path

from local.announce import announce
from local.aws.http import bound

os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")


def main(folder: str) -> None:
    """Serve until told to end."""
    package = Path(folder)
    sys.path.insert(0, str(package.parent))
    server = bound(importlib.import_module(package.name).Emulator(), 0)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce({"url": f"http://127.0.0.1:{server.server_port}"})
    ended.wait()
    server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
