"""What a step reads from the engine's events, and what it lets pass."""

import json
from pathlib import Path

from tests.engine.life import Step, read_events

URN = "urn:pulumi:dev::prodkit::aws:sqs/queue:Queue::queue-work"


def read(folder: Path, *events: object) -> Step:
    """A step whose event log holds these."""
    log = folder / "events"
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    step = Step("preview again", 0, 1.0, "")
    read_events(log, step)
    return step


def test_a_change_is_drift_named_by_resource_and_property(tmp_path: Path) -> None:
    change = {"op": "update", "type": "aws:sqs/queue:Queue", "urn": URN, "detailedDiff": {"policy": {}}}
    step = read(
        tmp_path, {"resourcePreEvent": {"metadata": change}}, {"summaryEvent": {"resourceChanges": {"update": 1}}}
    )
    assert step.drift == {"aws:sqs/queue:Queue queue-work": ["policy"]}
    assert "1 update" in step.line


def test_what_stays_the_same_is_no_drift(tmp_path: Path) -> None:
    step = read(tmp_path, {"resOutputsEvent": {"metadata": {"op": "same", "type": "aws:sqs/queue:Queue", "urn": URN}}})
    assert step.drift == {}
