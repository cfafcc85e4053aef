"""Run the simulator: `python -m local.openai`. Prints one JSON line with its addresses when it is ready."""

import argparse
import json
import signal
import threading

from local.openai.server import running


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m local.openai", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port of the API; 0 takes a free one")
    parser.add_argument("--admin-port", type=int, default=0, help="port of the admin path; 0 takes a free one")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="multiplies model latencies; 0 answers at once (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes the jitter of latencies (default %(default)s)")
    parser.add_argument("--rpm", type=int, help="requests a minute for each key and model (default: the model's)")
    parser.add_argument("--tpm", type=int, help="tokens a minute for each key and model (default: the model's)")
    parser.add_argument(
        "--day-seconds", type=float, default=86_400.0, help="how long a day takes for batches (default %(default)s)"
    )
    options = vars(parser.parse_args())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running(**options) as simulator:
        print(json.dumps({"url": simulator.url, "admin_url": simulator.admin_url}), flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
