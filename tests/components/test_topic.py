import re
from typing import Any

import pytest

from components.topic import Topic
from tests.components.recorder import ACCOUNT, REGION, Record, Recording

TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:topic/topic-topic"
BASE: dict[str, Any] = {
    "stack": "test",
    "email": ["ops@example.com", "lead@example.com"],
    "key_arn": "arn:key",
    "tags": {"Stack": "test"},
}


def recorded(record: Record, **more: Any) -> Recording:
    args: Any = {**BASE, **more}
    return record(lambda: Topic("topic", args))


def test_the_topic_is_encrypted_and_takes_messages_only_from_this_account(record: Record) -> None:
    made = recorded(record)
    assert made.one("aws:sns/topic:Topic").inputs["kmsMasterKeyId"] == "arn:key"
    statements = made.one("aws:sns/topicPolicy:TopicPolicy").json("policy")["Statement"]
    allowed = [s for s in statements if s["Effect"] == "Allow"]
    assert [s["Principal"]["Service"] for s in allowed] == [
        "cloudwatch.amazonaws.com",
        "budgets.amazonaws.com",
        "costalerts.amazonaws.com",
    ]
    for statement in allowed:
        assert statement["Action"] == ["sns:Publish"]
        assert statement["Resource"] == TOPIC
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    (denied,) = [s for s in statements if s["Effect"] == "Deny"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_taking_an_address_off_the_list_leaves_the_others_alone(record: Record) -> None:
    kind = "aws:sns/topicSubscription:TopicSubscription"
    both = {r.name: r.inputs["endpoint"] for r in recorded(record).all(kind)}
    one = {r.name: r.inputs["endpoint"] for r in recorded(record, email=["lead@example.com"]).all(kind)}
    assert sorted(both.values()) == ["lead@example.com", "ops@example.com"]
    assert one.items() < both.items()
    assert recorded(record, email=[]).all(kind) == []


def test_a_pager_gets_what_people_get(record: Record) -> None:
    made = recorded(record, webhooks=["https://pager.example.com/sns"], email=[])
    [subscription] = made.all("aws:sns/topicSubscription:TopicSubscription")
    assert (subscription.inputs["protocol"], subscription.inputs["endpoint"]) == (
        "https",
        "https://pager.example.com/sns",
    )


def test_a_task_may_publish_and_use_the_key_through_sns_alone(record: Record) -> None:
    import json

    policy = json.loads(recorded(record).outputs("prodkit:index:Topic")["publish_policy"])
    publish, key = policy["Statement"]
    assert (publish["Action"], publish["Resource"]) == (["sns:Publish"], TOPIC)
    assert key["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert key["Condition"] == {"StringEquals": {"kms:ViaService": [f"sns.{REGION}.amazonaws.com"]}}


def test_every_child_is_parented_and_tagged(record: Record) -> None:
    made = recorded(record)
    assert made.strays("prodkit:index:Topic") == []
    assert made.one("aws:sns/topic:Topic").inputs["tags"] == {"Stack": "test"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"email": ["ops"]}, "email='ops' is no e-mail address; use name@example.com."),
        ({"email": [""]}, "email='' is no e-mail address"),
        ({"email": ["a@b.example", "a@b.example"]}, "email=['a@b.example', 'a@b.example'] names an address twice"),
        ({"webhooks": ["http://a.example"]}, "webhooks='http://a.example' is no https address"),
        ({"webhooks": ["https://u:p@a.example/"]}, "webhooks='https://u:p@a.example/' is no https address"),
        ({"webhooks": ["https://a.example/?token=x"]}, "webhooks='https://a.example/?token=x' is no https address"),
        ({"webhooks": ["https://a.example/"] * 2}, "names an address twice; keep one."),
        ({"emails": []}, "unknown argument 'emails'; did you mean 'email'?"),
        ({"key_arn": None}, "missing argument 'key_arn'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(record: Record, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^Topic: .*{re.escape(message)}"):
        recorded(record, **wrong)
