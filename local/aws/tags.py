"""Tags in AWS's two spellings, and the three operations of a service whose tags hang on ARNs."""

from collections.abc import Iterable, Mapping

from local.aws.call import Call, Record
from local.aws.registry import api


def mapping(tags: Mapping[str, str] | Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """Tags in either spelling as a dictionary."""
    if isinstance(tags, Mapping):
        return dict(tags)
    return {tag["Key"]: tag.get("Value", "") for tag in tags or ()}


def pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as a list of `Key` and `Value`."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tagging(service: str, arn: str, tags: str = "Tags", keys: str = "TagKeys", as_list: bool = False) -> None:
    """Register ListTagsForResource, TagResource and UntagResource; the arguments name the members of their shapes."""

    @api(service, "ListTagsForResource")
    def list_tags(call: Call) -> Record:
        kept = call.tags(call[arn])
        return {tags: pairs(kept) if as_list else dict(kept)}

    @api(service, "TagResource")
    def add_tags(call: Call) -> Record:
        call.tags(call[arn]).update(mapping(call[tags]))
        return {}

    @api(service, "UntagResource")
    def remove_tags(call: Call) -> Record:
        for key in call[keys]:
            call.tags(call[arn]).pop(key, None)
        return {}
