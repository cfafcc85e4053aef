"""AppConfig: environments, deployments, and the data plane that a running app polls.

Create, Get, Update and DeleteEnvironment             aws_appconfig_environment
StartDeployment, GetDeployment, StopDeployment        aws_appconfig_deployment
StartConfigurationSession, GetLatestConfiguration     service appconfigdata

A deployment without duration and bake time is COMPLETE when StartDeployment answers; any other advances with the
emulator's clock (POST /_emulator/clock), is rolled back when a monitored alarm is in ALARM, and keeps a second one out.
A session is served the newest *completed* deployment: hosts that AWS would move early in a gradual one stay on the old.
Its tokens work once, and an unchanged version is answered with an empty body, as on AWS.
"""

import datetime
import json
import secrets
from collections.abc import Iterable

import jsonschema

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.services.appconfig import SERVICE, application_arn, drop, keep, new_id, profile, strategy, version
from local.aws.state import now
from local.aws.tags import mapping

POLL_SECONDS = 60
"""What AWS suggests to a client that did not ask for an interval."""
UNDER_WAY = ("DEPLOYING", "BAKING")


def _environment_arn(call: Call, identity: str) -> str:
    return f"{application_arn(call)}/environment/{identity}"


def _environment(call: Call) -> Record:
    environment = call.find("environments", (call["ApplicationId"], call["EnvironmentId"]))
    state = "READY_FOR_DEPLOYMENT"
    for latest in _deployments(call)[-1:]:
        reached = _progress(call, latest)["State"]
        state = "DEPLOYING" if reached in UNDER_WAY else "ROLLED_BACK" if reached == "ROLLED_BACK" else state
    environment["State"] = state
    return environment


@api(SERVICE, "CreateEnvironment")
def create_environment(call: Call) -> Record:
    """CreateEnvironment."""
    call.find("applications", call["ApplicationId"])
    made = {
        "Id": new_id(call, "environments"),
        "State": "READY_FOR_DEPLOYMENT",
        "Monitors": call.get("Monitors", []),
        **call.pick("ApplicationId", "Name", "Description"),
    }
    key = call["ApplicationId"], made["Id"]
    return keep(call, "environments", key, made, _environment_arn(call, made["Id"]))


@api(SERVICE, "GetEnvironment")
def get_environment(call: Call) -> Record:
    """GetEnvironment."""
    return _environment(call)


@api(SERVICE, "UpdateEnvironment")
def update_environment(call: Call) -> Record:
    """UpdateEnvironment."""
    environment = _environment(call)
    environment.update(call.pick("Name", "Description", "Monitors"))
    return environment


@api(SERVICE, "DeleteEnvironment")
def delete_environment(call: Call) -> Record:
    """DeleteEnvironment."""
    key = call["ApplicationId"], call["EnvironmentId"]
    call.find("environments", key)
    call.table("deployments").pop(key, None)
    return drop(call, "environments", key, _environment_arn(call, call["EnvironmentId"]))


def _deployments(call: Call) -> list[Record]:
    key = call["ApplicationId"], call["EnvironmentId"]
    history: list[Record] = call.table("deployments").setdefault(key, [])
    return history


def _progress(call: Call, deployment: Record) -> Record:
    """The deployment, brought up to the clock."""
    if deployment["State"] not in UNDER_WAY:
        return deployment
    key = deployment["ApplicationId"], deployment["EnvironmentId"]
    if _alarm(call, call.table("environments", SERVICE).get(key, {}).get("Monitors", ())):
        return _roll_back(deployment)
    minutes = (now() - deployment["StartedAt"]).total_seconds() / 60
    duration, bake = deployment["DeploymentDurationInMinutes"], deployment["FinalBakeTimeInMinutes"]
    if minutes >= duration + bake:
        ended = deployment["StartedAt"] + datetime.timedelta(minutes=duration + bake)
        deployment.update(State="COMPLETE", PercentageComplete=100.0, CompletedAt=ended)
    elif minutes >= duration:
        deployment.update(State="BAKING", PercentageComplete=100.0)
    else:
        share = _share(deployment["GrowthType"], deployment["GrowthFactor"], minutes / duration)
        deployment["PercentageComplete"] = share
    return deployment


def _share(growth: str, factor: float, elapsed: float) -> float:
    """Percent of hosts reached after a share of the duration: LINEAR adds the factor in equal steps, others double."""
    if growth == "LINEAR":
        return min(100.0, (int(elapsed * 100 / factor) + 1) * factor)
    doublings = 1
    while factor * 2**doublings < 100:
        doublings += 1
    return min(100.0, factor * float(2 ** int(elapsed * (doublings + 1))))


def _alarm(call: Call, monitors: Iterable[Record]) -> bool:
    from moto.cloudwatch.models import cloudwatch_backends  # most deployments watch nothing

    alarms = cloudwatch_backends[call.account][call.region].alarms
    names = [monitor["AlarmArn"].split(":alarm:", 1)[-1] for monitor in monitors]
    return any(name in alarms and alarms[name].state_value == "ALARM" for name in names)


def _roll_back(deployment: Record) -> Record:
    deployment.update(State="ROLLED_BACK", PercentageComplete=0.0, CompletedAt=now())
    return deployment


