"""How each resource that the app talks to is made in the emulated AWS, from the inputs that the program registered.

One function a type token: it gets the clients, the logical name and the inputs (camelCase), makes the thing through
boto3 and returns its physical id and its real attributes. What the emulator cannot keep is left out and says so.
"""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from botocore.config import Config

from local.synthetic import ACCOUNT

Inputs = Mapping[str, Any]
Made = tuple[str, dict[str, Any]]
"""Physical id and outputs."""


class Aws:
    """Clients of the emulated AWS, made when first asked for. Safe to share between threads."""

    def __init__(self, url: str, region: str) -> None:
        self.region = region
        self.url = url
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        # Any: which of boto3's services is asked for is only known when a resource is made.
        self._session: Any = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name=region)

    def client(self, service: str) -> Any:
        """The client of a service by boto3's name."""
        with self._lock:  # creating clients is the one thing in boto3 that threads may not do at once
            if service not in self._clients:
                config = Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=30)
                self._clients[service] = self._session.client(service, endpoint_url=self.url, config=config)
            return self._clients[service]


def physical_name(name: str, separator: str = "-") -> str:
    """What the provider's autonaming would make of a logical name: seven random hex digits behind it."""
    return f"{name}{separator}{secrets.token_hex(4)[:7]}"


def _bucket(aws: Aws, name: str, inputs: Inputs) -> Made:
    bucket = inputs.get("bucket") or physical_name(
        inputs.get("bucketPrefix") or name, "" if inputs.get("bucketPrefix") else "-"
    )
    where = {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    aws.client("s3").create_bucket(Bucket=bucket, **where)
    host = f"{bucket}.s3.{aws.region}.amazonaws.com"
    return bucket, {
        "bucket": bucket,
        "arn": f"arn:aws:s3:::{bucket}",
        "region": aws.region,
        "bucketDomainName": f"{bucket}.s3.amazonaws.com",
        "bucketRegionalDomainName": host,
    }


def _versioning(aws: Aws, name: str, inputs: Inputs) -> Made:
    status = inputs["versioningConfiguration"]["status"]
    if status != "Disabled":  # a bucket that was never versioned has no such call
        aws.client("s3").put_bucket_versioning(Bucket=inputs["bucket"], VersioningConfiguration={"Status": status})
    return inputs["bucket"], {}


def _table(aws: Aws, name: str, inputs: Inputs) -> Made:
    table = inputs.get("name") or physical_name(name)
    schema = [{"AttributeName": inputs["hashKey"], "KeyType": "HASH"}]
    if inputs.get("rangeKey"):
        schema.append({"AttributeName": inputs["rangeKey"], "KeyType": "RANGE"})
    attributes = [{"AttributeName": one["name"], "AttributeType": one["type"]} for one in inputs.get("attributes", ())]
    request: dict[str, Any] = {
        "TableName": table,
        "KeySchema": schema,
        "AttributeDefinitions": attributes,
        "BillingMode": inputs.get("billingMode", "PROVISIONED"),
    }
    if request["BillingMode"] == "PROVISIONED":
        request["ProvisionedThroughput"] = _throughput(inputs)
    indexes = [_index(one) for one in inputs.get("globalSecondaryIndexes", ())]
    if indexes:
        request["GlobalSecondaryIndexes"] = indexes
    client = aws.client("dynamodb")
    arn = client.create_table(**request)["TableDescription"]["TableArn"]
    ttl = inputs.get("ttl") or {}
    if ttl.get("enabled"):
        specification = {"Enabled": True, "AttributeName": ttl["attributeName"]}
        client.update_time_to_live(TableName=table, TimeToLiveSpecification=specification)
    return table, {"name": table, "arn": arn}


def _throughput(inputs: Inputs) -> dict[str, int]:
    return {
        "ReadCapacityUnits": int(inputs.get("readCapacity", 1)),
        "WriteCapacityUnits": int(inputs.get("writeCapacity", 1)),
    }


def _index(one: Inputs) -> dict[str, Any]:
    schema = [{"AttributeName": one["hashKey"], "KeyType": "HASH"}]
    if one.get("rangeKey"):
        schema.append({"AttributeName": one["rangeKey"], "KeyType": "RANGE"})
    projection: dict[str, Any] = {"ProjectionType": one["projectionType"]}
    if one.get("nonKeyAttributes"):
        projection["NonKeyAttributes"] = list(one["nonKeyAttributes"])
    return {"IndexName": one["name"], "KeySchema": schema, "Projection": projection}


_QUEUE_ATTRIBUTES = {
    "visibilityTimeoutSeconds": "VisibilityTimeout",
    "messageRetentionSeconds": "MessageRetentionPeriod",
    "maxMessageSize": "MaximumMessageSize",
    "delaySeconds": "DelaySeconds",
    "receiveWaitTimeSeconds": "ReceiveMessageWaitTimeSeconds",
    "redrivePolicy": "RedrivePolicy",
    "fifoQueue": "FifoQueue",
}
"""Left out: the queue policy and server-side encryption, which the emulator would only store."""


def _queue(aws: Aws, name: str, inputs: Inputs) -> Made:
    queue = inputs.get("name") or physical_name(name) + (".fifo" if inputs.get("fifoQueue") else "")
    attributes = {
        ours: _attribute(inputs[theirs]) for theirs, ours in _QUEUE_ATTRIBUTES.items() if inputs.get(theirs) is not None
    }
    client = aws.client("sqs")
    url: str = client.create_queue(QueueName=queue, Attributes=attributes)["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return url, {"url": url, "arn": arn, "name": queue}


def _attribute(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _redrive(aws: Aws, name: str, inputs: Inputs) -> Made:
    url = inputs["queueUrl"]
    aws.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": inputs["redrivePolicy"]})
    return url, {}


def _secret(aws: Aws, name: str, inputs: Inputs) -> Made:
    secret = inputs.get("name") or physical_name(
        inputs.get("namePrefix") or name, "" if inputs.get("namePrefix") else "-"
    )
    arn: str = aws.client("secretsmanager").create_secret(Name=secret)["ARN"]
    return arn, {"arn": arn, "name": secret}


def _secret_version(aws: Aws, name: str, inputs: Inputs) -> Made:
    value = inputs.get("secretString") or inputs.get("secretStringWo")
    answer = aws.client("secretsmanager").put_secret_value(SecretId=inputs["secretId"], SecretString=value)
    return f"{answer['ARN']}|{answer['VersionId']}", {"arn": answer["ARN"], "versionId": answer["VersionId"]}


def _key(aws: Aws, name: str, inputs: Inputs) -> Made:
    made = aws.client("kms").create_key(Description=inputs.get("description", ""))["KeyMetadata"]
    return made["KeyId"], {"arn": made["Arn"], "keyId": made["KeyId"]}


def _application(aws: Aws, name: str, inputs: Inputs) -> Made:
    made = aws.client("appconfig").create_application(Name=inputs.get("name") or physical_name(name))
    arn = f"arn:aws:appconfig:{aws.region}:{ACCOUNT}:application/{made['Id']}"
    return made["Id"], {"arn": arn, "name": made["Name"]}


def _environment(aws: Aws, name: str, inputs: Inputs) -> Made:
    application = inputs["applicationId"]
    made = aws.client("appconfig").create_environment(
        ApplicationId=application, Name=inputs.get("name") or physical_name(name)
    )
    arn = f"arn:aws:appconfig:{aws.region}:{ACCOUNT}:application/{application}/environment/{made['Id']}"
    outputs = {"environmentId": made["Id"], "arn": arn, "name": made["Name"], "state": made["State"]}
    return f"{made['Id']}:{application}", outputs


def _profile(aws: Aws, name: str, inputs: Inputs) -> Made:
    application = inputs["applicationId"]
    made = aws.client("appconfig").create_configuration_profile(
        ApplicationId=application,
        Name=inputs.get("name") or physical_name(name),
        LocationUri=inputs["locationUri"],
        Validators=[{"Type": one["type"], "Content": one["content"]} for one in inputs.get("validators", ())],
    )
    arn = f"arn:aws:appconfig:{aws.region}:{ACCOUNT}:application/{application}/configurationprofile/{made['Id']}"
    return f"{made['Id']}:{application}", {"configurationProfileId": made["Id"], "arn": arn, "name": made["Name"]}


def _hosted_version(aws: Aws, name: str, inputs: Inputs) -> Made:
    application, profile = inputs["applicationId"], inputs["configurationProfileId"]
    made = aws.client("appconfig").create_hosted_configuration_version(
        ApplicationId=application,
        ConfigurationProfileId=profile,
        Content=inputs["content"].encode(),
        ContentType=inputs["contentType"],
    )
    number = made["VersionNumber"]
    return f"{application}/{profile}/{number}", {"versionNumber": number}


def _strategy(aws: Aws, name: str, inputs: Inputs) -> Made:
    made = aws.client("appconfig").create_deployment_strategy(
        Name=inputs.get("name") or physical_name(name),
        DeploymentDurationInMinutes=0,  # nobody waits on a laptop for a gradual start of the first document
        GrowthFactor=float(inputs["growthFactor"]),
    )
    return made["Id"], {"name": made["Name"]}


def _deployment(aws: Aws, name: str, inputs: Inputs) -> Made:
    made = aws.client("appconfig").start_deployment(
        ApplicationId=inputs["applicationId"],
        EnvironmentId=inputs["environmentId"],
        ConfigurationProfileId=inputs["configurationProfileId"],
        ConfigurationVersion=str(inputs["configurationVersion"]),
        DeploymentStrategyId=inputs["deploymentStrategyId"],
    )
    number = made["DeploymentNumber"]
    return f"{inputs['applicationId']}/{inputs['environmentId']}/{number}", {
        "deploymentNumber": number,
        "state": made["State"],
    }


def _topic(aws: Aws, name: str, inputs: Inputs) -> Made:
    """A topic to publish to. Subscriptions stay out: nothing here sends mail."""
    arn = aws.client("sns").create_topic(Name=inputs.get("name") or physical_name(name))["TopicArn"]
    return arn, {"arn": arn}


MAKERS: dict[str, Callable[[Aws, str, Inputs], Made]] = {
    "aws:s3/bucket:Bucket": _bucket,
    # Bucket policies stay out: moto applies "deny what is not TLS" without its condition, and this AWS has no TLS.
    "aws:s3/bucketVersioning:BucketVersioning": _versioning,
    "aws:dynamodb/table:Table": _table,
    "aws:sqs/queue:Queue": _queue,
    "aws:sqs/redrivePolicy:RedrivePolicy": _redrive,
    "aws:sns/topic:Topic": _topic,
    "aws:secretsmanager/secret:Secret": _secret,
    "aws:secretsmanager/secretVersion:SecretVersion": _secret_version,
    "aws:kms/key:Key": _key,
    "aws:appconfig/application:Application": _application,
    "aws:appconfig/environment:Environment": _environment,
    "aws:appconfig/configurationProfile:ConfigurationProfile": _profile,
    "aws:appconfig/hostedConfigurationVersion:HostedConfigurationVersion": _hosted_version,
    "aws:appconfig/deploymentStrategy:DeploymentStrategy": _strategy,
    "aws:appconfig/deployment:Deployment": _deployment,
}
