"""Promotion: the very image that one stack runs is what the other one gets, byte for byte; nothing is built."""

import contextlib
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from moto.core.responses import ActionResult
from moto.ecr.responses import ECRResponse

from stacks import __main__ as commands
from stacks.images import Copier, CopyError, EcrImage, in_ecr, is_own, repository_of
from tests.stacks.conftest import Pulumi

pytestmark = pytest.mark.usefixtures("aws")

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
STAGING, PROD = "prodkit-staging/image", "prodkit-prod/image"


class Registry:
    """ECR with what moto lacks: layers that can be downloaded, from a server on loopback."""

    def __init__(self) -> None:
        self.ecr = boto3.client("ecr", "us-east-1")
        self.blobs: dict[str, bytes] = {}
        self.downloads: list[str] = []

    def layer(self, size: int) -> dict[str, Any]:
        """A new layer of random bytes, as a manifest names it."""
        content = secrets.token_bytes(size)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": "application/octet-stream", "size": size, "digest": digest}

    def push(self, repository: str, manifest: dict[str, Any], tag: str | None = None) -> str:
        """Puts an image; returns its digest."""
        named = {"imageTag": tag} if tag else {}
        text = json.dumps(manifest)
        digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        self.ecr.put_image(
            repositoryName=repository,
            imageManifest=text,
            imageManifestMediaType=manifest["mediaType"],
            imageDigest=digest,  # without it moto makes one up
            **named,
        )
        return digest

    def image(self, tag: str = "source", sizes: tuple[int, ...] = (100, 2_000)) -> str:
        """Pushes an image with layers of these sizes to staging's repository; returns its digest."""
        layers = [self.layer(size) for size in sizes]
        manifest = {"schemaVersion": 2, "mediaType": OCI, "config": self.layer(50), "layers": layers}
        return self.push(STAGING, manifest, tag)

    def tags(self, repository: str) -> dict[str, str]:
        """Tag -> digest of everything that has one."""
        found = self.ecr.list_images(repositoryName=repository)["imageIds"]
        return {one["imageTag"]: one["imageDigest"] for one in found if "imageTag" in one}

    def layers(self, repository: str, *digests: str) -> list[str]:
        """Which layers the repository has."""
        asked = self.ecr.batch_check_layer_availability(repositoryName=repository, layerDigests=list(digests))
        return [one["layerDigest"] for one in asked["layers"]]


