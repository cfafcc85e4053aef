"""AppConfig: applications, profiles, hosted versions, strategies. moto keeps some and loses the version headers.

Create, Get, Update and Delete of Application, ConfigurationProfile and DeploymentStrategy    aws_appconfig_*
CreateHostedConfigurationVersion, GetHostedConfigurationVersion, DeleteHostedConfigurationVersion
ListTagsForResource, TagResource, UntagResource
"""

import secrets
from typing import Any

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.tags import mapping, tagging

SERVICE = "appconfig"
PREDEFINED = {
    name: {
        "Id": name,
        "Name": name,
        "DeploymentDurationInMinutes": duration,
        "GrowthType": growth,
        "GrowthFactor": factor,
        "FinalBakeTimeInMinutes": bake,
        "ReplicateTo": "NONE",
    }
    for name, duration, growth, factor, bake in (
        ("AppConfig.AllAtOnce", 0, "LINEAR", 100.0, 10),
        ("AppConfig.Linear50PercentEvery30Seconds", 1, "LINEAR", 50.0, 1),
        ("AppConfig.Linear20PercentEvery6Minutes", 30, "LINEAR", 20.0, 30),
        ("AppConfig.Canary10Percent20Minutes", 20, "EXPONENTIAL", 10.0, 10),
    )
}
"""https://docs.aws.amazon.com/appconfig/latest/userguide/appconfig-creating-deployment-strategy-predefined.html"""
tagging(SERVICE, arn="ResourceArn")


def new_id(call: Call, table: str) -> str:
    """Seven characters that no row of the table has, as AWS makes them."""
    while (fresh := secrets.token_hex(4)[:7]) in call.table(table):
        pass
    return fresh


def keep(call: Call, table: str, key: Any, record: Record, arn: str) -> Record:
    """Keep a record and the tags of its creation."""
    call.table(table)[key] = record
    call.tags(arn).update(mapping(call.get("Tags")))
    return record


def drop(call: Call, table: str, key: Any, arn: str) -> Record:
    """Forget a record and its tags; refused when there is none."""
    call.find(table, key)
    del call.table(table)[key]
    call.table("tags").pop(arn, None)
    return {}


def application_arn(call: Call) -> str:
    """ARN of the application that the call names."""
    return call.arn(f"application/{call['ApplicationId']}")


@api(SERVICE, "CreateApplication")
def create_application(call: Call) -> Record:
    """CreateApplication."""
    made = {"Id": new_id(call, "applications"), **call.pick("Name", "Description")}
    return keep(call, "applications", made["Id"], made, call.arn(f"application/{made['Id']}"))


@api(SERVICE, "GetApplication")
def get_application(call: Call) -> Record:
    """GetApplication."""
    return call.find("applications", call["ApplicationId"])


@api(SERVICE, "UpdateApplication")
def update_application(call: Call) -> Record:
    """UpdateApplication."""
    application = call.find("applications", call["ApplicationId"])
    application.update(call.pick("Name", "Description"))
    return application


@api(SERVICE, "DeleteApplication")
def delete_application(call: Call) -> Record:
    """DeleteApplication."""
    ours = call["ApplicationId"]
    if any(ours == application for table in ("environments", "profiles") for application, _ in call.table(table)):
        text = "Delete the environments and configuration profiles of the application first"
        raise AwsError("BadRequestException", text)
    return drop(call, "applications", ours, application_arn(call))


def profile(call: Call) -> Record:
    """The profile that the call names, with its versions under "_versions"."""
    return call.find("profiles", (call["ApplicationId"], call["ConfigurationProfileId"]))


def _shown(record: Record) -> Record:
    return {name: value for name, value in record.items() if not name.startswith("_")}


def _profile_arn(call: Call, identity: str) -> str:
    return f"{application_arn(call)}/configurationprofile/{identity}"


@api(SERVICE, "CreateConfigurationProfile")
def create_profile(call: Call) -> Record:
    """CreateConfigurationProfile."""
    call.find("applications", call["ApplicationId"])
    made = {
        "Id": new_id(call, "profiles"),
        "Type": call.get("Type", "AWS.Freeform"),
        "Validators": call.get("Validators", []),
        **call.pick("ApplicationId", "Name", "Description", "LocationUri", "RetrievalRoleArn", "KmsKeyIdentifier"),
        "_versions": {},
        "_next": 1,
    }
    key = call["ApplicationId"], made["Id"]
    return _shown(keep(call, "profiles", key, made, _profile_arn(call, made["Id"])))


