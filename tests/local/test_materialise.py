"""A small program evaluated against the emulated AWS: what it registers is there, and its outputs are the real ones."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from local import recorded
from local.aws.server import server
from local.emulated import Aws
from local.materialise import Endpoints, Materialiser
from local.synthetic import attributes
from local.twin import Twin
from preflight.record import Recording, evaluate
from preflight.wire import plain

pytestmark = pytest.mark.process

REGION = "us-east-1"
PROGRAM = """
import json
import pulumi
import pulumi_aws as aws

key = aws.kms.Key("data", description="data")
bucket = aws.s3.Bucket("documents")
aws.s3.BucketVersioning("documents-versions", bucket=bucket.bucket, versioning_configuration={"status": "Enabled"})
aws.s3.BucketPolicy("documents-tls", bucket=bucket.bucket, policy=json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*",
     "Condition": {"Bool": {"aws:SecureTransport": "false"}}}]}))
table = aws.dynamodb.Table("state", billing_mode="PAY_PER_REQUEST", hash_key="pk", range_key="sk",
    attributes=[{"name": "pk", "type": "S"}, {"name": "sk", "type": "S"}],
    ttl={"enabled": True, "attribute_name": "expires_at"})
dead = aws.sqs.Queue("dead", message_retention_seconds=1209600)
queue = aws.sqs.Queue("jobs", visibility_timeout_seconds=77,
    redrive_policy=pulumi.Output.json_dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 5}))
secret = aws.secretsmanager.Secret("key", kms_key_id=key.arn)
cache = aws.elasticache.ServerlessCache("cache", engine="valkey")

app = aws.appconfig.Application("models")
environment = aws.appconfig.Environment("models", application_id=app.id)
schema = json.dumps({"type": "object", "required": ["version"]})
profile = aws.appconfig.ConfigurationProfile("models", application_id=app.id, location_uri="hosted",
    validators=[{"type": "JSON_SCHEMA", "content": schema}])
version = aws.appconfig.HostedConfigurationVersion("models", application_id=app.id,
    configuration_profile_id=profile.configuration_profile_id, content=DOCUMENT,
    content_type="application/json")
strategy = aws.appconfig.DeploymentStrategy("models", deployment_duration_in_minutes=0, growth_factor=100,
    replicate_to="NONE")
aws.appconfig.Deployment("models", application_id=app.id, environment_id=environment.environment_id,
    configuration_profile_id=profile.configuration_profile_id,
    configuration_version=version.version_number.apply(str), deployment_strategy_id=strategy.id)

balancer = aws.lb.LoadBalancer("app", idle_timeout=310, client_keep_alive=3600)
group = aws.lb.TargetGroup("app", deregistration_delay=600, load_balancing_algorithm_type="least_outstanding_requests",
    health_check={"path": "/health/ready", "interval": 5, "timeout": 4, "healthy_threshold": 2,
                  "unhealthy_threshold": 3, "matcher": "200"})
for name in ("web", "worker"):
    container = {"name": "app", "essential": True, "command": ["python", "-m", "app", name], "stopTimeout": 90,
        "portMappings": [{"containerPort": 8080}],
        "environment": [{"name": "TABLE", "value": table.name}, {"name": "QUEUE", "value": queue.url},
                        {"name": "BUCKET", "value": bucket.bucket}, {"name": "SECRET", "value": secret.arn},
                        {"name": "CACHE", "value": cache.endpoints[0]["address"]}]}
    task = aws.ecs.TaskDefinition(name, family=f"prodkit-{name}", cpu="512", memory="1024",
        container_definitions=pulumi.Output.json_dumps([container]))
    behind = [{"target_group_arn": group.arn, "container_name": "app", "container_port": 8080}]
    aws.ecs.Service(name, task_definition=task.arn, load_balancers=behind if name == "web" else None)

pulumi.export("zones", aws.get_availability_zones_output(state="available").names)
pulumi.export("ids", [app.id, environment.environment_id, profile.configuration_profile_id])
pulumi.export("key", key.arn)
pulumi.export("dead", dead.url)
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    emulator = server()
    thread = threading.Thread(target=emulator.serve_forever)
    thread.start()
    yield Aws(f"http://127.0.0.1:{emulator.server_port}", REGION)
    emulator.shutdown()
    thread.join()
    emulator.server_close()


