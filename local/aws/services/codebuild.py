"""CodeBuild. Nothing is run: a build has succeeded by the time it is asked after.

StartBuild    when the project or the call sets IMAGE_REPO_NAME and IMAGE_TAG, as AWS's own Docker sample does, an image
              with that tag appears in the ECR repository, as if the build had pushed it
"""

import hashlib
import json

from moto.codebuild.models import codebuild_backends
from moto.ecr.models import ecr_backends

from local.aws.call import Call, Record
from local.aws.registry import api

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@api("codebuild", "StartBuild")
def start_build(call: Call) -> Record:
    """StartBuild."""
    answer = call.moto()
    project = codebuild_backends[call.account][call.region].codebuild_projects.get(call["projectName"])
    sent = project.project_metadata["environment"].get("environmentVariables", []) if project else []
    variables = {one["name"]: one["value"] for one in [*sent, *call.get("environmentVariablesOverride", [])]}
    shown = [{"name": name, "value": value, "type": "PLAINTEXT"} for name, value in variables.items()]
    answer["build"]["environment"]["environmentVariables"] = shown
    if {"IMAGE_REPO_NAME", "IMAGE_TAG"} <= variables.keys():
        _push(call, variables["IMAGE_REPO_NAME"].rsplit(".amazonaws.com/", 1)[-1], variables["IMAGE_TAG"])
    return answer


def _push(call: Call, repository: str, tag: str) -> None:
    layer = hashlib.sha256(f"{repository}:{tag}".encode()).hexdigest()
    part = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 1, "digest": f"sha256:{layer}"}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": part, "layers": []})
    backend = ecr_backends[call.account][call.region]
    known = backend.list_images(repository)
    if not any(tag in (image.image_tags or []) for image in known):  # an immutable tag is pushed once
        backend.put_image(repository, manifest, tag, MANIFEST)
