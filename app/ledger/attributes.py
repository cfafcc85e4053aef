"""A budget item in DynamoDB's words."""

from __future__ import annotations

from typing import Any

from app.ledger.item import ASIDE_OF, Item, Slot


def parse_item(attributes: dict[str, Any]) -> Item:
    """An item out of DynamoDB's attributes."""
    return Item(
        limit=_number(attributes, "limit"),
        avail=_number(attributes, "avail"),
        spent=_number(attributes, "spent"),
        ver=_number(attributes, "ver"),
        slots={name: _slot(value["M"]) for name, value in attributes.get("slots", {"M": {}})["M"].items()},
        susp={name: _slot(value["M"]) for name, value in attributes.get("susp", {"M": {}})["M"].items()},
        tomb={name: int(value["N"]) for name, value in attributes.get("tomb", {"M": {}})["M"].items()},
        aside=_number(attributes, "aside"),
        asides={
            name.removeprefix(ASIDE_OF): int(value["N"])
            for name, value in attributes.items()
            if name.removeprefix(ASIDE_OF).isdecimal()
        },
    )


def item_attributes(item: Item) -> dict[str, Any]:
    """DynamoDB's attributes of an item, without its key."""
    return {
        "limit": value_of(item.limit),
        "avail": value_of(item.avail),
        "spent": value_of(item.spent),
        "ver": value_of(item.ver),
        "slots": {"M": {name: value_of(slot) for name, slot in item.slots.items()}},
        "susp": {"M": {name: value_of(slot) for name, slot in item.susp.items()}},
        "tomb": {"M": {name: value_of(at) for name, at in item.tomb.items()}},
        "aside": value_of(item.aside),
    }


def _number(attributes: dict[str, Any], name: str) -> int:
    return int(attributes[name]["N"]) if name in attributes else 0


def _slot(attributes: dict[str, Any]) -> Slot:
    return Slot(*(int(attributes[name]["N"]) for name in Slot._fields))


def value_of(value: int | Slot) -> dict[str, Any]:
    """A number or a slot."""
    if isinstance(value, Slot):
        return {"M": {name: {"N": str(number)} for name, number in value._asdict().items()}}
    return {"N": str(value)}
