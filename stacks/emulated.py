"""An emulated AWS for one stack: its process, its Pulumi state and its copy of the stack's file, below `.prodkit/`.

The process outlives the command, so that a second `up` finds what the first one made. When it has ended, what it held
is gone, and the state that tells of it is thrown away too. One that runs and is only slow is waited for.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / ".prodkit" / "emulated"
ACCOUNT: Final = "123456789012"
SERVER: Final = (sys.executable, "-m", "local.aws", "--all")
PASSPHRASE: Final = "emulated"  # noqa: S105 - of a state that holds nothing real
END_SECONDS: Final = 10.0
# Of one question whether it answers, and of asking again: a busy machine makes it slow, which is not gone.
ASK_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.1
# Processes that this one started: they outlive it, so nobody waits for them unless they are ended here.
_STARTED: Final[dict[int, "subprocess.Popen[bytes]"]] = {}
# What the provider must not ask of an emulated AWS, and the only account there is.
SETTINGS: Final[Mapping[str, Any]] = {
    "aws:allowedAccountIds": [ACCOUNT],
    "aws:s3UsePathStyle": True,
    "aws:skipCredentialsValidation": True,
    "aws:skipMetadataApiCheck": True,
}
# Provider settings that mean the same there; others, such as a profile or a role, name what only a real account has.
KEPT_SETTINGS: Final = ("aws:region", "aws:defaultTags")
# Each names something that exists in a real account and not in an empty, emulated one.
EXISTING: Final = ("vpcId", "hostedZoneId", "certificateArn", "anomalyMonitorArn")


class EmulationError(Exception):
    """The emulated AWS cannot be had; the text says why and what to do."""


@dataclass(frozen=True)
class Emulation:
    """An emulated AWS that runs, and the folder of what belongs to it."""

    folder: Path
    url: str
    pid: int
    found: bool = False
    """It ran already, with all it holds."""

    @property
    def backend(self) -> str:
        """Address of the Pulumi state."""
        return f"file://{self.folder / 'state'}"

    def environment(self, region: str) -> dict[str, str]:
        """Environment of a pulumi command: this machine's without its AWS and Pulumi accounts."""
        theirs = ("AWS_", "PULUMI_BACKEND", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_ACCESS_TOKEN")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(theirs)},
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": region,
            "AWS_SECRET_ACCESS_KEY": "test",
            # S3 Control puts the account's number before the host, which no name server knows: as a proxy the emulated
            # AWS receives such requests all the same. Addresses of this machine are not proxied.
            "HTTP_PROXY": self.url,
            "NO_PROXY": "127.0.0.1,localhost",
            "PULUMI_BACKEND_URL": self.backend,
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }

    def config_file(self, stack: str, config: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Path:
        """Write the stack's file for this AWS and return where; the committed one is never touched.

        Raises:
            EmulationError: when the stack uses something of a real account.
        """
        existing = [key for key in EXISTING if config.get(f"prodkit:{key}")]
        if existing:
            raise EmulationError(
                f"stack {stack!r} uses what an emulated AWS does not have ({', '.join(existing)}); "
                "leave that out of a copy of the stack, such as stacks/Pulumi.trial.yaml"
            )
        kept = {key: value for key, value in config.items() if not key.startswith("aws:") or key in KEPT_SETTINGS}
        file = self.folder / f"Pulumi.{stack}.yaml"
        # Pulumi put the salt of the state's secrets there when the stack was made.
        before = yaml.safe_load(file.read_text()) if file.exists() else {}
        document = {**before, "config": {**kept, **SETTINGS, **(overrides or {})}}
        file.write_text(yaml.safe_dump(document))
        return file

    def end(self) -> None:
        """End the process; what it held is gone, its log and the state stay."""
        process = _STARTED.pop(self.pid, None)
        if process:
            _end_started(process)
        elif _answers(self) is not False:  # else it has ended, and its number may be another process's by now
            _end(self.pid)

    def forget(self) -> None:
        """End the process and delete the folder."""
        self.end()
        shutil.rmtree(self.folder)


def emulation(folder: Path, project: str) -> Emulation:
    """The emulated AWS of a folder: the one that runs, or a new one with an empty state.

    Raises:
        EmulationError: when it does not start, or runs and does not answer.
    """
    running = find(folder)
    if running:
        return running
    shutil.rmtree(folder, ignore_errors=True)
    return start(folder, project)


def find(folder: Path) -> Emulation | None:
    """The emulated AWS of a folder when it still runs.

    Raises:
        EmulationError: when its process lives and does not answer; nothing is deleted.
    """
    file = folder / "aws.json"
    if not file.exists():
        return None
    record = json.loads(file.read_text())
    known = Emulation(folder, record["url"], record["pid"], found=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answer := _answers(known)) is None and _lives(known.pid):
        if time.monotonic() > deadline:
            raise EmulationError(
                f"the emulated AWS (process {known.pid}) runs and has not answered for {PATIENCE_SECONDS:.0f} s; "
                f"see {folder / 'aws.log'}, try again, or forget what it holds: kill {known.pid}"
            )
        time.sleep(PAUSE_SECONDS)
    return known if answer else None


def start(folder: Path, project: str, server: Sequence[str] = SERVER) -> Emulation:
    """Prepare a folder that is empty, and start an emulated AWS: a command that says its address in a line of JSON."""
    (folder / "state").mkdir(parents=True)
    (folder / "Pulumi.yaml").write_text(yaml.safe_dump({"name": project, "runtime": "python"}))
    log = folder / "aws.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - one of two servers of ours
            server,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for pulumi, and it stays when the command ends
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EmulationError(f"the emulated AWS ended with status {process.wait()}; see {log}")
    process.stdout.close()
    _STARTED[process.pid] = process
    made = Emulation(folder, json.loads(line)["url"], process.pid)
    (folder / "aws.json").write_text(json.dumps({"url": made.url, "pid": made.pid}))
    return made


def plugin_problem(environment: Mapping[str, str]) -> str | None:
    """What to install when Pulumi's AWS provider is not there, or None."""
    wanted = version("pulumi-aws")
    home = Path(environment.get("PULUMI_HOME") or Path.home() / ".pulumi")
    if (home / "plugins" / f"resource-aws-v{wanted}").exists() or shutil.which("pulumi-resource-aws"):
        return None
    return f"Pulumi's AWS plugin {wanted} is not installed; run: pulumi plugin install resource aws v{wanted}"


def _answers(known: Emulation) -> bool | None:
    """Whether it is there; None when that cannot be told, as nothing came back in time or whole."""
    url = f"{known.url}/_emulator/process"
    request = urllib.request.Request(url, data=b"{}", method="POST")  # noqa: S310 - our own address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ASK_SECONDS) as answer:
            return bool(json.load(answer) == {"pid": known.pid})
    except (urllib.error.HTTPError, ValueError):
        return False  # something else has its port by now; another emulated AWS, when it says another number
    except (OSError, HTTPException) as error:
        refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
        return False if refused else None


def _lives(pid: int) -> bool:
    process = _STARTED.get(pid)
    if process:
        return process.poll() is None  # an ended child has a pid until it is asked after
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone; or its number is another user's by now
        return False
    return True


def _end_started(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL when that did not help in time; nothing to one that has ended."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end(pid: int) -> None:
    """The same for what another command started, and nobody waits for here."""
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
