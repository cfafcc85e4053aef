"""Buckets and tables: documents, data and logs; state and ledger."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import between, check_known, checked
from components._policies import (
    Document,
    deny_without_tls,
    document,
    grant,
    log_delivery,
    statement,
    use_key,
)

# What the app keeps under this prefix it promises to forget a day earlier (app/deferred/requests.py).
DEFERRED_PREFIX = "deferred"
DEFERRED_DAYS = 31


class StorageArgs(TypedDict):
    """What `Storage` takes."""

    key_arn: pulumi.Input[str]
    """ARN of the KMS key of everything but the log bucket, to which load balancers can only write with S3's own key."""

    protect: bool
    """Refuses to delete or replace buckets and tables, in Pulumi and (tables) in AWS. Known before deployment."""

    document_versions_days: NotRequired[pulumi.Input[int]]
    """Days a deleted or overwritten object of the document and data buckets can be restored, and after which it is
    really gone, 1-3650; default 90."""

    log_days: NotRequired[pulumi.Input[int]]
    """Days access logs are kept, 1-3650; default 90."""

    force_destroy: NotRequired[bool]
    """Deletes the objects of a bucket with the bucket, for stacks whose data nobody needs; default false."""

    tags: NotRequired[pulumi.Input[Mapping[str, pulumi.Input[str]]]]
    """Tags of every resource."""


