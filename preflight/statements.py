"""Plain sentences about a recorded stack: what a reviewer would want to be told without reading every resource."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from preflight.monitor import Resource
from preflight.record import Recording
from preflight.wire import UNKNOWN

_US: Final = "us-"


def statements(recording: Recording) -> list[str]:
    """Every sentence that applies, the ones about risk first."""
    return [sentence for describe in _DESCRIPTIONS for sentence in describe(recording)]


def _traffic(recording: Recording) -> Iterator[str]:
    listeners = recording.of_type("aws:lb/listener:Listener")
    forwarding = [item for item in listeners if _protocol(item) == "HTTP" and "forward" in _action_types(item)]
    if forwarding:
        yield "traffic is unencrypted (allowPlainHttp): callers' keys and prompts cross the internet in clear"
    elif any(_protocol(item) == "HTTPS" for item in listeners):
        yield "traffic is encrypted: TLS at the balancer, plain HTTP is redirected"


def _protocol(listener: Resource) -> str:
    return str(listener.inputs.get("protocol", ""))


def _action_types(listener: Resource) -> set[str]:
    return {str(action.get("type")) for action in listener.inputs.get("defaultActions", [])}


def _zone(recording: Recording) -> Iterator[str]:
    for zone in recording.of_type("aws:route53/zone:Zone"):
        yield (
            f"a DNS zone is made for {zone.inputs.get('name')}: the first deployment waits until its name servers are "
            "delegated by the parent domain"
        )


def _region(recording: Recording) -> Iterator[str]:
    setting = recording.settings.get("aws:region")
    if setting and not setting.value.startswith(_US):
        yield (
            f"{setting.value} is outside the US (allowNonUsRegion): each OpenAI call crosses an ocean and prompts "
            "leave the region where your data resides"
        )


def _firewall(recording: Recording) -> Iterator[str]:
    if not recording.of_type("aws:wafv2/webAcl:WebAcl"):
        yield "no web application firewall (waf: false)"


def _network(recording: Recording) -> Iterator[str]:
    gateways = len(recording.of_type("aws:ec2/natGateway:NatGateway"))
    services = recording.of_type("aws:ecs/service:Service")
    if any((item.inputs.get("networkConfiguration") or {}).get("assignPublicIp") is True for item in services):
        yield "tasks have public addresses in public subnets (nat: none); their groups let no one in but the balancer"
    elif gateways:
        yield f"tasks are in private subnets behind {gateways} NAT gateway{'s' if gateways > 1 else ''}"
        if gateways == 1:
            yield "one NAT gateway serves every zone (nat: single): if its zone fails, tasks cannot reach OpenAI"


def _services(recording: Recording) -> Iterator[str]:
    definitions = recording.of_type("aws:ecs/taskDefinition:TaskDefinition")
    for target in recording.of_type("aws:appautoscaling/target:Target"):
        definition = next((item for item in definitions if item.parent == target.parent), None)
        role = _name_of(recording, target)
        low, high = target.inputs.get("minCapacity"), target.inputs.get("maxCapacity")
        size = ""
        if definition is not None:
            size = f" of {_vcpu(definition.inputs.get('cpu'))} vCPU and {definition.inputs.get('memory')} MiB"
        yield f"{role}: {low} to {high} tasks{size}{_spot(recording, target)}"
        if low == 1:
            yield f"{role}: a single task; while it is replaced nothing else serves"


def _name_of(recording: Recording, resource: Resource) -> str:
    return next((item.name for item in recording.resources if item.urn == resource.parent), resource.name)


def _vcpu(units: Any) -> str:
    return "unknown" if units is UNKNOWN or units is None else f"{int(units) / 1024:g}"


def _spot(recording: Recording, target: Resource) -> str:
    for service in recording.of_type("aws:ecs/service:Service"):
        if service.parent != target.parent:
            continue
        strategies = {
            item.get("capacityProvider"): item.get("weight") or 0
            for item in service.inputs.get("capacityProviderStrategies", [])
        }
        spot, total = strategies.get("FARGATE_SPOT", 0), sum(strategies.values())
        return f", {round(100 * spot / total)} % on Spot" if spot and total else ""
    return ""


def _sums(recording: Recording) -> Iterator[str]:
    """What the program itself worked out, and exports for operators too."""
    yield from recording.outputs.get("sums", [])


def _rollouts(recording: Recording) -> Iterator[str]:
    for service in recording.of_type("aws:ecs/service:Service"):
        how = service.inputs.get("deploymentConfiguration") or {}
        role, canary, linear = (
            _name_of(recording, service),
            how.get("canaryConfiguration"),
            how.get("linearConfiguration"),
        )
        bake = how.get("bakeTimeInMinutes")
        if canary:
            first = f"{canary['canaryPercent']:g} % of requests for {canary['canaryBakeTimeInMinutes']} minutes"
            yield f"{role}: a new version gets {first}, then all of them; old tasks stay {bake} more"
        elif linear:
            step = f"{linear['stepPercent']:g} % of requests every {linear['stepBakeTimeInMinutes']} minutes"
            yield f"{role}: a new version gets another {step}; old tasks stay {bake} more at the end"


def _protection(recording: Recording) -> Iterator[str]:
    protected = sum(resource.protect for resource in recording.resources)
    if not protected:
        yield "nothing is protected from deletion (protect: false): destroying the stack deletes its data"
    else:
        yield f"{protected} resources refuse deletion until protect is turned off"


def _keys(recording: Recording) -> Iterator[str]:
    keys = len(recording.of_type("aws:kms/key:Key"))
    if keys:
        yield f"data, secrets, logs and messages are encrypted with {keys} KMS key{'s' if keys > 1 else ''}"


def _alerts(recording: Recording) -> Iterator[str]:
    subscriptions = recording.of_type("aws:sns/topicSubscription:TopicSubscription")
    if subscriptions:
        addresses = ", ".join(str(item.inputs.get("endpoint")) for item in subscriptions)
        yield f"alarms go to {addresses}; each address confirms once by mail"
    for budget in recording.of_type("aws:budgets/budget:Budget"):
        yield f"AWS budget of {float(budget.inputs['limitAmount']):g} USD a month; tokens have alarms of their own"


def _image(recording: Recording) -> Iterator[str]:
    builds = recording.of_type("aws:codebuild/project:Project")
    if builds:
        yield "the image is built on AWS when the app's source changed; the first deployment takes some minutes longer"


def _openai_key(recording: Recording) -> Iterator[str]:
    if recording.of_type("aws:secretsmanager/secret:Secret"):
        yield f"the OpenAI key is not part of the stack: set it afterwards with make key STACK={recording.stack}"
    days = recording.settings.get("prodkit:rotationDays")
    if days is not None and recording.of_type("aws:scheduler/schedule:Schedule"):
        yield (
            f"the OpenAI key is replaced every {days.value} days; the admin key that does it is set with "
            f"make key STACK={recording.stack} ADMIN=1"
        )


_DESCRIPTIONS: Final[list[Callable[[Recording], Iterator[str]]]] = [
    _traffic,
    _region,
    _firewall,
    _network,
    _protection,
    _services,
    _sums,
    _rollouts,
    _zone,
    _keys,
    _alerts,
    _image,
    _openai_key,
]
