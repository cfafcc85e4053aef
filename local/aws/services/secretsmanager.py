"""Secrets Manager. moto goes on answering with the version that AWSCURRENT was moved away from.

UpdateSecretVersionStage    what gets AWSCURRENT is read from then on; a rotation shows no effect without it
"""

from moto.secretsmanager.models import secretsmanager_backends

from local.aws.call import Call, Record
from local.aws.registry import api

SERVICE = "secretsmanager"


@api(SERVICE, "UpdateSecretVersionStage")
def move_stage(call: Call) -> Record:
    """UpdateSecretVersionStage."""
    answer = call.moto()
    if call["VersionStage"] == "AWSCURRENT" and call.get("MoveToVersionId"):
        kept = secretsmanager_backends[call.account][call.region].secrets
        kept[call["SecretId"]].set_default_version_id(call["MoveToVersionId"])
    return answer
