"""`python -m preflight`: reviews a stack before it exists. Needs no pulumi command and no account."""

import argparse
import gc
import json
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one review; returns the exit status: 0 done, 2 the stack is unknown or a setting is wrong."""
    parser = argparse.ArgumentParser(prog="python -m preflight", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    planner = verbs.add_parser("plan", help="every resource the stack makes, its settings and what they mean")
    planner.add_argument("--stack", required=True, help="a stack that has a file in stacks/, such as prod")
    planner.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    given = parser.parse_args(arguments)
    import pulumi  # after the arguments, so that --help answers at once

    from preflight.monitor import UnexpectedInvokeError
    from preflight.plan import lines, plan
    from preflight.project import UnknownStackError
    from preflight.record import record

    try:
        shown = plan(record(given.stack))
    except (UnknownStackError, UnexpectedInvokeError, pulumi.RunError, ValueError) as error:
        print(f"prodkit: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(shown.as_document(), indent=2))
    else:
        print("\n".join(lines(shown)))
    return 0


if __name__ == "__main__":
    # A short run that loads a thousand modules: looking for garbage among them costs a fifth of it.
    gc.disable()
    sys.exit(main())
