"""The engine's side of a recording: keeps each registration message whole and answers it from mocks."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf import empty_pb2, struct_pb2
from pulumi import get_project, get_stack
from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.proto import engine_pb2, resource_pb2

from preflight import wire
from preflight.project import Setting

STACK_TYPE: Final = "pulumi:pulumi:Stack"
EXAMPLE_ACCOUNT: Final = "123456789012"
# us-west-1 gives an account two zones; every other region has at least three (AWS global infrastructure page).
_ZONE_LETTERS: Final = {"us-east-1": "abcdef", "us-west-1": "ab", "us-west-2": "abcd"}


@dataclass(slots=True)
class Resource:
    """One registration. Property names are camelCase; secrets and unknowns are marked (see `preflight.wire`)."""

    urn: str
    type: str
    name: str
    parent: str
    custom: bool
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    id: str = ""
    protect: bool = False
    dependencies: list[str] = field(default_factory=list)
    property_dependencies: dict[str, list[str]] = field(default_factory=dict)
    ignore_changes: list[str] = field(default_factory=list)
    provider: str = ""
    import_id: str = ""
    retain_on_delete: bool = False
    delete_before_replace: bool = False
    custom_timeouts: dict[str, str] = field(default_factory=dict)
    source: str = ""
    """`file:line` of the registration, relative to the project where it is inside."""

    @property
    def unknowns(self) -> list[str]:
        """Paths of inputs that are known only after deployment."""
        return sorted(path for path, value in wire.walk(self.inputs) if value is wire.UNKNOWN)

    @property
    def secrets(self) -> list[str]:
        """Paths of inputs that the program marked secret."""
        return [path for path, value in wire.walk(self.inputs) if isinstance(value, wire.Secret)]


class UnexpectedInvokeError(LookupError):
    """The program asked AWS something that a recording cannot answer."""


class PreviewMocks(Mocks):
    """Answers as a preview does: inputs come back, the rest is unknown; invokes about the account are answered."""

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        region = settings.get("aws:region")
        self.region = region.value if region else "us-east-1"
        self.assumptions: set[str] = set()

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        return "", {}

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        if args.token in _ASSUMED:
            answer, assumption = _ASSUMED[args.token]
            self.assumptions.add(assumption)
            return answer, None
        return invoke_answer(args.token, self.region), None


# What only the account knows: the answer that lets a plan go on, and the sentence that says what it takes for granted.
_ROUTES: Final = "the existing private subnets are assumed to have a route to NAT, which the deployment checks"
_ASSUMED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "aws:ec2/getRouteTables:getRouteTables": ({"id": "rtb", "ids": ["rtb-assumed"]}, _ROUTES),
    "aws:ec2/getRouteTable:getRouteTable": (
        {"id": "rtb-assumed", "routes": [{"cidrBlock": "0.0.0.0/0", "gatewayId": "", "natGatewayId": "nat-assumed"}]},
        _ROUTES,
    ),
}


def invoke_answer(token: str, region: str, account: str = EXAMPLE_ACCOUNT) -> dict[str, Any]:
    """What AWS says about itself. Raises UnexpectedInvokeError for anything that needs a real account."""
    zones = [region + letter for letter in _ZONE_LETTERS.get(region, "abc")]
    answers: dict[str, dict[str, Any]] = {
        "aws:index/getAvailabilityZones:getAvailabilityZones": {
            "id": region,
            "region": region,
            "names": zones,
            "zoneIds": [f"{region}-az{number}" for number in range(1, len(zones) + 1)],
            "groupNames": [region],
            "state": "available",
        },
        "aws:index/getCallerIdentity:getCallerIdentity": {
            "id": account,
            "accountId": account,
            "arn": f"arn:aws:iam::{account}:user/preview",
            "userId": "AIDAPREVIEW",
        },
        "aws:index/getRegion:getRegion": {
            "id": region,
            "region": region,
            "name": region,
            "description": region,
            "endpoint": f"ec2.{region}.amazonaws.com",
        },
        "aws:index/getPartition:getPartition": {
            "id": "aws",
            "partition": "aws",
            "dnsSuffix": "amazonaws.com",
            "reverseDnsPrefix": "com.amazonaws",
        },
    }
    if token not in answers:
        raise UnexpectedInvokeError(f"{token} needs a real account: pass its result as a setting instead")
    return answers[token]


class RecordingEngine:
    """Keeps what the program logs at warning level or above."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def Log(self, request: engine_pb2.LogRequest) -> empty_pb2.Empty:  # noqa: N802 - the protocol's name
        if request.severity >= engine_pb2.WARNING:
            self.messages.append(request.message)
        logging.getLogger("preflight.program").debug(request.message)
        return empty_pb2.Empty()