class Storage(pulumi.ComponentResource):
    """Private, versioned, encrypted buckets that accept TLS only, and tables that can be restored to any second."""

    documents_bucket: pulumi.Output[str]
    """Name of the bucket of tenants' documents."""
    documents_bucket_arn: pulumi.Output[str]
    """ARN of the bucket of tenants' documents."""
    data_bucket: pulumi.Output[str]
    """Name of the bucket of datasets, batches and build sources."""
    data_bucket_arn: pulumi.Output[str]
    """ARN of the bucket of datasets, batches and build sources."""
    logs_bucket: pulumi.Output[str]
    """Name of the bucket of access logs; usable once its policy is, which this output waits for."""
    logs_bucket_arn: pulumi.Output[str]
    """ARN of the bucket of access logs."""
    state_table: pulumi.Output[str]
    """Name of the table of keys, documents and switches; items end at `expires_at`."""
    state_table_arn: pulumi.Output[str]
    """ARN of the state table."""
    ledger_table: pulumi.Output[str]
    """Name of the table of what was spent."""
    ledger_table_arn: pulumi.Output[str]
    """ARN of the ledger table."""
    app_policy: pulumi.Output[str]
    """IAM policy (JSON) of the app: its documents and data, its items; no deletion in the ledger, no logs."""
    ledger_policy: pulumi.Output[str]
    """IAM policy (JSON) of who audits the ledger: its items alone, and no deletion."""

    def __init__(self, name: str, args: StorageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Storage", args, StorageArgs)
        days = between(1, 3650, "days")
        version_days = checked("Storage", "document_versions_days", args.get("document_versions_days", 90), days)
        log_days = checked("Storage", "log_days", args.get("log_days", 90), days)
        if args["protect"] and args.get("force_destroy", False):
            raise ValueError("Storage: force_destroy=True with protect=True contradict each other; choose one.")

        super().__init__("prodkit:index:Storage", name, {}, opts)

        invoke = pulumi.InvokeOptions(parent=self)
        account_id = aws.get_caller_identity_output(opts=invoke).account_id
        region = aws.get_region_output(opts=invoke).region

        logs = self._bucket(f"{name}-logs", args, key_arn=None)
        logs_ready = self._settle(
            f"{name}-logs",
            logs,
            extra=log_delivery(logs.arn, account_id),
            rules=_lifecycle(version_days=1, object_days=log_days),
        )
        documents = self._bucket(f"{name}-documents", args, key_arn=args["key_arn"])
        data = self._bucket(f"{name}-data", args, key_arn=args["key_arn"])
        for purpose, bucket in (("documents", documents), ("data", data)):
            rules = _lifecycle(version_days=version_days)
            if purpose == "documents":
                rules.append(_deferred_requests())
            self._settle(f"{name}-{purpose}", bucket, extra=[], rules=rules)
            aws.s3.BucketLogging(
                f"{name}-{purpose}-logging",
                bucket=bucket.bucket,
                target_bucket=logs.bucket,
                target_prefix=f"s3/{purpose}/",
                opts=pulumi.ResourceOptions(parent=self, depends_on=[logs_ready]),
            )
        state = self._table(f"{name}-state", args, expires=True)
        ledger = self._table(f"{name}-ledger", args, expires=False)

        self.documents_bucket, self.documents_bucket_arn = documents.bucket, documents.arn
        self.data_bucket, self.data_bucket_arn = data.bucket, data.arn
        # a load balancer tries to write when it is told the name, and is refused while the policy does not exist
        self.logs_bucket = pulumi.Output.all(logs.bucket, logs_ready.id).apply(lambda known: str(known[0]))
        self.logs_bucket_arn = logs.arn
        self.state_table, self.state_table_arn = state.name, state.arn
        self.ledger_table, self.ledger_table_arn = ledger.name, ledger.arn
        s3, dynamodb = (pulumi.Output.format("{0}.{1}.amazonaws.com", each, region) for each in ("s3", "dynamodb"))
        self.app_policy = grant(
            *_app_statements(documents.arn, data.arn, state.arn, ledger.arn), use_key(args["key_arn"], [s3, dynamodb])
        )
        self.ledger_policy = grant(_ledger_statement(ledger.arn), use_key(args["key_arn"], [dynamodb]))
        self.register_outputs(
            {
                "documents_bucket": self.documents_bucket,
                "documents_bucket_arn": self.documents_bucket_arn,
                "data_bucket": self.data_bucket,
                "data_bucket_arn": self.data_bucket_arn,
                "logs_bucket": self.logs_bucket,
                "logs_bucket_arn": self.logs_bucket_arn,
                "state_table": self.state_table,
                "state_table_arn": self.state_table_arn,
                "ledger_table": self.ledger_table,
                "ledger_table_arn": self.ledger_table_arn,
                "app_policy": self.app_policy,
                "ledger_policy": self.ledger_policy,
            }
        )

    def _bucket(self, name: str, args: StorageArgs, key_arn: pulumi.Input[str] | None) -> aws.s3.Bucket:
        """A bucket that encrypts: with the key, or with S3's own when there is none."""
        bucket = aws.s3.Bucket(
            name,
            force_destroy=args.get("force_destroy", False),
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self, protect=args["protect"]),
        )
        default: aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgsDict
        if key_arn is None:
            default = {"sse_algorithm": "AES256"}
        else:
            default = {"sse_algorithm": "aws:kms", "kms_master_key_id": key_arn}
        aws.s3.BucketServerSideEncryptionConfiguration(
            f"{name}-encryption",
            bucket=bucket.bucket,
            # a bucket key asks KMS once for many objects instead of once for each
            rules=[
                {"apply_server_side_encryption_by_default": default, "bucket_key_enabled": key_arn is not None},
            ],
            opts=pulumi.ResourceOptions(parent=self),
        )
        return bucket

    def _settle(
        self,
        name: str,
        bucket: aws.s3.Bucket,
        extra: Sequence[Document],
        rules: list[aws.s3.BucketLifecycleConfigurationRuleArgsDict],
    ) -> aws.s3.BucketPolicy:
        """What makes a bucket private, recoverable and finite; returns its policy."""
        aws.s3.BucketOwnershipControls(
            f"{name}-ownership",
            bucket=bucket.bucket,
            rule={"object_ownership": "BucketOwnerEnforced"},
            opts=pulumi.ResourceOptions(parent=self),
        )
        block = aws.s3.BucketPublicAccessBlock(
            f"{name}-private",
            bucket=bucket.bucket,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=pulumi.ResourceOptions(parent=self),
        )
        versioning = aws.s3.BucketVersioning(
            f"{name}-versioning",
            bucket=bucket.bucket,
            versioning_configuration={"status": "Enabled"},
            opts=pulumi.ResourceOptions(parent=self),
        )
        aws.s3.BucketLifecycleConfiguration(
            f"{name}-lifecycle",
            bucket=bucket.bucket,
            rules=rules,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[versioning]),
        )
        whole = [bucket.arn, pulumi.Output.format("{0}/*", bucket.arn)]
        return aws.s3.BucketPolicy(
            f"{name}-policy",
            bucket=bucket.bucket,
            policy=pulumi.Output.json_dumps(document(deny_without_tls(["s3:*"], whole), *extra)),
            # S3 refuses two changes of a bucket's access at the same moment
            opts=pulumi.ResourceOptions(parent=self, depends_on=[block]),
        )

    def _table(self, name: str, args: StorageArgs, *, expires: bool) -> aws.dynamodb.Table:
        """A table with keys `pk` and `sk`, both text."""
        return aws.dynamodb.Table(
            name,
            billing_mode="PAY_PER_REQUEST",
            hash_key="pk",
            range_key="sk",
            attributes=[{"name": "pk", "type": "S"}, {"name": "sk", "type": "S"}],
            server_side_encryption={"enabled": True, "kms_key_arn": args["key_arn"]},
            point_in_time_recovery={"enabled": True},
            ttl={"attribute_name": "expires_at", "enabled": True} if expires else None,
            deletion_protection_enabled=args["protect"],
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self, protect=args["protect"]),
        )


