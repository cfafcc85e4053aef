"""The simulator as a process, and its clean end."""

import json
import signal
import subprocess
import sys
import threading

import openai
import pytest

from local.openai.server import running
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_addresses_serves_and_stops_on_a_signal(key: str, number: signal.Signals) -> None:
    command = [sys.executable, "-W", "error", "-m", "local.openai", "--speed", "0", "--rpm", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            assert set(addresses) == {"url", "admin_url"}
            with openai.OpenAI(api_key=key, base_url=addresses["url"] + "/v1") as client:
                raw = client.responses.with_raw_response.create(model="gpt-6-luna", input="Hi")
            assert raw.headers["x-ratelimit-limit-requests"] == "7"
        finally:
            process.send_signal(number)
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, output, errors) == (0, "", "")


def test_a_stop_breaks_off_what_is_in_flight_and_leaves_no_thread(key: str) -> None:
    before = threading.active_count()
    with openai.OpenAI(api_key=key, base_url="http://127.0.0.1:1", max_retries=0, timeout=PATIENCE_SECONDS) as outer:
        with running() as simulator:
            simulator.fault("stall", after=3)
            client = outer.with_options(base_url=simulator.base_url)
            stream = client.responses.create(model="gpt-6-luna", input="Hi", stream=True)
            assert next(stream).type == "response.created"
        with pytest.raises(openai.APIConnectionError):
            list(stream)
    assert threading.active_count() == before


def test_a_port_in_use_is_refused_before_anything_starts() -> None:
    with running() as simulator:
        taken = running(port=int(simulator.url.rpartition(":")[2]))
        with pytest.raises(OSError, match="in use"):
            taken.__enter__()


def test_simulators_do_not_share_state(key: str) -> None:
    with running() as one, running(rpm=3) as two:
        for simulator, limit in ((one, "5000"), (two, "3")):
            with openai.OpenAI(api_key=key, base_url=simulator.base_url) as client:
                raw = client.responses.with_raw_response.create(model="gpt-6-luna", input="Hi")
            assert raw.headers["x-ratelimit-limit-requests"] == limit
        two.reset()
        assert len(one.requests()) == 1
        assert two.requests() == []