@api(SERVICE, "GetConfigurationProfile")
def get_profile(call: Call) -> Record:
    """GetConfigurationProfile."""
    return _shown(profile(call))


@api(SERVICE, "UpdateConfigurationProfile")
def update_profile(call: Call) -> Record:
    """UpdateConfigurationProfile."""
    kept = profile(call)
    kept.update(call.pick("Name", "Description", "RetrievalRoleArn", "Validators", "KmsKeyIdentifier"))
    return _shown(kept)


@api(SERVICE, "DeleteConfigurationProfile")
def delete_profile(call: Call) -> Record:
    """DeleteConfigurationProfile."""
    if profile(call)["_versions"]:
        text = "Delete the hosted configuration versions of the profile first"
        raise AwsError("BadRequestException", text)
    identity = call["ConfigurationProfileId"]
    return drop(call, "profiles", (call["ApplicationId"], identity), _profile_arn(call, identity))


@api(SERVICE, "CreateHostedConfigurationVersion")
def create_version(call: Call) -> Record:
    """CreateHostedConfigurationVersion."""
    kept = profile(call)
    latest = max(kept["_versions"], default=0)
    if call.get("LatestVersionNumber") not in (None, latest):
        raise AwsError("ConflictException", f"The latest version is {latest}")
    number, kept["_next"] = kept["_next"], kept["_next"] + 1
    content = call["Content"]
    made: Record = {
        **call.pick("ApplicationId", "ConfigurationProfileId", "Description", "ContentType", "VersionLabel"),
        "VersionNumber": number,
        "Content": content.encode() if isinstance(content, str) else bytes(content),
    }
    kept["_versions"][number] = made
    return made


def version(call: Call, number: str) -> Record:
    """A hosted version of the profile that the call names."""
    found: Record | None = profile(call)["_versions"].get(int(number))
    if found is None:
        raise AwsError("ResourceNotFoundException", f"Hosted configuration version {number} does not exist")
    return found


@api(SERVICE, "GetHostedConfigurationVersion")
def get_version(call: Call) -> Record:
    """GetHostedConfigurationVersion."""
    return version(call, call["VersionNumber"])


@api(SERVICE, "DeleteHostedConfigurationVersion")
def delete_version(call: Call) -> Record:
    """DeleteHostedConfigurationVersion."""
    version(call, call["VersionNumber"])
    del profile(call)["_versions"][int(call["VersionNumber"])]
    return {}


def strategy(call: Call) -> Record:
    """The strategy that the call names, one of AWS's own or of the account's."""
    return PREDEFINED.get(call["DeploymentStrategyId"]) or call.find("strategies", call["DeploymentStrategyId"])


_TIMING = ("DeploymentDurationInMinutes", "FinalBakeTimeInMinutes", "GrowthFactor", "GrowthType")


@api(SERVICE, "CreateDeploymentStrategy")
def create_strategy(call: Call) -> Record:
    """CreateDeploymentStrategy."""
    made = {
        "Id": new_id(call, "strategies"),
        "GrowthType": "LINEAR",
        "FinalBakeTimeInMinutes": 0,
        "ReplicateTo": "NONE",
        **call.pick("Name", "Description", "ReplicateTo", *_TIMING),
    }
    return keep(call, "strategies", made["Id"], made, call.arn(f"deploymentstrategy/{made['Id']}"))


@api(SERVICE, "GetDeploymentStrategy")
def get_strategy(call: Call) -> Record:
    """GetDeploymentStrategy."""
    return strategy(call)


@api(SERVICE, "UpdateDeploymentStrategy")
def update_strategy(call: Call) -> Record:
    """UpdateDeploymentStrategy."""
    kept = call.find("strategies", call["DeploymentStrategyId"])
    kept.update(call.pick("Description", *_TIMING))
    return kept


@api(SERVICE, "DeleteDeploymentStrategy")
def delete_strategy(call: Call) -> Record:
    """DeleteDeploymentStrategy."""
    identity = call["DeploymentStrategyId"]
    return drop(call, "strategies", identity, call.arn(f"deploymentstrategy/{identity}"))
