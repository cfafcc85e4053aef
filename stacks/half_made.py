"""What a deployment that was cut short left half made.

Pulumi keeps such a resource with what it knew of it, perhaps no ARN, and the next `up` takes that for all there is:
what refers to it gets `None`. Asked to refresh first, it reads the rest from AWS.
"""

import json

OPTION = "--refresh"


def half_made(exported: str) -> list[str]:
    """Names of the resources that were made and not seen to be ready, from `pulumi stack export`."""
    resources = (json.loads(exported).get("deployment") or {}).get("resources", [])
    return [one["urn"].rpartition("::")[2] for one in resources if one.get("initErrors")]
