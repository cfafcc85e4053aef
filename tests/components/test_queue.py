import json
from typing import Any

import pytest

from components.queue import Queue, QueueArgs
from tests.components.recorder import Record, Recording, untagged

TYPE = "prodkit:index:Queue"
QUEUE = "aws:sqs/queue:Queue"
ARGS: QueueArgs = {"key_arn": "arn:key", "visibility_timeout_seconds": 300}
WORK_ARN = "arn:aws:sqs:us-east-1:123456789012:queue/jobs-work"
DEAD_ARN = "arn:aws:sqs:us-east-1:123456789012:queue/jobs-dead"


@pytest.fixture(scope="module")
def recording(record: Record) -> Recording:
    return record(lambda: Queue("jobs", {**ARGS, "tags": {"team": "a"}}))


def test_work_is_encrypted_hidden_while_it_is_done_and_given_up_in_the_end(recording: Recording) -> None:
    inputs = dict(recording.one(QUEUE, "jobs-work").inputs)
    redrive = json.loads(inputs.pop("redrivePolicy"))
    assert redrive == {"deadLetterTargetArn": DEAD_ARN, "maxReceiveCount": 5}
    assert isinstance(redrive["maxReceiveCount"], int)
    assert inputs == {
        "kmsMasterKeyId": "arn:key",
        "messageRetentionSeconds": 14 * 86400,
        "receiveWaitTimeSeconds": 20,
        "visibilityTimeoutSeconds": 300,
        "tags": {"team": "a"},
    }


def test_what_could_not_be_done_is_kept_as_long_as_sqs_keeps_anything(recording: Recording) -> None:
    assert recording.one(QUEUE, "jobs-dead").inputs == {
        "kmsMasterKeyId": "arn:key",
        "messageRetentionSeconds": 14 * 86400,
        "tags": {"team": "a"},
    }


def test_only_this_queue_gives_up_into_the_dead_letter_queue(recording: Recording) -> None:
    allow = recording.one("aws:sqs/redriveAllowPolicy:RedriveAllowPolicy")
    assert allow.inputs["queueUrl"] == "https://sqs.test/jobs-dead"
    assert allow.json("redriveAllowPolicy") == {"redrivePermission": "byQueue", "sourceQueueArns": [WORK_ARN]}


def test_both_queues_refuse_whoever_does_not_use_tls(recording: Recording) -> None:
    policies = recording.all("aws:sqs/queuePolicy:QueuePolicy")
    assert [policy.inputs["queueUrl"].rpartition("/")[2] for policy in policies] == ["jobs-dead", "jobs-work"]
    for policy, arn in zip(policies, (DEAD_ARN, WORK_ARN), strict=True):
        (deny,) = policy.json("policy")["Statement"]
        assert (deny["Effect"], deny["Principal"], deny["Action"], deny["Resource"]) == ("Deny", "*", ["sqs:*"], arn)
        assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize(
    ("grant", "actions"),
    [
        ("send_policy", ["sqs:SendMessage"]),
        (
            "consume_policy",
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"],
        ),
    ],
)
def test_a_grant_covers_its_side_of_this_queue(recording: Recording, grant: str, actions: list[str]) -> None:
    use, key = json.loads(recording.outputs(TYPE)[grant])["Statement"]
    assert (use["Action"], use["Resource"]) == (actions, WORK_ARN)
    assert key["Resource"] == "arn:key"
    assert key["Condition"] == {"StringEquals": {"kms:ViaService": ["sqs.us-east-1.amazonaws.com"]}}


def test_the_outputs_name_both_queues(recording: Recording) -> None:
    outputs = recording.outputs(TYPE)
    assert {field: outputs[field] for field in ("url", "arn", "name", "dead_letter_name", "dead_letter_arn")} == {
        "url": "https://sqs.test/jobs-work",
        "arn": WORK_ARN,
        "name": "jobs-work",
        "dead_letter_name": "jobs-dead",
        "dead_letter_arn": DEAD_ARN,
    }


def test_queues_belong_to_the_component_and_are_tagged(recording: Recording) -> None:
    assert recording.strays(TYPE) == []
    assert untagged(recording, {"team": "a"}) == []


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"visibility_timeout_seconds": 43201}, "visibility_timeout_seconds=43201 .*; choose 1 to 43200 seconds"),
        ({"max_receives": 0}, "max_receives=0 .*; choose 1 to 1000 receives"),
        ({"retention_days": 15}, "retention_days=15 .*; choose 1 to 14 days"),
        ({"retention": 1}, "unknown argument 'retention'; did you mean 'retention_days'"),
    ],
)
def test_what_sqs_refuses_is_refused_here(record: Record, wrong: dict[str, Any], fix: str) -> None:
    args: Any = {**ARGS, **wrong}
    with pytest.raises(ValueError, match=f"Queue: {fix}"):
        record(lambda: Queue("jobs", args))
