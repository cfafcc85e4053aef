"""Images by digest in ECR: where one is, and the same one in another repository, byte for byte."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from botocore.exceptions import ClientError

from stacks.keys import PROJECT

_ECR: Final = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.(?P<domain>amazonaws\.com(?:\.cn)?)"
    r"/(?P<repository>[^@:\s]+)@(?P<digest>sha256:[0-9a-f]{64})"
)
_MANIFESTS: Final = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
]
_DOWNLOAD_SECONDS: Final = 60  # of silence


class CopyError(Exception):
    """The image could not be copied; the text says why."""


@dataclass(frozen=True)
class EcrImage:
    """Where an image is."""

    account: str
    region: str
    domain: str
    repository: str
    digest: str
    """`sha256:` and 64 hex digits: the hash of its manifest, the same wherever the image is."""

    @property
    def uri(self) -> str:
        """The image as a task definition names it."""
        return f"{self.account}.dkr.ecr.{self.region}.{self.domain}/{self.repository}@{self.digest}"

    @property
    def repository_arn(self) -> str:
        """Its repository, as IAM names it."""
        partition = "aws-cn" if self.domain.endswith(".cn") else "aws"
        return f"arn:{partition}:ecr:{self.region}:{self.account}:repository/{self.repository}"


def in_ecr(uri: str) -> EcrImage | None:
    """An image's place from its address by digest; None when it is in a registry of another kind."""
    found = _ECR.fullmatch(uri)
    return EcrImage(**found.groupdict()) if found else None


def repository_of(stack: str) -> str:
    """Name of the repository that a stack makes for its image."""
    return f"{PROJECT}-{stack}/image"


def is_own(image: EcrImage, stack: str, region: str, account_ids: Sequence[str]) -> bool:
    """Whether an image lies in the repository that the stack itself makes."""
    return (image.repository, image.region) == (repository_of(stack), region) and image.account in account_ids


class Copier:
    """Copies images from one repository to another one, through this machine: works across regions and accounts.

    Args:
        source: ECR client that may read from `source_repository`.
        target: ECR client that may write to `target_repository`.
    """

    def __init__(self, source: Any, source_repository: str, target: Any, target_repository: str) -> None:
        self._source, self._from = source, source_repository
        self._target, self._to = target, target_repository
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=10, read=_DOWNLOAD_SECONDS))

    def copy(self, digest: str, tag: str | None) -> int:
        """Copies an image and everything it is made of; returns the bytes that had to move, 0 when all was there.

        Raises:
            CopyError: when it is not in the source, or does not arrive as it was.
            botocore.exceptions.ClientError: when ECR refuses something.
        """
        text, kind = self._manifest(digest)
        manifest = json.loads(text)
        moved = sum(self.copy(part["digest"], None) for part in manifest.get("manifests", []))
        blobs = [manifest["config"], *manifest["layers"]] if "layers" in manifest else []
        for missing in self._missing(list(dict.fromkeys(blob["digest"] for blob in blobs))):
            moved += self._blob(missing)
        self._put(text, kind, digest, tag)
        return moved

    def _manifest(self, digest: str) -> tuple[str, str]:
        asked = {"repositoryName": self._from, "imageIds": [{"imageDigest": digest}], "acceptedMediaTypes": _MANIFESTS}
        images = self._source.batch_get_image(**asked).get("images", [])
        if not images:
            raise CopyError(f"{self._from} has no image {digest}; perhaps it expired")
        text = str(images[0]["imageManifest"])
        if f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" != digest:
            raise CopyError(f"{self._from} answered another manifest than {digest}")
        return text, str(images[0].get("imageManifestMediaType") or json.loads(text)["mediaType"])

    def _missing(self, digests: list[str]) -> Iterator[str]:
        if digests:
            asked = self._target.batch_check_layer_availability(repositoryName=self._to, layerDigests=digests)
            there = {layer["layerDigest"] for layer in asked["layers"] if layer["layerAvailability"] == "AVAILABLE"}
            yield from (digest for digest in digests if digest not in there)

    def _blob(self, digest: str) -> int:
        """One layer or configuration, in parts as large as ECR asks for."""
        url = self._source.get_download_url_for_layer(repositoryName=self._from, layerDigest=digest)["downloadUrl"]
        upload = self._target.initiate_layer_upload(repositoryName=self._to)
        identity, size, sent, seen = upload["uploadId"], int(upload["partSize"]), 0, hashlib.sha256()
        body = self._http.request("GET", url, preload_content=False)
        try:
            if body.status != 200:
                raise CopyError(f"layer {digest} of {self._from} cannot be downloaded: status {body.status}")
            while part := body.read(size):
                seen.update(part)
                self._target.upload_layer_part(
                    repositoryName=self._to,
                    uploadId=identity,
                    partFirstByte=sent,
                    partLastByte=sent + len(part) - 1,
                    layerPartBlob=part,
                )
                sent += len(part)
        finally:
            body.release_conn()
        if f"sha256:{seen.hexdigest()}" != digest:
            raise CopyError(f"layer {digest} of {self._from} arrived damaged; try again")
        self._target.complete_layer_upload(repositoryName=self._to, uploadId=identity, layerDigests=[digest])
        return sent

    def _put(self, text: str, kind: str, digest: str, tag: str | None) -> None:
        named = {"imageTag": tag} if tag else {}
        image = {"imageManifest": text, "imageManifestMediaType": kind, "imageDigest": digest, **named}
        try:
            self._target.put_image(repositoryName=self._to, **image)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("ImageAlreadyExistsException", "ImageTagAlreadyExistsException"):
                raise
            # What is there already is what was asked for, unless another image has the tag.
            asked = {"imageTag": tag} if tag else {"imageDigest": digest}
            there = self._target.batch_get_image(repositoryName=self._to, imageIds=[asked]).get("images", [])
            if [one["imageId"]["imageDigest"] for one in there] != [digest]:
                raise CopyError(f"{self._to} has another image with the tag {tag}, which cannot be moved") from None
