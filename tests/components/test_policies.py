from typing import Any

import pulumi
from hypothesis import given
from hypothesis import strategies as st

from components._policies import (
    account_only,
    deny_without_tls,
    document,
    grant,
    log_delivery,
    own_account,
    protect_tasks,
    service_trust,
    statement,
    use_key,
)
from tests.components.recorder import Record, resolved

TEXT = st.text("abcdefghijklmnopqrstuvwxyz:*", min_size=1, max_size=20)


@given(st.lists(TEXT, min_size=1, max_size=3), st.lists(TEXT, min_size=1, max_size=3))
def test_a_statement_says_what_was_asked_and_no_more(actions: list[str], resources: list[str]) -> None:
    assert statement(actions, resources) == {"Effect": "Allow", "Action": actions, "Resource": resources}


def test_a_document_has_the_current_version() -> None:
    one = statement(["s3:GetObject"], "arn", sid="One")
    assert document(one) == {"Version": "2012-10-17", "Statement": [one]}


def test_a_service_takes_a_role_for_this_account_and_these_sources_only() -> None:
    trust = service_trust("ecs-tasks.amazonaws.com", "123456789012", "arn:aws:ecs:us-east-1:123456789012:*")
    assert trust["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": "123456789012"},
                "ArnLike": {"aws:SourceArn": "arn:aws:ecs:us-east-1:123456789012:*"},
            },
        }
    ]


def test_a_service_without_source_arns_is_still_held_to_the_account() -> None:
    (only,) = service_trust("scheduler.amazonaws.com", "123456789012")["Statement"]
    assert only["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_whoever_does_not_use_tls_is_refused_and_nobody_is_allowed() -> None:
    assert deny_without_tls(["s3:*"], ["arn"]) == {
        "Sid": "DenyWithoutTls",
        "Effect": "Deny",
        "Action": ["s3:*"],
        "Resource": ["arn"],
        "Principal": "*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def test_a_key_is_used_through_its_services_and_never_directly() -> None:
    made = use_key("arn:key", ["s3.us-east-1.amazonaws.com"])
    assert made["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert made["Resource"] == "arn:key"
    assert made["Condition"] == {"StringEquals": {"kms:ViaService": ["s3.us-east-1.amazonaws.com"]}}


def test_who_only_reads_cannot_encrypt() -> None:
    assert use_key("arn:key", ["s3.us-east-1.amazonaws.com"], write=False)["Action"] == ["kms:Decrypt"]


def test_a_grant_waits_for_its_outputs(record: Record) -> None:
    made = resolved(record, lambda: grant(statement(["sqs:SendMessage"], pulumi.Output.from_input("arn:queue"))))
    assert made == document(statement(["sqs:SendMessage"], "arn:queue"))


def _gateway(record: Record, service: str) -> dict[str, Any]:
    made = resolved(record, lambda: pulumi.Output.json_dumps(account_only(service, "123456789012", "us-east-1")))
    return dict(made)


def test_a_gateway_reaches_only_what_the_account_owns(record: Record) -> None:
    (own,) = _gateway(record, "dynamodb")["Statement"]
    assert own["Action"] == ["dynamodb:*"]
    assert own["Condition"] == {"StringEquals": {"aws:ResourceAccount": "123456789012"}}


def test_image_layers_still_come_through_the_s3_gateway(record: Record) -> None:
    own, layers = _gateway(record, "s3")["Statement"]
    assert own["Condition"] == {"StringEquals": {"aws:ResourceAccount": "123456789012"}}
    assert layers["Action"] == ["s3:GetObject"]
    assert layers["Resource"] == "arn:aws:s3:::prod-us-east-1-starport-layer-bucket/*"
    assert "Condition" not in layers


def test_log_writers_are_named_and_nobody_reads(record: Record) -> None:
    made = resolved(
        record,
        lambda: pulumi.Output.json_dumps(
            log_delivery(pulumi.Output.from_input("arn:aws:s3:::logs"), pulumi.Output.from_input("123456789012"))
        ),
    )
    assert [(s["Principal"], s["Action"]) for s in made] == [
        ({"Service": "logdelivery.elasticloadbalancing.amazonaws.com"}, ["s3:PutObject"]),
        ({"Service": "logging.s3.amazonaws.com"}, ["s3:PutObject"]),
    ]
    assert made[0]["Resource"] == [
        "arn:aws:s3:::logs/AWSLogs/123456789012/*",
        "arn:aws:s3:::logs/*/AWSLogs/123456789012/*",
    ]
    assert made[1]["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_a_task_holds_tasks_of_its_cluster_and_nothing_else(record: Record) -> None:
    arn = "arn:aws:ecs:us-east-1:123456789012:cluster/dev-cluster"
    made = resolved(record, lambda: grant(protect_tasks(pulumi.Output.from_input(arn))))
    assert made["Statement"] == [
        {
            "Sid": "HoldItself",
            "Effect": "Allow",
            "Action": ["ecs:UpdateTaskProtection"],
            "Resource": "arn:aws:ecs:us-east-1:123456789012:task/dev-cluster/*",
        }
    ]


def test_a_private_address_lets_only_this_account_in_and_only_to_what_it_owns() -> None:
    (allowed,) = own_account("secretsmanager", "123456789012")["Statement"]
    assert allowed["Condition"] == {
        "StringEquals": {"aws:PrincipalAccount": "123456789012", "aws:ResourceAccount": "123456789012"}
    }
    (registry,) = own_account("ecr.dkr", "123456789012")["Statement"]
    assert registry["Condition"] == {"StringEquals": {"aws:PrincipalAccount": "123456789012"}}
