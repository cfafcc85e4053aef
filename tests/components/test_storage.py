import json
from typing import Any

import pytest

from app.deferred.requests import PREFIX, RETENTION_DAYS
from components.storage import Storage, StorageArgs
from tests.components.recorder import Record, Recording, untagged

TYPE = "prodkit:index:Storage"
BUCKET = "aws:s3/bucket:Bucket"
TABLE = "aws:dynamodb/table:Table"
ARGS: StorageArgs = {"key_arn": "arn:key", "protect": False, "tags": {"team": "a"}}
BUCKETS = ["storage-data", "storage-documents", "storage-logs"]


def arn(name: str) -> str:
    return f"arn:aws:s3:us-east-1:123456789012:bucket/{name}"


@pytest.fixture(scope="module")
def recording(record: Record) -> Recording:
    return record(lambda: Storage("storage", ARGS))


def statements(recording: Recording, bucket: str) -> dict[str, dict[str, Any]]:
    policy = recording.one("aws:s3/bucketPolicy:BucketPolicy", f"{bucket}-policy").json("policy")
    return {statement["Sid"]: statement for statement in policy["Statement"]}


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_bucket_is_private_versioned_and_has_no_acls(recording: Recording, bucket: str) -> None:
    assert recording.one("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", f"{bucket}-private").inputs == {
        "bucket": bucket,
        "blockPublicAcls": True,
        "blockPublicPolicy": True,
        "ignorePublicAcls": True,
        "restrictPublicBuckets": True,
    }
    versioning = recording.one("aws:s3/bucketVersioning:BucketVersioning", f"{bucket}-versioning")
    assert versioning.inputs == {"bucket": bucket, "versioningConfiguration": {"status": "Enabled"}}
    ownership = recording.one("aws:s3/bucketOwnershipControls:BucketOwnershipControls", f"{bucket}-ownership")
    assert ownership.inputs == {"bucket": bucket, "rule": {"objectOwnership": "BucketOwnerEnforced"}}


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_bucket_refuses_whoever_does_not_use_tls(recording: Recording, bucket: str) -> None:
    deny = statements(recording, bucket)["DenyWithoutTls"]
    assert (deny["Effect"], deny["Principal"], deny["Action"]) == ("Deny", "*", ["s3:*"])
    assert deny["Resource"] == [arn(bucket), f"{arn(bucket)}/*"]
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize("bucket", ["storage-data", "storage-documents"])
def test_documents_and_data_are_encrypted_with_the_key(recording: Recording, bucket: str) -> None:
    assert _encryption(recording, bucket) == {
        "applyServerSideEncryptionByDefault": {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": "arn:key"},
        "bucketKeyEnabled": True,
    }


def test_logs_are_encrypted_in_the_only_way_that_load_balancers_can_write(recording: Recording) -> None:
    assert _encryption(recording, "storage-logs") == {
        "applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"},
        "bucketKeyEnabled": False,
    }


def _encryption(recording: Recording, bucket: str) -> Any:
    type_ = "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    (rule,) = recording.one(type_, f"{bucket}-encryption").inputs["rules"]
    return rule


def test_load_balancers_and_buckets_of_this_account_write_logs(recording: Recording) -> None:
    allowed = statements(recording, "storage-logs")
    assert set(allowed) == {"DenyWithoutTls", "LoadBalancersWrite", "BucketsWrite"}
    assert allowed["LoadBalancersWrite"]["Resource"] == [
        f"{arn('storage-logs')}/AWSLogs/123456789012/*",
        f"{arn('storage-logs')}/*/AWSLogs/123456789012/*",
    ]


@pytest.mark.parametrize("purpose", ["data", "documents"])
def test_access_to_documents_and_data_is_logged(recording: Recording, purpose: str) -> None:
    logging = recording.one("aws:s3/bucketLogging:BucketLogging", f"storage-{purpose}-logging")
    assert logging.inputs == {
        "bucket": f"storage-{purpose}",
        "targetBucket": "storage-logs",
        "targetPrefix": f"s3/{purpose}/",
    }
    assert any(urn.endswith("::storage-logs-policy") for urn in logging.dependencies)


@pytest.mark.parametrize(
    ("bucket", "kept"),
    [
        ("storage-documents", {"noncurrentVersionExpiration": {"noncurrentDays": 7}}),
        ("storage-data", {"noncurrentVersionExpiration": {"noncurrentDays": 7}}),
        ("storage-logs", {"expiration": {"days": 8}}),
    ],
)
def test_retention_is_what_was_promised(record: Record, bucket: str, kept: dict[str, Any]) -> None:
    args: StorageArgs = {**ARGS, "document_versions_days": 7, "log_days": 8}
    rules = _rules(record(lambda: Storage("storage", args)), bucket)
    assert any(kept.items() <= rule.items() for rule in rules)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_no_unfinished_upload_and_no_old_version_stays_for_ever(recording: Recording, bucket: str) -> None:
    rules = _rules(recording, bucket)
    assert all(rule["status"] == "Enabled" for rule in rules)
    rules = [rule for rule in rules if rule["filter"] == {}]
    assert any("abortIncompleteMultipartUpload" in rule for rule in rules)
    assert any("noncurrentVersionExpiration" in rule for rule in rules)


