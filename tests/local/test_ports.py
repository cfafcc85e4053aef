"""The address people type: taken early, and if somebody has it, they are told who."""

import os
import socket
from pathlib import Path

import pytest

from local.ports import PortTakenError, holder, listen

pytestmark = pytest.mark.process


def test_the_port_is_taken_from_the_first_moment() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"pid {os.getpid()} \(.+\); .* make up PORT={port + 1}"):
            listen(port)


def test_a_port_is_free_again_after_its_run() -> None:
    with listen(0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()
    listen(port).close()


def test_a_holder_that_cannot_be_seen_is_unknown(tmp_path: Path) -> None:
    assert holder(1, tmp_path) == "an unknown process"
