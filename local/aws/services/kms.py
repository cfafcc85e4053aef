"""KMS. moto keeps that a key rotates, not how often.

EnableKeyRotation, DisableKeyRotation   keep RotationPeriodInDays
GetKeyRotationStatus                    answers it; without it aws_kms_key.rotation_period_in_days drifts on every plan
"""

import datetime

from local.aws.call import Call, Record
from local.aws.registry import api
from local.aws.state import now

SERVICE = "kms"
DEFAULT_DAYS = 365


def _key(call: Call) -> str:
    key: str = call["KeyId"]
    return key.rsplit("/", 1)[-1]


@api(SERVICE, "EnableKeyRotation")
def enable(call: Call) -> Record:
    """EnableKeyRotation."""
    answer = call.moto()
    call.table("rotation periods")[_key(call)] = call.get("RotationPeriodInDays", DEFAULT_DAYS)
    return answer


@api(SERVICE, "DisableKeyRotation")
def disable(call: Call) -> Record:
    """DisableKeyRotation."""
    call.table("rotation periods").pop(_key(call), None)
    return call.moto()


@api(SERVICE, "GetKeyRotationStatus")
def status(call: Call) -> Record:
    """GetKeyRotationStatus."""
    answer = call.moto()
    days = call.table("rotation periods").get(_key(call), DEFAULT_DAYS)
    if answer["KeyRotationEnabled"]:
        answer.update(RotationPeriodInDays=days, NextRotationDate=now() + datetime.timedelta(days=days))
    return {**answer, "KeyId": call["KeyId"]}