class RecordingMonitor(MockMonitor):
    """A monitor that forgets nothing. Registrations may come from several threads."""

    def __init__(self, mocks: Mocks, root: Path) -> None:
        super().__init__(mocks)
        self._root = root
        self._lock = threading.Lock()
        self._recorded: dict[str, Resource] = {}
        self._stack_outputs: dict[str, Any] = {}

    def recorded(self) -> list[Resource]:
        """Every registration so far, in order, without the stack itself."""
        return list(self._recorded.values())

    def stack_outputs(self) -> dict[str, Any]:
        """What the program exported."""
        return self._stack_outputs

    def make_urn(self, parent: str, type_: str, name: str) -> str:
        """The URN as the engine makes it: every ancestor's type but the stack's."""
        ancestors = parent.split("::")[2] if parent else STACK_TYPE
        qualified = type_ if ancestors == STACK_TYPE else f"{ancestors}${type_}"
        return f"urn:pulumi:{get_stack()}::{get_project()}::{qualified}::{name}"

    def RegisterResource(  # noqa: N802 - the protocol's name
        self, request: resource_pb2.RegisterResourceRequest
    ) -> resource_pb2.RegisterResourceResponse:
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type == STACK_TYPE:
            return resource_pb2.RegisterResourceResponse(urn=urn)
        inputs = wire.decode_object(request.object)
        resource = Resource(
            urn=urn,
            type=request.type,
            name=request.name,
            parent=request.parent,
            custom=request.custom,
            inputs=inputs,
            outputs={},
            protect=request.protect,
            dependencies=list(request.dependencies),
            property_dependencies={key: list(item.urns) for key, item in request.propertyDependencies.items()},
            ignore_changes=list(request.ignoreChanges),
            provider=request.provider,
            import_id=request.importId,
            retain_on_delete=request.retainOnDelete,
            delete_before_replace=request.deleteBeforeReplace,
            custom_timeouts=_timeouts(request.customTimeouts),
            source=self._source(request),
        )
        with self._lock:
            if urn in self._recorded:
                raise ValueError(f"two resources have the URN {urn}; registered at {resource.source}")
            self._recorded[urn] = resource
        if not request.custom:
            return resource_pb2.RegisterResourceResponse(urn=urn)
        resource.id, state = self._created(request, inputs)
        resource.outputs = wire.decode_object(state)
        return resource_pb2.RegisterResourceResponse(urn=urn, id=resource.id, object=state)

    def ReadResource(  # noqa: N802 - the protocol's name
        self, request: resource_pb2.ReadResourceRequest
    ) -> resource_pb2.ReadResourceResponse:
        raise UnexpectedInvokeError(
            f"{request.type}.get({request.id!r}) needs a real account: pass what it has as settings"
        )

    def RegisterResourceOutputs(  # noqa: N802 - the protocol's name
        self, request: resource_pb2.RegisterResourceOutputsRequest
    ) -> empty_pb2.Empty:
        outputs = wire.decode_object(request.outputs)
        if request.urn in self._recorded:
            self._recorded[request.urn].outputs = outputs
        else:
            self._stack_outputs = outputs
        return empty_pb2.Empty()

    def Invoke(self, request: resource_pb2.ResourceInvokeRequest) -> resource_pb2.ResourceInvokeResponse:  # noqa: N802
        arguments = wire.plain(wire.decode_object(request.args))
        answer = self.mocks.call(MockCallArgs(request.tok, arguments, request.provider))
        result = answer[0] if isinstance(answer, tuple) else answer
        return resource_pb2.ResourceInvokeResponse(**{"return": wire.encode_object(result)})

    def _created(
        self, request: resource_pb2.RegisterResourceRequest, inputs: dict[str, Any]
    ) -> tuple[str, struct_pb2.Struct]:
        """The id and the outputs. Inputs are outputs too, and what was secret going in stays secret coming out."""
        opened = wire.plain(inputs)
        identifier, outputs = self.mocks.new_resource(
            MockResourceArgs(
                typ=request.type,
                name=request.name,
                inputs=opened,
                provider=request.provider,
                resource_id=request.importId,
                custom=True,
            )
        )
        state = struct_pb2.Struct()
        state.CopyFrom(request.object)
        hidden = {key for key, value in inputs.items() if wire.holds_secret(value)}
        hidden |= set(request.additionalSecretOutputs)
        for key, value in outputs.items():
            if key in opened and value is opened[key]:
                continue
            encoded = wire.encode(value)
            state.fields[key].CopyFrom(wire.secret(encoded) if key in hidden else encoded)
        return identifier or "", state

    def _source(self, request: resource_pb2.RegisterResourceRequest) -> str:
        position = request.sourcePosition
        path = Path(position.uri.removeprefix("file://"))
        if path.is_relative_to(self._root):
            path = path.relative_to(self._root)
        return f"{path}:{position.line}" if position.uri else ""


def _timeouts(message: resource_pb2.RegisterResourceRequest.CustomTimeouts) -> dict[str, str]:
    return {name: value for name in ("create", "update", "delete") if (value := getattr(message, name))}