def run(aws: Aws, root: Path, document: str) -> Recording:
    (root / "Pulumi.yaml").write_text("name: small\nruntime: python\n")
    (root / "Pulumi.dev.yaml").write_text("config:\n  aws:region: us-east-1\n")
    (root / "__main__.py").write_text(PROGRAM.replace("DOCUMENT", repr(document)))
    mocks = Materialiser(REGION, lambda: Endpoints(aws.url, "127.0.0.1:6399"))
    return evaluate("dev", mocks, root=root, parallel=4)


@pytest.fixture(scope="module")
def recording(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return run(aws, tmp_path_factory.mktemp("program"), '{"version": 1}')


@pytest.fixture(scope="module")
def environment(recording: Recording) -> dict[str, str]:
    return dict(recorded.read(recording).web.environment)


def test_names_and_arns_flow_through_the_programs_own_outputs(aws: Aws, environment: dict[str, str]) -> None:
    assert environment["TABLE"] in aws.client("dynamodb").list_tables()["TableNames"]
    assert aws.client("secretsmanager").describe_secret(SecretId=environment["SECRET"])["ARN"] == environment["SECRET"]
    assert environment["CACHE"] == "127.0.0.1"


def test_a_table_has_its_keys_and_its_expiry(aws: Aws, environment: dict[str, str]) -> None:
    table = aws.client("dynamodb").describe_table(TableName=environment["TABLE"])["Table"]
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    expiry = aws.client("dynamodb").describe_time_to_live(TableName=environment["TABLE"])["TimeToLiveDescription"]
    assert (expiry["TimeToLiveStatus"], expiry["AttributeName"]) == ("ENABLED", "expires_at")


def test_a_bucket_that_denies_plain_http_still_works_here(aws: Aws, environment: dict[str, str]) -> None:
    s3 = aws.client("s3")
    s3.put_object(Bucket=environment["BUCKET"], Key="a", Body=b"1")
    assert s3.get_object(Bucket=environment["BUCKET"], Key="a")["Body"].read() == b"1"
    assert s3.get_bucket_versioning(Bucket=environment["BUCKET"])["Status"] == "Enabled"


def test_a_queue_keeps_its_attributes_and_its_dead_letter_queue(aws: Aws, environment: dict[str, str]) -> None:
    kept = aws.client("sqs").get_queue_attributes(QueueUrl=environment["QUEUE"], AttributeNames=["All"])["Attributes"]
    assert kept["VisibilityTimeout"] == "77"
    assert json.loads(kept["RedrivePolicy"])["maxReceiveCount"] == 5


def test_the_deployed_document_is_served_once_for_each_version(aws: Aws, recording: Recording) -> None:
    application, environment, profile = plain(recording.outputs["ids"])
    data = aws.client("appconfigdata")
    token = data.start_configuration_session(
        ApplicationIdentifier=application,
        EnvironmentIdentifier=environment,
        ConfigurationProfileIdentifier=profile,
        RequiredMinimumPollIntervalInSeconds=15,
    )["InitialConfigurationToken"]
    first = data.get_latest_configuration(ConfigurationToken=token)
    assert json.loads(first["Configuration"].read()) == {"version": 1}
    assert (first["ContentType"], first["NextPollIntervalInSeconds"]) == ("application/json", 15)
    second = data.get_latest_configuration(ConfigurationToken=first["NextPollConfigurationToken"])
    assert second["Configuration"].read() == b""
    with pytest.raises(data.exceptions.BadRequestException, match="already used"):
        data.get_latest_configuration(ConfigurationToken=token)


def test_a_session_for_something_unknown_is_refused(aws: Aws, recording: Recording) -> None:
    application, environment, _ = plain(recording.outputs["ids"])
    data = aws.client("appconfigdata")
    known = {"ApplicationIdentifier": application, "EnvironmentIdentifier": environment}
    with pytest.raises(data.exceptions.ResourceNotFoundException):
        data.start_configuration_session(**known, ConfigurationProfileIdentifier="absent")


def test_what_is_not_emulated_says_so(aws: Aws) -> None:
    with pytest.raises(ClientError, match="GET /applications is not emulated"):
        aws.client("appconfig").list_applications()


def test_writes_from_many_threads_lose_no_update(aws: Aws, environment: dict[str, str]) -> None:
    def add(_: int) -> None:
        aws.client("dynamodb").update_item(
            TableName=environment["TABLE"],
            Key={"pk": {"S": "count"}, "sk": {"S": "count"}},
            UpdateExpression="ADD spent :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(64)))
    key = {"pk": {"S": "count"}, "sk": {"S": "count"}}
    item = aws.client("dynamodb").get_item(TableName=environment["TABLE"], Key=key)["Item"]
    assert item["spent"]["N"] == "64"


def test_a_document_that_breaks_its_schema_stops_the_evaluation(aws: Aws, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'version' is a required property"):
        run(aws, tmp_path, "{}")


def test_the_twin_says_what_was_recorded_and_survives_json(recording: Recording) -> None:
    twin = recorded.read(recording)
    assert twin.web.command == ("python", "-m", "app", "web")
    assert (twin.web.cpu_units, twin.web.memory_mib, twin.web.stop_timeout_seconds) == (512, 1024, 90)
    assert twin.worker.name == "worker"
    assert not twin.worker.behind_balancer
    assert twin.balancing.idle_timeout_seconds == 310
    assert twin.balancing.deregistration_delay_seconds == 600
    assert twin.balancing.algorithm == "least_outstanding_requests"
    assert twin.balancing.health_check.unhealthy_threshold == 3
    assert Twin.from_json(json.loads(json.dumps(twin.to_json()))) == twin


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_every_stack_of_the_project_can_be_played(aws: Aws, stack: str) -> None:
    mocks = Materialiser(REGION, lambda: Endpoints(aws.url, "127.0.0.1:6399"))
    twin = recorded.read(evaluate(stack, mocks))
    assert (twin.web.name, twin.worker.name) == ("web", "worker")
    assert twin.web.environment["PRODKIT_CACHE_ENDPOINT"].startswith("127.0.0.1:")
    tables = aws.client("dynamodb").list_tables()["TableNames"]
    assert {twin.web.environment["PRODKIT_STATE_TABLE"], twin.worker.environment["PRODKIT_LEDGER_TABLE"]} <= set(tables)


def test_types_that_nothing_here_talks_to_get_well_formed_attributes() -> None:
    identifier, outputs = attributes("aws:lb/targetGroup:TargetGroup", "web", {}, REGION)
    assert outputs["arn"] == identifier
    assert identifier.startswith("arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/web/")
    assert outputs["arnSuffix"] == identifier.rpartition(":")[2]
    identifier, outputs = attributes("aws:iam/role:Role", "task", {}, REGION)
    assert (identifier, outputs["arn"]) == ("task", "arn:aws:iam::123456789012:role/task")
    identifier, _ = attributes("aws:ec2/vpc:Vpc", "net", {}, REGION)
    assert identifier.startswith("vpc-")


def test_a_stack_that_rotates_its_key_is_made_here_too_and_nothing_more_is_started(aws: Aws) -> None:
    mocks = Materialiser(REGION, lambda: Endpoints(aws.url, "127.0.0.1:6399"))
    rotating = {"rotationDays": "7", "openaiProjectId": "proj_1", "openaiServiceAccountId": "svc_acct_1"}
    recording = evaluate("dev", mocks, overrides=rotating)
    twin = recorded.read(recording)
    assert [task.command[-1] for task in (twin.web, twin.worker)] == ["web", "worker"]
    admin = plain(recording.outputs["admin_secret_name"])
    assert aws.client("secretsmanager").describe_secret(SecretId=admin)["Name"] == admin
    assert plain(recording.outputs["rotation"])["task_definition"].endswith("dev-rotation:1")