def _validate(validators: Iterable[Record], content: bytes) -> None:
    for validator in validators:
        if validator["Type"] != "JSON_SCHEMA":
            continue  # a LAMBDA validator would have to run code
        try:
            jsonschema.validate(json.loads(content), json.loads(validator["Content"]))
        except (ValueError, jsonschema.ValidationError) as error:
            reason = getattr(error, "message", str(error))
            text = f"JSON Schema validation failed for content: {reason}"
            raise AwsError("BadRequestException", text) from None


@api(SERVICE, "StartDeployment")
def start_deployment(call: Call) -> Record:
    """StartDeployment of a hosted version; its content is validated first."""
    environment, kept, plan = _environment(call), profile(call), strategy(call)
    if environment["State"] == "DEPLOYING":
        raise AwsError("ConflictException", "Another deployment is already in progress in this environment")
    content = version(call, call["ConfigurationVersion"])
    _validate(kept["Validators"], content["Content"])
    history = _deployments(call)
    timing = ("DeploymentDurationInMinutes", "GrowthType", "GrowthFactor", "FinalBakeTimeInMinutes")
    asked = ("ApplicationId", "EnvironmentId", "DeploymentStrategyId", "ConfigurationProfileId", "Description")
    deployment = {
        **call.pick(*asked, "KmsKeyIdentifier"),
        **{name: plan[name] for name in timing},
        "DeploymentNumber": len(history) + 1,
        "ConfigurationName": kept["Name"],
        "ConfigurationLocationUri": kept["LocationUri"],
        "ConfigurationVersion": str(content["VersionNumber"]),
        "State": "DEPLOYING",
        "PercentageComplete": 0.0,
        "StartedAt": now(),
    }
    history.append(deployment)
    arn = f"{_environment_arn(call, call['EnvironmentId'])}/deployment/{len(history)}"
    call.tags(arn).update(mapping(call.get("Tags")))
    return _progress(call, deployment)


def _deployment(call: Call) -> Record:
    call.find("environments", (call["ApplicationId"], call["EnvironmentId"]))
    number, history = int(call["DeploymentNumber"]), _deployments(call)
    if not 1 <= number <= len(history):
        raise AwsError("ResourceNotFoundException", f"Deployment {number} does not exist")
    return _progress(call, history[number - 1])


@api(SERVICE, "GetDeployment")
def get_deployment(call: Call) -> Record:
    """GetDeployment."""
    return _deployment(call)


@api(SERVICE, "StopDeployment")
def stop_deployment(call: Call) -> Record:
    """StopDeployment, which reverts a completed one when AllowRevert is set."""
    deployment = _deployment(call)
    if deployment["State"] == "COMPLETE" and call.get("AllowRevert"):
        deployment["State"] = "REVERTED"
        return deployment
    if deployment["State"] not in UNDER_WAY:
        raise AwsError("BadRequestException", "The deployment is not in progress")
    return _roll_back(deployment)


def _identify(call: Call, table: str, given: str, application: str | None = None) -> str:
    """The id of what an identifier, which is an id or a name, stands for."""
    for key, one in call.table(table, SERVICE).items():
        if given in (one["Id"], one["Name"]) and (application is None or key[0] == application):
            return str(one["Id"])
    raise AwsError("ResourceNotFoundException", f"{given} does not exist")


@api("appconfigdata", "StartConfigurationSession")
def start_session(call: Call) -> Record:
    """StartConfigurationSession."""
    application = _identify(call, "applications", call["ApplicationIdentifier"])
    session = {
        "application": application,
        "environment": _identify(call, "environments", call["EnvironmentIdentifier"], application),
        "profile": _identify(call, "profiles", call["ConfigurationProfileIdentifier"], application),
        "poll": call.get("RequiredMinimumPollIntervalInSeconds", POLL_SECONDS),
        "served": None,
    }
    return {"InitialConfigurationToken": _token(call, session)}


@api("appconfigdata", "GetLatestConfiguration")
def latest_configuration(call: Call) -> Record:
    """GetLatestConfiguration: an empty body when the session has been served this version already."""
    session = call.table("tokens").pop(call["ConfigurationToken"], None)
    if session is None:
        raise AwsError("BadRequestException", "Request token is invalid, expired or already used")
    answer = {
        "NextPollConfigurationToken": _token(call, session),
        "NextPollIntervalInSeconds": session["poll"],
        "Configuration": b"",
    }
    current = _serving(call, session)
    if current is not None and session["served"] != current["VersionNumber"]:
        session["served"] = current["VersionNumber"]
        answer.update(ContentType=current["ContentType"], Configuration=current["Content"])
    return answer


def _token(call: Call, session: Record) -> str:
    token = secrets.token_urlsafe(24)
    call.table("tokens")[token] = session
    return token


def _serving(call: Call, session: Record) -> Record | None:
    """The version that the newest completed deployment brought."""
    history = call.table("deployments", SERVICE).get((session["application"], session["environment"]), [])
    for deployment in reversed(history):
        ours = deployment["ConfigurationProfileId"] == session["profile"]
        if ours and _progress(call, deployment)["State"] == "COMPLETE":
            kept = call.table("profiles", SERVICE)[session["application"], session["profile"]]
            found: Record | None = kept["_versions"].get(int(deployment["ConfigurationVersion"]))
            return found
    return None
