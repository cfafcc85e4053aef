"""What `make up` shows: lines with elapsed seconds while it starts, then one screen."""

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local.ports import HOST


class Progress:
    """Prints lines that begin with the seconds since the run began."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def line(self, text: str) -> None:
        """Print one event."""
        self.show(f"{self.seconds:6.1f} s  {text}")

    def show(self, text: str) -> None:
        """Print as it is."""
        with contextlib.suppress(OSError):  # the terminal is gone; the run still has to end in order
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


@dataclass(frozen=True)
class Ready:
    """What the last screen tells."""

    port: int
    replicas: tuple[str, ...]
    """Addresses of the web replicas behind it."""
    pids: tuple[int, ...]
    """Of the same: what to kill, to see what that costs."""
    api_key: str
    tenant: str
    upstream: str
    """`simulator` or `openai`."""
    faults: str | None
    """Where the simulator takes orders to fail; None without one."""
    stack: str
    cache: str
    logs: Path
    seconds: float
    operator: Mapping[str, str]
    """Variables that point a command at this run's AWS."""

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    def text(self) -> str:
        """The screen."""
        answers = "the OpenAI simulator" if self.upstream == "simulator" else "the real OpenAI API (it costs money)"
        return "\n".join(
            [
                "",
                f"prodkit is up after {self.seconds:.1f} s: the {self.stack} stack, answered by {answers}",
                "",
                f"  address  {self.address}",
                f"  API key  {self.api_key}  (tenant {self.tenant}, made for this run)",
                f"  cache    {self.cache}",
                *([f"  faults   {self.faults}  (the simulator's admin address)"] if self.faults else []),
                f"  logs     {self.logs}",
                "",
                "1. Stream an answer:",
                _indent(self._stream()),
                "2. Add a document, let the worker read it, ask about it:",
                _indent(self._ask()),
                "3. Use the official client:",
                _indent(self._client()),
                "4. Stop the tenant's spending within two seconds (UNDO=1 lets it go on):",
                _indent(f"make kill TENANT={self.tenant} PORT={self.port} WHY='trying it'"),
                "5. Try what docs/local.md and docs/budgets.md say (one call for all, a budget's end) after this line:",
                _indent(self._variables()),
                "Ctrl-C drains and stops everything; a second Ctrl-C stops at once.",
            ]
        )

    def _curl(self, path: str, body: dict[str, object], authorization: str) -> str:
        json_body = f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        return f"curl -sN {self.address}{path} -H {authorization} {json_body}"

    def _authorization(self) -> str:
        return f"'Authorization: Bearer {self.api_key}'"

    def _stream(self) -> str:
        body: dict[str, object] = {"model": "fast", "input": "Say hello in five words", "stream": True}
        return self._curl("/v1/responses", body, self._authorization())

    def _ask(self) -> str:
        text = "The night train to Lisbon leaves at 21:47 from platform 9."
        add = self._curl("/documents", {"name": "trains", "text": text}, '"$A"')
        ask = self._curl("/ask", {"question": "When does the night train to Lisbon leave?"}, '"$A"')
        ready = f'curl -s {self.address}/documents -H "$A" | grep -q \'"ready"\''
        return f"A={self._authorization()}; {add}; until {ready}; do sleep 0.2; done; {ask}"

    def _variables(self) -> str:
        found = {"ADDRESS": self.address, "KEY": self.api_key}
        found |= {f"WEB{number}": replica for number, replica in enumerate(self.replicas, 1)}
        found |= {f"PID{number}": str(pid) for number, pid in enumerate(self.pids, 1)}
        found |= {"SIMULATOR": self.faults} if self.faults else {}
        values = " ".join(f"{name}={value}" for name, value in found.items())
        pointed = " ".join(f"{name}={value}" for name, value in self.operator.items())
        return f'{values}; operator() {{ {pointed} {shlex.quote(_shown(sys.executable))} -m "$@"; }}'

    def _client(self) -> str:
        program = (
            "from openai import OpenAI; "
            f"print(OpenAI(base_url='{self.address}/v1', api_key='{self.api_key}')"
            ".responses.create(model='fast', input='Say hello in five words').output_text)"
        )
        return f'{shlex.quote(_shown(sys.executable))} -c "{program}"'


def _shown(executable: str) -> str:
    """The interpreter as one would type it in the project's directory."""
    path = Path(executable)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else executable


def _indent(text: str) -> str:
    return f"  {text}\n"
