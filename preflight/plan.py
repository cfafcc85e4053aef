"""A stack at a glance: what will exist, grouped by component, and in plain sentences what that means."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from preflight.record import Recording, Resource
from preflight.statements import statements

_NAMES_SHOWN = 3
_STACK_GROUP = "stack"


@dataclass(frozen=True, slots=True)
class PlannedResource:
    """One thing that the deployment makes."""

    type: str
    name: str
    protected: bool
    unknowns: list[str]
    """Paths of inputs that are known only after deployment."""
    source: str
    """Where the program registers it, `file:line`."""


@dataclass(frozen=True, slots=True)
class Group:
    """A component of the program with everything below it."""

    name: str
    type: str
    resources: list[PlannedResource]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `python -m preflight plan` shows."""

    stack: str
    region: str
    groups: list[Group]
    settings: list[dict[str, str]]
    """Each with key, value and source (`default` or a stack file)."""
    statements: list[str]
    outputs: list[str]
    """Names of what the stack exports."""
    messages: list[str]
    """Warnings that the program logged, and what was assumed about the account."""

    @property
    def resources(self) -> list[PlannedResource]:
        """Every resource of every group."""
        return [resource for group in self.groups for resource in group.resources]

    def as_document(self) -> dict[str, Any]:
        """The plan as JSON holds it."""
        return {**asdict(self), "counts": self.counts()}

    def counts(self) -> dict[str, int]:
        """Totals over all groups."""
        return {
            "resources": len(self.resources),
            "components": len(self.groups),
            "types": len({resource.type for resource in self.resources}),
            "protected": sum(resource.protected for resource in self.resources),
            "unknown_properties": sum(len(resource.unknowns) for resource in self.resources),
        }


def plan(recording: Recording) -> Plan:
    """The plan of a recorded stack."""
    by_urn = {resource.urn: resource for resource in recording.resources}
    groups: dict[str, Group] = {}
    # Registrations arrive in an order of chance; two plans of one stack must compare line by line.
    for resource in sorted(recording.resources, key=lambda one: (one.name, one.type)):
        top = _top(resource, by_urn)
        key = top.urn if not top.custom else _STACK_GROUP
        if key not in groups:
            groups[key] = Group(*((top.name, top.type) if not top.custom else (_STACK_GROUP, "")), [])
        if resource.custom:
            groups[key].resources.append(
                PlannedResource(resource.type, resource.name, resource.protect, resource.unknowns, resource.source)
            )
    region = recording.settings.get("aws:region")
    return Plan(
        stack=recording.stack,
        region=region.value if region else "",
        groups=sorted(groups.values(), key=lambda group: (group.name == _STACK_GROUP, group.name)),
        settings=[
            {"key": key, "value": "[secret]" if setting.secret else setting.value, "source": setting.source}
            for key, setting in sorted(recording.settings.items())
        ],
        statements=statements(recording),
        outputs=sorted(recording.outputs),
        messages=recording.messages,
    )


def _top(resource: Resource, by_urn: dict[str, Resource]) -> Resource:
    """The ancestor right below the stack."""
    while resource.parent in by_urn:
        resource = by_urn[resource.parent]
    return resource


def lines(shown: Plan) -> Iterator[str]:
    """The plan as text."""
    counts = shown.counts()
    yield f"stack {shown.stack} in {shown.region}: {_count(counts['resources'], 'resource')}"
    for group in shown.groups:
        yield ""
        yield f"{group.name} ({group.type.rpartition(':')[2]})  {len(group.resources)}" if group.type else group.name
        width = max((len(_short(resource.type)) for resource in group.resources), default=0)
        for resource in group.resources:
            marks = ["protected"] if resource.protected else []
            if resource.unknowns:
                marks.append(f"known after deployment: {_listed(resource.unknowns)}")
            suffix = f"  [{'; '.join(marks)}]" if marks else ""
            yield f"  {_short(resource.type):<{width}}  {resource.name}{suffix}"
    yield ""
    yield "settings in force"
    width = max((len(setting["key"]) for setting in shown.settings), default=0)
    for setting in shown.settings:
        yield f"  {setting['key']:<{width}}  {setting['value'] or '-'}  ({setting['source']})"
    yield ""
    yield "what this means"
    for sentence in [*shown.statements, *shown.messages]:
        yield f"  - {sentence}"
    yield ""
    yield "summary"
    yield (
        f"  {_count(counts['resources'], 'resource')} of {_count(counts['types'], 'type')} "
        f"in {_count(counts['components'], 'component')}, {counts['protected']} protected; "
        f"{_count(counts['unknown_properties'], 'property', 'properties')} known only after deployment"
    )
    common = Counter(_service(resource.type) for resource in shown.resources).most_common()
    yield f"  by service: {', '.join(f'{service} {number}' for service, number in common)}"
    yield f"  exports: {', '.join(shown.outputs)}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _short(token: str) -> str:
    """`aws:ec2/subnet:Subnet` as `ec2 Subnet`."""
    return f"{_service(token)} {token.rpartition(':')[2]}"


def _service(token: str) -> str:
    package, _, rest = token.partition(":")
    return rest.split("/")[0] if package == "aws" else package


def _listed(paths: list[str]) -> str:
    names = list(dict.fromkeys(path.split(".")[0].split("[")[0] for path in paths))
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
