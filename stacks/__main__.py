"""`python -m stacks`: deploys, promotes and removes stacks, or gives one its OpenAI key. It checks before it starts."""

import argparse
import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from stacks import emulated as emulated_aws
from stacks import kill
from stacks.half_made import OPTION, half_made
from stacks.images import Copier, CopyError, EcrImage, in_ecr, repository_of
from stacks.keys import setting_key
from stacks.run_job import JobError, run_job

ROOT: Final = Path(__file__).resolve().parent.parent
# OpenAI publishes no grammar for its keys; every kind so far has this start and is far longer than 20 characters.
KEY_SHAPE: Final = re.compile(r"sk-[A-Za-z0-9_-]{20,}")
ADMIN_KEY_START: Final = "sk-admin-"
INSTALL_PAGE: Final = "https://www.pulumi.com/docs/install/"


class RefusedError(Exception):
    """The command cannot start; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 2 it could not start, else what pulumi returned."""
    parser = argparse.ArgumentParser(prog="python -m stacks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up_verb = verbs.add_parser("up", help="deploy a stack: pulumi up, after checks of the command and the account")
    destroy_verb = verbs.add_parser("destroy", help="remove everything a stack made, after you typed its name")
    key_verb = verbs.add_parser("key", help="set the stack's OpenAI key from a hidden prompt or standard input")
    key_verb.add_argument("--admin", action="store_true", help="set the admin key that rotates the OpenAI key instead")
    rotate_verb = verbs.add_parser("rotate", help="replace the stack's OpenAI key now, and wait until that is done")
    kill_verb = verbs.add_parser("kill", help="refuse what costs money at OpenAI, on every replica within two seconds")
    kill.add_arguments(kill_verb)
    for verb in (up_verb, destroy_verb, key_verb, rotate_verb, kill_verb):
        verb.add_argument("stack", metavar="STACK", help="a stack that has a file in stacks/, such as dev")
    for verb in (up_verb, destroy_verb):
        verb.add_argument("--yes", action="store_true", help="do not ask; for pipelines")
        verb.add_argument("--emulated", action="store_true", help="in an emulated AWS on this machine: no account")
    promote_verb = verbs.add_parser("promote", help="give a stack the very image that another one runs; builds nothing")
    promote_verb.add_argument("source", metavar="FROM", help="the stack that runs the image, such as staging")
    promote_verb.add_argument("stack", metavar="TO", help="the stack that is to run it, such as prod")
    promote_verb.add_argument("--from-profile", metavar="PROFILE", help="AWS profile that may read FROM's account")
    promote_verb.add_argument("--dry-run", action="store_true", help="say what would be done")
    given = parser.parse_args(arguments)
    try:
        if given.verb == "rotate":
            return rotate(given.stack)
        if given.verb == "promote":
            return promote(given.source, given.stack, profile=given.from_profile, dry_run=given.dry_run)
        if given.verb == "kill":
            return kill_spending(given.stack, given)
        if given.verb == "key":
            return set_key(given.stack, admin=given.admin)
        if given.emulated:
            return up_emulated(given.stack) if given.verb == "up" else destroy_emulated(given.stack)
        return (up if given.verb == "up" else destroy)(given.stack, yes=given.yes)
    except (RefusedError, emulated_aws.EmulationError) as refusal:
        print(f"prodkit: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def up(stack: str, yes: bool = False) -> int:
    """`pulumi up` of a stack in an account it allows; makes the stack when the backend has none of that name."""
    pulumi = _ready(stack)
    if _run(pulumi, "stack", "--show-name", "--stack", stack, capture_output=True).returncode:
        print(f"stack {stack!r} is new in this backend: making it", flush=True)
        _initialise(pulumi, stack)
    refresh = _refreshing(pulumi, stack)
    return _attended(pulumi, "up", "--stack", stack, *refresh, *(["--yes"] if yes else []))


def destroy(stack: str, yes: bool = False) -> int:
    """`pulumi destroy` of a stack, after its name was typed unless `yes`."""
    pulumi = _ready(stack)
    if _is_protected(stack):
        raise RefusedError(
            f"stack {stack!r} is protected; nothing was deleted. To go on, set prodkit:protect to false in "
            f"stacks/Pulumi.{stack}.yaml, deploy that with make up STACK={stack}, and come back"
        )
    if not yes:
        print(f"This deletes everything that stack {stack!r} made, data included.")
        if _typed("Type the stack's name to go on: ") != stack:
            raise RefusedError("the name did not match; nothing was deleted")
    return _attended(pulumi, "destroy", "--stack", stack, "--yes")


def _typed(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        raise RefusedError("nobody is there to type it; nothing was deleted. A pipeline says --yes") from None


def up_emulated(stack: str) -> int:
    """`pulumi up` of a stack in an emulated AWS, which goes on running: the next one finds what this one made."""
    pulumi, config = _pulumi_for_emulated(stack), _config(stack)
    aws = emulated_aws.emulation(emulated_aws.FOLDER / stack, _project())
    state = "running already" if aws.found else "new and empty"
    print(f"emulated AWS on {aws.url}, {state}; Pulumi's state and its log are in {_shown(aws.folder)}", flush=True)
    file = aws.config_file(stack, config)
    environment = aws.environment(config["aws:region"])
    if _run(pulumi, "stack", "--show-name", "--stack", stack, capture_output=True, env=environment).returncode:
        _initialise(pulumi, stack, aws.folder, environment)
    command = ("up", "--config-file", str(file), "--stack", stack, "--skip-preview", "--yes")
    status = _attended(pulumi, *command, *_refreshing(pulumi, stack, environment), environment=environment)
    shown = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    print(f"look at it:  {' '.join(f'{name}={environment[name]}' for name in shown)} aws ecs list-clusters")
    state = f"PULUMI_BACKEND_URL={aws.backend} PULUMI_CONFIG_PASSPHRASE={emulated_aws.PASSPHRASE}"
    print(f"its outputs: {state} pulumi stack output --stack {stack}")
    print(f"end it:      make destroy STACK={stack} EMULATED=1")
    return status


def destroy_emulated(stack: str) -> int:
    """`pulumi destroy` of an emulated stack; then its AWS ends, and what it held is forgotten."""
    pulumi, config = _pulumi_for_emulated(stack), _config(stack)
    aws = emulated_aws.find(emulated_aws.FOLDER / stack)
    if aws is None:
        raise RefusedError(f"no emulated AWS runs for stack {stack!r}; make up STACK={stack} EMULATED=1 starts one")
    if _is_protected(stack):
        raise RefusedError(
            f"stack {stack!r} is protected; nothing was deleted. To go on, set prodkit:protect to false in "
            f"stacks/Pulumi.{stack}.yaml, run make up STACK={stack} EMULATED=1, and come back; "
            f"or forget the whole emulated AWS: kill {aws.pid}"
        )
    environment, file = aws.environment(config["aws:region"]), aws.config_file(stack, config)
    command = ("destroy", "--config-file", str(file), "--stack", stack, "--skip-preview", "--yes")
    status = _attended(pulumi, *command, environment=environment)
    if status == 0:
        aws.forget()
        print("the emulated AWS has ended; nothing is left of it")
    return status


def _pulumi_for_emulated(stack: str) -> str:
    """The pulumi command, once stack, command and provider are known to be there."""
    _config(stack)
    pulumi = _pulumi()
    if problem := emulated_aws.plugin_problem(os.environ):
        raise RefusedError(problem)
    return pulumi


def _shown(folder: Path) -> str:
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)


def set_key(stack: str, admin: bool = False) -> int:
    """Stores an OpenAI key, read from a hidden prompt or standard input, in the stack's secret or its admin secret."""
    pulumi = _ready(stack)
    output, kind = ("admin_secret_name", "admin key") if admin else ("secret_name", "key")
    name = _outputs(pulumi, stack).get(output)
    if not isinstance(name, str):
        first = "set prodkit:rotationDays and " if admin else ""
        raise RefusedError(f"stack {stack!r} has no output {output} yet; {first}deploy it first: make up STACK={stack}")
    prompt = f"OpenAI {kind} for stack {stack} (not shown): "
    key = (getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.read()).strip()
    if not KEY_SHAPE.fullmatch(key):
        raise RefusedError("that is no OpenAI key: one starts with sk- and has no spaces; see platform.openai.com")
    if key.startswith(ADMIN_KEY_START) != admin:
        raise RefusedError(
            "that is a project's key, which cannot make others: an admin key starts with sk-admin-"
            if admin
            else "that is an admin key, which cannot call a model: give a project's key, or add --admin (make: ADMIN=1)"
        )
    client = boto3.client("secretsmanager", region_name=_config(stack).get("aws:region"))
    try:
        client.put_secret_value(SecretId=name, SecretString=key)
    except (BotoCoreError, ClientError) as error:
        raise RefusedError(f"the key was not stored in {name}: {error}") from None
    print(f"Stored in {name}. {'The next rotation uses it' if admin else 'Running tasks use it within a minute'}.")
    return 0


def rotate(stack: str) -> int:
    """Runs the stack's rotation job now, whatever the key's age, and waits for its end; its exit status."""
    pulumi = _ready(stack)
    job = _outputs(pulumi, stack).get("rotation")
    if not isinstance(job, dict):
        raise RefusedError(f"stack {stack!r} has no rotation; set prodkit:rotationDays and make up STACK={stack}")
    region = _config(stack).get("aws:region")
    ecs, logs = boto3.client("ecs", region_name=region), boto3.client("logs", region_name=region)
    try:
        status = run_job(ecs, logs, job, say=lambda line: print(line, flush=True))
    except (BotoCoreError, ClientError, JobError) as error:
        raise RefusedError(f"the rotation was not run to its end: {error}") from None
    if status:
        print(f"The rotation failed and a working key is in force; its log is {job['log_group']}.", file=sys.stderr)
        return status
    print("The key was replaced. Running tasks use the new one within a minute; the old one is revoked by a daily run.")
    return 0


def kill_spending(stack: str, given: argparse.Namespace) -> int:
    """Holds what was named, or releases it, in the stack's state table; the exit status."""
    pulumi = _ready(stack)
    table = _outputs(pulumi, stack).get("state_table")
    if not isinstance(table, str):
        raise RefusedError(f"stack {stack!r} has no output state_table yet; deploy it first: make up STACK={stack}")
    region = _config(stack)["aws:region"]
    by = boto3.client("sts", region_name=region).get_caller_identity()["Arn"].rpartition(":")[2]
    return _run(*kill.command(given, table, region, by)).returncode


def promote(source: str, target: str, profile: str | None = None, dry_run: bool = False) -> int:
    """Copies the image that `source` runs into `target`'s repository and sets it in `target`'s stack file.

    Args:
        source: stack whose exported image is taken.
        target: stack that gets it; it was deployed before, so that it has a repository.
        profile: AWS profile for reading `source`'s account, when it is another one than `target`'s.
        dry_run: change nothing.
    """
    pulumi = _ready(target)
    if source == target:
        raise RefusedError(f"stack {target!r} runs that image already; name two stacks")
    processors = {stack: _setting(stack, "architecture") for stack in (source, target)}
    if len(set(processors.values())) > 1:
        raise RefusedError(f"an image runs on one processor only: {processors}; give both stacks the same architecture")
    uri = _outputs(pulumi, source).get("image")
    if not isinstance(uri, str):
        raise RefusedError(f"stack {source!r} has no output image yet; deploy it first: make up STACK={source}")
    found = in_ecr(uri)
    # Any other registry serves every account that may read it, so there is nothing to copy.
    wanted = uri if found is None else _promoted(found, source, target, profile, dry_run)
    setting = ("config", "set", setting_key("image_uri"), wanted, "--stack", target)
    if dry_run:
        print(f"would run: pulumi {' '.join(setting)}")
        return 0
    status = _run(pulumi, *setting).returncode
    if status == 0:
        print(f"{target} is to run {wanted}\nDeploy it: make up STACK={target}")
    return status


def _promoted(image: EcrImage, source: str, target: str, profile: str | None, dry_run: bool) -> str:
    """Address of the image in the target's repository, after it was copied there unless `dry_run`."""
    region = _config(target)["aws:region"]
    account = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
    if image.account != account and profile is None:
        raise RefusedError(
            f"{source}'s image is in account {image.account} and you are signed in to {account}; name a profile that "
            f"may read it: python -m stacks promote {source} {target} --from-profile PROFILE"
        )
    place = replace(image, account=account, region=region, repository=repository_of(target))
    if place == image:
        return place.uri
    ecr = boto3.client("ecr", region_name=region)
    try:
        ecr.describe_repositories(repositoryNames=[place.repository])
    except ecr.exceptions.RepositoryNotFoundException:
        raise RefusedError(
            f"account {account} has no repository {place.repository} to copy to; deploy the stack once, "
            f"which makes it: make up STACK={target}"
        ) from None
    if dry_run:
        print(f"would copy {image.uri} to {place.repository} in account {account}, {region}")
        return place.uri
    try:
        reader = boto3.session.Session(profile_name=profile, region_name=image.region).client("ecr")
        copier = Copier(reader, image.repository, ecr, place.repository)
        moved = copier.copy(image.digest, tag=f"{source}-{image.digest[7:19]}")
    except (BotoCoreError, ClientError, CopyError) as error:
        raise RefusedError(f"the image was not promoted: {error}") from None
    print(f"copied {image.digest} from {image.repository} to {place.repository} ({moved / 1e6:.1f} MB moved)")
    return place.uri


def _setting(stack: str, name: str) -> Any:
    """A setting of a stack, or its default."""
    default = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"][name]["default"]
    return _config(stack).get(setting_key(name), default)


def _ready(stack: str) -> str:
    """The pulumi command, once the stack is known to exist and its account to be the one that is signed in."""
    config = _config(stack)
    pulumi = _pulumi()
    _check_account(stack, config)
    return pulumi


def _pulumi() -> str:
    pulumi = shutil.which("pulumi")
    if pulumi is None:
        raise RefusedError(
            f"the pulumi command is not on PATH; install it: {INSTALL_PAGE} (make up and make plan work without it)"
        )
    return pulumi


def _config(stack: str) -> dict[str, Any]:
    folder = ROOT / "stacks"
    known = sorted(path.name.split(".")[1] for path in folder.glob("Pulumi.*.yaml"))
    if stack not in known:
        raise RefusedError(f"there is no stack {stack!r}; stacks that exist: {', '.join(known)}")
    config: dict[str, Any] = (yaml.safe_load((folder / f"Pulumi.{stack}.yaml").read_text()) or {}).get("config") or {}
    return config


def _is_protected(stack: str) -> bool:
    default = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]["protect"]["default"]
    return str(_config(stack).get("prodkit:protect", default)).lower() == "true"


def _check_account(stack: str, config: dict[str, Any]) -> None:
    """Refuses when the signed-in account is not one the stack allows. The provider would too, but minutes later."""
    file = f"stacks/Pulumi.{stack}.yaml"
    allowed = [str(account) for account in config.get("aws:allowedAccountIds") or []]
    if not allowed:
        raise RefusedError(f"{file} has no aws:allowedAccountIds; name the account that the stack may go to")
    try:
        account = boto3.client("sts", region_name=config.get("aws:region")).get_caller_identity()["Account"]
    except (BotoCoreError, ClientError) as error:
        raise RefusedError(f"AWS does not know who you are ({error}); sign in, perhaps by: aws sso login") from None
    if account not in allowed:
        raise RefusedError(
            f"you are signed in to account {account}, and stack {stack!r} may go to {', '.join(allowed)} only; "
            f"switch accounts, or edit aws:allowedAccountIds in {file}"
        )


def _project() -> str:
    return str(yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["name"])


def _initialise(
    pulumi: str, stack: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Makes a stack. `pulumi stack init` rewrites the stack file it finds, so it runs where none is or a copy."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="prodkit-stack-") as empty:
            (Path(empty) / "Pulumi.yaml").write_text(yaml.safe_dump({"name": _project(), "runtime": "python"}))
            return _initialise(pulumi, stack, Path(empty), environment)
    if _run(pulumi, "stack", "init", stack, cwd=folder, env=environment).returncode:
        raise RefusedError(f"pulumi could not make stack {stack!r}; its message is above")
    return None


def _outputs(pulumi: str, stack: str) -> dict[str, Any]:
    done = _run(pulumi, "stack", "output", "--json", "--stack", stack, capture_output=True, text=True)
    if done.returncode:
        raise RefusedError(f"pulumi cannot read stack {stack!r}: {done.stderr.strip()}")
    outputs: dict[str, Any] = json.loads(done.stdout)
    return outputs


def _refreshing(pulumi: str, stack: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """What makes `up` read from AWS first, when the deployment before was cut short."""
    done = _run(pulumi, "stack", "export", "--stack", stack, capture_output=True, text=True, env=environment)
    half = half_made(done.stdout) if done.returncode == 0 else []
    if half:
        print(f"the last deployment was cut short; reading from AWS what became of: {', '.join(half)}", flush=True)
    return [OPTION] if half else []


def _attended(*command: str, environment: Mapping[str, str] | None = None) -> int:
    """Runs what people may interrupt. Ctrl-C reaches pulumi too, which finishes its step: it must not be killed."""
    before = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        return subprocess.Popen(command, cwd=ROOT, env=environment).wait()  # noqa: S603 - as in _run
    finally:
        signal.signal(signal.SIGINT, before)


def _run(*command: str, cwd: str | Path = ROOT, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, **options)  # noqa: S603 - a list, no shell; the stack's name was looked up


if __name__ == "__main__":
    sys.exit(main())
