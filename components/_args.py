"""Checks of component arguments that run before anything is registered."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar, cast

import pulumi

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
Tags = pulumi.Input[Mapping[str, pulumi.Input[str]]]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices)}."


def check_known(component: str, args: Mapping[str, Any], args_type: type) -> None:
    """Refuses keys that the TypedDict `args_type` does not have, and the absence of one that it requires.

    A TypedDict checks nothing at run time, so a misspelt key would otherwise be a default that nobody asked for.

    Raises:
        ValueError: naming the component, the key and the nearest known one.
    """
    known = args_type.__annotations__
    for key in args:
        if key not in known:
            raise ValueError(f"{component}: unknown argument {key!r}; {did_you_mean(key, known)}")
    required: frozenset[str] = getattr(args_type, "__required_keys__", frozenset())
    missing = sorted(key for key in required if args.get(key) is None)
    if missing:
        raise ValueError(
            f"{component}: missing argument {', '.join(map(repr, missing))}; add it to {args_type.__name__}."
        )


def checked(component: str, field: str, value: pulumi.Input[T], problem: Callable[[T], str | None]) -> pulumi.Input[T]:
    """`value`, after `problem(value)` found nothing: now when it is plain, at deployment when it is an output.

    `problem` returns None, or what is wrong and how to fix it.

    Raises:
        ValueError: "Component: field=value <problem>".
    """

    def check(known: T) -> T:
        found = problem(known)
        if found:
            raise ValueError(f"{component}: {field}={known!r} {found}")
        return known

    if isinstance(value, pulumi.Output):
        return cast("pulumi.Output[T]", value).apply(check)
    return check(cast(T, value))


def between(low: int, high: int, unit: str) -> Callable[[float], str | None]:
    """A problem finder for `checked`: whole numbers from `low` to `high`, both included."""

    def problem(value: float) -> str | None:
        # bool is an int in Python, and numbers from other languages arrive as floats
        whole = not isinstance(value, bool) and isinstance(value, (int, float)) and value == int(value)
        return None if whole and low <= value <= high else f"is not allowed; choose {low} to {high} {unit}."

    return problem


def one_of(values: Iterable[T], unit: str = "") -> Callable[[T], str | None]:
    """A problem finder for `checked`: one of `values`."""
    allowed = list(values)
    listed = ", ".join(str(value) for value in allowed)

    def problem(value: T) -> str | None:
        return None if value in allowed else f"is not allowed; choose one of {listed}{f' {unit}' if unit else ''}."

    return problem


def choice(component: str, field: str, value: E | str, kind: type[E]) -> E:
    """`value` as a member of `kind`; a plain string is taken by its value.

    Raises:
        ValueError: when no member has that value, naming the nearest one.
    """
    text = value.value if isinstance(value, Enum) else value
    for member in kind:
        if member.value == text:
            return member
    raise ValueError(f"{component}: {field}={text!r} is unknown; {did_you_mean(str(text), [m.value for m in kind])}")


def named(tags: Tags | None, name: str) -> Tags:
    """`tags` with a `Name`, which is what the AWS console shows for things that have no name of their own."""
    if tags is None:
        return {"Name": name}
    if isinstance(tags, Mapping):
        return {**tags, "Name": name}
    known: pulumi.Output[Mapping[str, str]] = pulumi.Output.from_input(cast(Any, tags))
    return known.apply(lambda plain: {**plain, "Name": name})


# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
LOG_RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731),
    *(1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