def _lifecycle(
    *, version_days: pulumi.Input[int], object_days: pulumi.Input[int] | None = None
) -> list[aws.s3.BucketLifecycleConfigurationRuleArgsDict]:
    """Rules that keep old versions `version_days`, and objects `object_days` (None: for ever)."""
    rules: list[aws.s3.BucketLifecycleConfigurationRuleArgsDict] = [
        {
            "id": "unfinished-uploads",
            "status": "Enabled",
            "filter": {},
            "abort_incomplete_multipart_upload": {"days_after_initiation": 1},
        },
        {
            "id": "old-versions",
            "status": "Enabled",
            "filter": {},
            "noncurrent_version_expiration": {"noncurrent_days": version_days},
        },
    ]
    if object_days is not None:
        rules.append({"id": "objects", "status": "Enabled", "filter": {}, "expiration": {"days": object_days}})
    else:
        # what is left of a deleted object once its last version is gone
        rules.append(
            {"id": "markers", "status": "Enabled", "filter": {}, "expiration": {"expired_object_delete_marker": True}}
        )
    return rules


def _deferred_requests() -> aws.s3.BucketLifecycleConfigurationRuleArgsDict:
    """The app forgets a request that may wait, and its answer, after 30 days; this is for what it left behind."""
    return {
        "id": "deferred-requests",
        "status": "Enabled",
        "filter": {"prefix": f"{DEFERRED_PREFIX}/"},
        "expiration": {"days": DEFERRED_DAYS},
    }


_READ_WRITE = (
    "dynamodb:BatchGetItem",
    "dynamodb:BatchWriteItem",
    "dynamodb:ConditionCheckItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
    "dynamodb:UpdateItem",
)


def _app_statements(
    documents: pulumi.Output[str], data: pulumi.Output[str], state: pulumi.Output[str], ledger: pulumi.Output[str]
) -> list[Document]:
    objects = [pulumi.Output.format("{0}/*", documents), pulumi.Output.format("{0}/*", data)]
    return [
        statement(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], objects, sid="Objects"),
        # without it a missing object answers 403 instead of 404
        statement(["s3:ListBucket"], [documents, data], sid="Buckets"),
        statement([*_READ_WRITE, "dynamodb:DeleteItem"], state, sid="State"),
        _ledger_statement(ledger),
    ]


def _ledger_statement(ledger: pulumi.Output[str]) -> Document:
    # BatchWriteItem can delete, and what was spent stays on record
    no_batch = [action for action in _READ_WRITE if action != "dynamodb:BatchWriteItem"]
    return statement(no_batch, ledger, sid="Ledger")