@pytest.fixture
def registry(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Staging's and prod's repositories."""
    made = Registry()
    for repository in (STAGING, PROD):
        made.ecr.create_repository(repositoryName=repository, imageTagMutability="IMMUTABLE")
    with _serving(made) as url:

        def download(self: ECRResponse) -> ActionResult:
            digest = self._get_param("layerDigest")
            return ActionResult({"downloadUrl": f"{url}/{digest}", "layerDigest": digest})

        monkeypatch.setattr(ECRResponse, "get_download_url_for_layer", download)
        yield made


@contextlib.contextmanager
def _serving(registry: Registry) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            digest = self.path.removeprefix("/")
            registry.downloads.append(digest)
            content = registry.blobs.get(digest)
            self.send_response(200 if content is not None else 403)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            """A download is not news."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def copier(registry: Registry) -> Copier:
    return Copier(registry.ecr, STAGING, registry.ecr, PROD)


pytestmark = pytest.mark.process


def test_the_same_digest_runs_in_both_stacks_and_nothing_is_built(
    pulumi: Pulumi, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = registry.image()
    pulumi.knows("staging", "prod", image=f"{REGISTRY}/{STAGING}@{digest}")
    assert commands.main(["promote", "staging", "prod"]) == 0
    assert registry.tags(PROD) == {f"staging-{digest[7:19]}": digest}
    assert sorted(registry.layers(PROD, *registry.blobs)) == sorted(registry.blobs)
    uri = f"{REGISTRY}/{PROD}@{digest}"
    assert pulumi.calls[-1] == ["config", "set", "prodkit:imageUri", uri, "--stack", "prod"]
    assert "up" not in [call[0] for call in pulumi.calls]
    shown = capsys.readouterr().out
    assert f"copied {digest}" in shown
    assert "Deploy it: make up STACK=prod" in shown


def test_a_dry_run_says_what_would_happen_and_changes_nothing(
    pulumi: Pulumi, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = registry.image()
    pulumi.knows("staging", "prod", image=f"{REGISTRY}/{STAGING}@{digest}")
    assert commands.main(["promote", "staging", "prod", "--dry-run"]) == 0
    assert registry.tags(PROD) == {}
    assert "config" not in [call[0] for call in pulumi.calls]
    shown = capsys.readouterr().out
    assert f"would copy {REGISTRY}/{STAGING}@{digest} to {PROD} in account 123456789012, us-east-1" in shown
    assert f"would run: pulumi config set prodkit:imageUri {REGISTRY}/{PROD}@{digest} --stack prod" in shown


def test_promoting_twice_moves_nothing_twice(pulumi: Pulumi, registry: Registry) -> None:
    pulumi.knows("staging", "prod", image=f"{REGISTRY}/{STAGING}@{registry.image()}")
    assert commands.main(["promote", "staging", "prod"]) == 0
    registry.downloads.clear()
    assert commands.main(["promote", "staging", "prod"]) == 0
    assert registry.downloads == []


def test_an_image_of_another_registry_is_set_as_it_is(pulumi: Pulumi, registry: Registry) -> None:
    uri = f"registry.example.com/app@sha256:{'1' * 64}"
    pulumi.knows("staging", "prod", image=uri)
    assert commands.main(["promote", "staging", "prod"]) == 0
    assert pulumi.calls[-1] == ["config", "set", "prodkit:imageUri", uri, "--stack", "prod"]
    assert registry.downloads == []


@pytest.mark.parametrize(
    ("image", "arguments", "text"),
    [
        (f"{REGISTRY}/{STAGING}@sha256:{'2' * 64}", ["staging", "prod"], "has no image sha256:2222"),
        (
            f"999999999999.dkr.ecr.us-east-1.amazonaws.com/{STAGING}@sha256:{'2' * 64}",
            ["staging", "prod"],
            "staging's image is in account 999999999999 and you are signed in to 123456789012; name a profile",
        ),
        (f"{REGISTRY}/{STAGING}@sha256:{'2' * 64}", ["staging", "dev"], "no repository prodkit-dev/image to copy to"),
        (None, ["staging", "prod"], "has no output image yet; deploy it first: make up STACK=staging"),
        (None, ["prod", "prod"], "stack 'prod' runs that image already; name two stacks"),
        (None, ["stagign", "prod"], "there is no stack 'stagign'"),
    ],
)
def test_what_cannot_be_promoted_is_refused_with_the_fix(
    image: str | None,
    arguments: list[str],
    text: str,
    pulumi: Pulumi,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pulumi.knows("dev", "staging", "prod", **({"image": image} if image else {}))
    assert commands.main(["promote", *arguments]) == 2
    assert text in capsys.readouterr().err
    assert "config" not in [call[0] for call in pulumi.calls]


def test_an_image_for_another_processor_is_refused(
    pulumi: Pulumi, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = commands._config
    monkeypatch.setattr(
        commands,
        "_config",
        lambda stack: {**real(stack), **({"prodkit:architecture": "X86_64"} if stack == "prod" else {})},
    )
    assert commands.main(["promote", "staging", "prod"]) == 2
    assert "give both stacks the same architecture" in capsys.readouterr().err


def test_an_image_of_several_platforms_is_copied_whole(registry: Registry) -> None:
    parts = [registry.image(tag=f"part{number}", sizes=(10,)) for number in range(2)]
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{"digest": part, "mediaType": OCI} for part in parts],
    }
    digest = registry.push(STAGING, index, "all")
    assert copier(registry).copy(digest, "promoted") == 120
    assert registry.tags(PROD) == {"promoted": digest}
    images = registry.ecr.list_images(repositoryName=PROD)["imageIds"]
    assert {one["imageDigest"] for one in images} == {digest, *parts}


def test_large_layers_go_in_the_parts_that_ecr_asks_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    real, parts = registry.ecr.upload_layer_part, []

    def upload(**part: Any) -> Any:
        parts.append((part["partFirstByte"], part["partLastByte"], len(part["layerPartBlob"])))
        return real(**part)

    start = registry.ecr.initiate_layer_upload
    monkeypatch.setattr(registry.ecr, "initiate_layer_upload", lambda **asked: {**start(**asked), "partSize": 1000})
    monkeypatch.setattr(registry.ecr, "upload_layer_part", upload)
    digest = registry.image(sizes=(2_500,))
    assert copier(registry).copy(digest, None) == 2_550
    assert parts == [(0, 49, 50), (0, 999, 1000), (1000, 1999, 1000), (2000, 2499, 500)]


def test_a_layer_that_arrives_damaged_is_not_promoted(registry: Registry) -> None:
    digest = registry.image(sizes=(100,))
    damaged = next(iter(registry.blobs))
    registry.blobs[damaged] = b"something else"
    with pytest.raises(CopyError, match=f"layer {damaged} of {STAGING} arrived damaged"):
        copier(registry).copy(digest, "promoted")
    assert registry.tags(PROD) == {}


def test_a_layer_that_cannot_be_downloaded_is_said_so(registry: Registry) -> None:
    digest = registry.image(sizes=(100,))
    registry.blobs.clear()
    with pytest.raises(CopyError, match="cannot be downloaded: status 403"):
        copier(registry).copy(digest, "promoted")


def test_a_tag_that_another_image_has_is_not_taken_from_it(registry: Registry) -> None:
    first, second = registry.image(tag="one"), registry.image(tag="two")
    copier(registry).copy(first, "promoted")
    with pytest.raises(CopyError, match="another image with the tag promoted"):
        copier(registry).copy(second, "promoted")
    assert registry.tags(PROD) == {"promoted": first}


def test_an_image_knows_its_place() -> None:
    uri = f"{REGISTRY}/{PROD}@sha256:{'0' * 64}"
    image = in_ecr(uri)
    assert image == EcrImage("123456789012", "us-east-1", "amazonaws.com", PROD, f"sha256:{'0' * 64}")
    assert image.uri == uri
    assert image.repository_arn == f"arn:aws:ecr:us-east-1:123456789012:repository/{PROD}"
    assert repository_of("prod") == PROD
    assert is_own(image, "prod", "us-east-1", ["123456789012"])
    assert not is_own(image, "staging", "us-east-1", ["123456789012"])
    assert not is_own(image, "prod", "us-west-2", ["123456789012"])
    assert not is_own(image, "prod", "us-east-1", ["999999999999"])
    assert in_ecr(f"docker.io/library/python@sha256:{'0' * 64}") is None
    assert in_ecr("") is None