def test_documents_never_expire_by_themselves(recording: Recording) -> None:
    rules = [rule for rule in _rules(recording, "storage-documents") if "expiration" in rule]
    assert [rule["expiration"] for rule in rules if rule["filter"] == {}] == [{"expiredObjectDeleteMarker": True}]


def test_deferred_requests_go_a_day_after_the_app_forgot_them(recording: Recording) -> None:
    [rule] = [rule for rule in _rules(recording, "storage-documents") if rule["filter"] != {}]
    assert rule["filter"] == {"prefix": f"{PREFIX}/"}
    assert rule["expiration"] == {"days": RETENTION_DAYS + 1}


def _rules(recording: Recording, bucket: str) -> Any:
    type_ = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
    return recording.one(type_, f"{bucket}-lifecycle").inputs["rules"]


def test_the_state_table_forgets_what_expired_and_can_be_restored(recording: Recording) -> None:
    assert recording.one(TABLE, "storage-state").inputs == {
        "billingMode": "PAY_PER_REQUEST",
        "hashKey": "pk",
        "rangeKey": "sk",
        "attributes": [{"name": "pk", "type": "S"}, {"name": "sk", "type": "S"}],
        "serverSideEncryption": {"enabled": True, "kmsKeyArn": "arn:key"},
        "pointInTimeRecovery": {"enabled": True},
        "ttl": {"attributeName": "expires_at", "enabled": True},
        "deletionProtectionEnabled": False,
        "tags": {"team": "a"},
    }


def test_the_ledger_differs_only_in_forgetting_nothing(recording: Recording) -> None:
    state = dict(recording.one(TABLE, "storage-state").inputs)
    del state["ttl"]
    assert recording.one(TABLE, "storage-ledger").inputs == state


@pytest.mark.parametrize("protect", [True, False])
def test_protection_covers_what_holds_data_and_nothing_else(record: Record, protect: bool) -> None:
    recording = record(lambda: Storage("storage", {**ARGS, "protect": protect}))
    protected = {resource.type for resource in recording.resources if resource.protect}
    assert protected == ({BUCKET, TABLE} if protect else set())
    assert all(table.inputs["deletionProtectionEnabled"] is protect for table in recording.all(TABLE))


def test_objects_are_deleted_with_a_bucket_only_when_asked(record: Record, recording: Recording) -> None:
    assert [bucket.inputs["forceDestroy"] for bucket in recording.all(BUCKET)] == [False] * 3
    forced = record(lambda: Storage("storage", {**ARGS, "force_destroy": True}))
    assert [bucket.inputs["forceDestroy"] for bucket in forced.all(BUCKET)] == [True] * 3


def test_the_app_may_use_its_objects_and_items_but_not_erase_what_was_spent(recording: Recording) -> None:
    outputs = recording.outputs(TYPE)
    allowed = {s["Sid"]: s for s in json.loads(outputs["app_policy"])["Statement"]}
    documents, data = arn("storage-documents"), arn("storage-data")
    assert allowed["Objects"]["Resource"] == [f"{documents}/*", f"{data}/*"]
    assert allowed["Buckets"]["Resource"] == [documents, data]
    assert allowed["State"]["Resource"] == outputs["state_table_arn"]
    assert "dynamodb:DeleteItem" in allowed["State"]["Action"]
    assert allowed["Ledger"]["Resource"] == outputs["ledger_table_arn"]
    assert {"dynamodb:DeleteItem", "dynamodb:BatchWriteItem"}.isdisjoint(allowed["Ledger"]["Action"])
    assert allowed["UseKey"]["Condition"] == {
        "StringEquals": {"kms:ViaService": ["s3.us-east-1.amazonaws.com", "dynamodb.us-east-1.amazonaws.com"]}
    }
    assert not any("*" in action for statement in allowed.values() for action in statement["Action"])
    audit = {s["Sid"]: s for s in json.loads(outputs["ledger_policy"])["Statement"]}
    assert set(audit) == {"Ledger", "UseKey"}
    assert audit["Ledger"] == allowed["Ledger"]


def test_the_outputs_name_every_bucket_and_table(recording: Recording) -> None:
    outputs = recording.outputs(TYPE)
    names = ("documents_bucket", "data_bucket", "logs_bucket", "state_table", "ledger_table")
    assert [outputs[name] for name in names] == [
        "storage-documents",
        "storage-data",
        "storage-logs",
        "storage-state",
        "storage-ledger",
    ]
    assert all(outputs[f"{name}_arn"].endswith(outputs[name]) for name in names)


def test_storage_belongs_to_the_component_and_is_tagged(recording: Recording) -> None:
    assert recording.strays(TYPE) == []
    assert untagged(recording, {"team": "a"}) == []


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"protect": True, "force_destroy": True}, "force_destroy=True with protect=True contradict each other"),
        ({"document_versions_days": 0}, "document_versions_days=0 .*; choose 1 to 3650 days"),
        ({"log_days": 3651}, "log_days=3651 .*; choose 1 to 3650 days"),
        ({"protected": True}, "unknown argument 'protected'; did you mean 'protect'"),
    ],
)
def test_a_contradiction_stops_before_anything_registers(record: Record, wrong: dict[str, Any], fix: str) -> None:
    args: Any = {**ARGS, **wrong}
    with pytest.raises(ValueError, match=f"Storage: {fix}"):
        record(lambda: Storage("storage", args))
