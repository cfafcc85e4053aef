"""What is done with each service that keeps data, secrets, messages or money: one function a signing name."""

import json

from tests.local.aws.rig import Rig, subset

TAGS = [{"Key": "stack", "Value": "dev"}]


def budgets(rig: Rig) -> None:
    """A budget with a notification whose subscriber changes."""
    client, account = rig.client("budgets"), {"AccountId": "123456789012", "BudgetName": "month"}
    notice = {"NotificationType": "ACTUAL", "ComparisonOperator": "GREATER_THAN", "Threshold": 80.0}
    first, second = ({"SubscriptionType": "EMAIL", "Address": f"{name}@example.com"} for name in ("a", "b"))
    budget = {"BudgetName": "month", "TimeUnit": "MONTHLY", "BudgetType": "COST"}
    limit = {"Amount": "100", "Unit": "USD"}
    client.create_budget(AccountId="123456789012", Budget={**budget, "BudgetLimit": limit}, ResourceTags=TAGS)
    client.create_notification(**account, Notification=notice, Subscribers=[first])
    client.create_subscriber(**account, Notification=notice, Subscriber=second)
    client.delete_subscriber(**account, Notification=notice, Subscriber=first)
    found = client.describe_subscribers_for_notification(**account, Notification=notice)["Subscribers"]
    assert found == [second]
    notices = client.describe_notifications_for_budget(**account)["Notifications"]
    assert [one["ThresholdType"] for one in notices] == ["PERCENTAGE"]
    client.delete_notification(**account, Notification=notice)
    client.update_budget(AccountId="123456789012", NewBudget={**budget, "BudgetLimit": {**limit, "Amount": "200"}})
    described = client.describe_budget(**account)["Budget"]
    assert described["BudgetLimit"]["Amount"] == "200"
    assert described["CostTypes"]["IncludeTax"]
    arn = "arn:aws:budgets::123456789012:budget/month"
    client.tag_resource(ResourceARN=arn, ResourceTags=[{"Key": "team", "Value": "a"}])
    client.untag_resource(ResourceARN=arn, ResourceTagKeys=["team"])
    assert client.list_tags_for_resource(ResourceARN=arn)["ResourceTags"] == TAGS
    client.delete_budget(**account)


def ce(rig: Rig) -> None:
    """An anomaly monitor and its subscription."""
    client = rig.client("ce")
    monitor = {"MonitorName": "stack", "MonitorType": "DIMENSIONAL", "MonitorDimension": "SERVICE"}
    arn = client.create_anomaly_monitor(AnomalyMonitor=monitor, ResourceTags=TAGS)["MonitorArn"]
    client.update_anomaly_monitor(MonitorArn=arn, MonitorName="renamed")
    found = client.get_anomaly_monitors(MonitorArnList=[arn])["AnomalyMonitors"]
    assert found[0]["MonitorName"] == "renamed"
    client.tag_resource(ResourceArn=arn, ResourceTags=[{"Key": "team", "Value": "a"}])
    client.untag_resource(ResourceArn=arn, ResourceTagKeys=["team"])
    assert client.list_tags_for_resource(ResourceArn=arn)["ResourceTags"] == TAGS
    subscription = {
        "SubscriptionName": "people",
        "MonitorArnList": [arn],
        "Subscribers": [{"Type": "EMAIL", "Address": "a@example.com"}],
        "Frequency": "DAILY",
        "Threshold": 20.0,
    }
    made = client.create_anomaly_subscription(AnomalySubscription=subscription)["SubscriptionArn"]
    client.update_anomaly_subscription(SubscriptionArn=made, Frequency="IMMEDIATE")
    described = client.get_anomaly_subscriptions(SubscriptionArnList=[made])["AnomalySubscriptions"][0]
    assert subset(described, subscription) == {
        **subscription,
        "Frequency": "IMMEDIATE",
        "Subscribers": [{"Type": "EMAIL", "Address": "a@example.com", "Status": "CONFIRMED"}],
    }
    client.delete_anomaly_subscription(SubscriptionArn=made)
    client.delete_anomaly_monitor(MonitorArn=arn)
    assert client.get_anomaly_monitors()["AnomalyMonitors"] == []


def dynamodb(rig: Rig) -> None:
    """A table that bounds what it may cost, and writes of which all are made or none."""
    client = rig.client("dynamodb")
    client.create_table(
        TableName="state",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        OnDemandThroughput={"MaxReadRequestUnits": 100, "MaxWriteRequestUnits": 50},
    )
    bounds = {"MaxReadRequestUnits": 100, "MaxWriteRequestUnits": 60}
    client.update_table(TableName="state", OnDemandThroughput=bounds)
    assert client.describe_table(TableName="state")["Table"]["OnDemandThroughput"] == bounds
    changed = {"TableName": "state", "Key": {"pk": {"S": "old"}}, "UpdateExpression": "ADD times :one"}
    change = {"Update": {**changed, "ExpressionAttributeValues": {":one": {"N": "1"}}}}
    old, new = ({"Put": {"TableName": "state", "Item": {"pk": {"S": name}}}} for name in ("old", "new"))
    absent = {"Put": {**old["Put"], "ConditionExpression": "attribute_not_exists(pk)"}}
    nobody = {"TableName": "state", "Key": {"pk": {"S": "none"}}, "ConditionExpression": "attribute_exists(pk)"}
    there = {"ConditionCheck": nobody}
    for writes, refused, left in (
        ([change, new, there], True, []),
        ([old], False, [{"pk": {"S": "old"}}]),
        ([change, new, there], True, [{"pk": {"S": "old"}}]),
        ([absent, new], True, [{"pk": {"S": "old"}}]),
        ([change], False, [{"pk": {"S": "old"}, "times": {"N": "1"}}]),
    ):
        try:
            client.transact_write_items(TransactItems=writes)
            assert not refused
        except client.exceptions.TransactionCanceledException:
            assert refused
        assert client.scan(TableName="state")["Items"] == left
    client.delete_table(TableName="state")


def kms(rig: Rig) -> None:
    """A key that rotates more often than once a year."""
    client = rig.client("kms")
    key = client.create_key()["KeyMetadata"]["KeyId"]
    client.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
    assert client.get_key_rotation_status(KeyId=key)["RotationPeriodInDays"] == 90
    client.disable_key_rotation(KeyId=key)
    assert not client.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]


def s3(rig: Rig) -> None:
    """A bucket that refuses what is not TLS, logs to another of that kind, and has its tags by S3 Control."""
    client, control = rig.client("s3"), rig.client("s3control")
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    allow = {
        "Effect": "Allow",
        "Principal": {"Service": "logging.s3.amazonaws.com"},
        "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::logs/*",
    }
    for bucket, statements in (("documents", [deny]), ("logs", [deny, allow])):
        client.create_bucket(Bucket=bucket)
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        client.put_bucket_policy(Bucket=bucket, Policy=policy)
    logging = {"LoggingEnabled": {"TargetBucket": "logs", "TargetPrefix": "documents/"}}
    client.put_bucket_logging(Bucket="documents", BucketLoggingStatus=logging)
    client.put_object(Bucket="documents", Key="a", Body=b"text")
    assert client.get_object(Bucket="documents", Key="a")["Body"].read() == b"text"
    who = {"AccountId": "123456789012", "ResourceArn": "arn:aws:s3:::documents"}
    control.tag_resource(**who, Tags=[*TAGS, {"Key": "team", "Value": "a"}])
    control.untag_resource(**who, TagKeys=["team"])
    assert control.list_tags_for_resource(**who)["Tags"] == TAGS


def sqs(rig: Rig) -> None:
    """A queue whose three documents come back as they were sent."""
    client = rig.client("sqs")
    dead = client.create_queue(QueueName="dead")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"maxReceiveCount": 5, "deadLetterTargetArn": arn}, separators=(",", ":"))
    work = client.create_queue(QueueName="work", Attributes={"RedrivePolicy": redrive})["QueueUrl"]
    allow = json.dumps({"redrivePermission": "byQueue", "sourceQueueArns": ["*"]}, separators=(",", ":"))
    client.set_queue_attributes(QueueUrl=dead, Attributes={"RedriveAllowPolicy": allow})
    names = ["RedrivePolicy", "RedriveAllowPolicy"]
    kept = [client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"] for url in (work, dead)]
    assert kept == [{"RedrivePolicy": redrive}, {"RedriveAllowPolicy": allow}]
    client.delete_queue(QueueUrl=work)


def appconfig(rig: Rig) -> None:
    """A document's whole way: application to poll, and back to nothing."""
    control, data = rig.client("appconfig"), rig.client("appconfigdata")
    application = control.create_application(Name="models", Tags={"stack": "dev"})["Id"]
    ours = {"ApplicationId": application}
    control.update_application(**ours, Description="documents")
    assert control.get_application(**ours)["Description"] == "documents"
    arn = f"arn:aws:appconfig:us-east-1:123456789012:application/{application}"
    control.tag_resource(ResourceArn=arn, Tags={"team": "a"})
    control.untag_resource(ResourceArn=arn, TagKeys=["team"])
    assert control.list_tags_for_resource(ResourceArn=arn)["Tags"] == {"stack": "dev"}
    environment = {**ours, "EnvironmentId": control.create_environment(**ours, Name="dev")["Id"]}
    control.update_environment(**environment, Description="one stack")
    profile = {
        **ours,
        "ConfigurationProfileId": control.create_configuration_profile(**ours, Name="models", LocationUri="hosted")[
            "Id"
        ],
    }
    control.update_configuration_profile(**profile, Description="models")
    assert control.get_configuration_profile(**profile)["Description"] == "models"
    made = control.create_hosted_configuration_version(**profile, Content=b'{"a": 1}', ContentType="application/json")
    version = {**profile, "VersionNumber": made["VersionNumber"]}
    assert control.get_hosted_configuration_version(**version)["Content"].read() == b'{"a": 1}'
    timing = {"DeploymentDurationInMinutes": 10, "GrowthFactor": 50.0}
    strategy = {"DeploymentStrategyId": control.create_deployment_strategy(Name="slow", **timing)["Id"]}
    control.update_deployment_strategy(**strategy, DeploymentDurationInMinutes=0)
    assert control.get_deployment_strategy(**strategy)["DeploymentDurationInMinutes"] == 0
    deployment = control.start_deployment(
        **environment, **strategy, ConfigurationProfileId=profile["ConfigurationProfileId"], ConfigurationVersion="1"
    )
    number = {**environment, "DeploymentNumber": deployment["DeploymentNumber"]}
    assert control.get_deployment(**number)["State"] == "COMPLETE"
    token = data.start_configuration_session(
        ApplicationIdentifier="models", EnvironmentIdentifier="dev", ConfigurationProfileIdentifier="models"
    )["InitialConfigurationToken"]
    polled = data.get_latest_configuration(ConfigurationToken=token)
    assert polled["Configuration"].read() == b'{"a": 1}'
    again = data.get_latest_configuration(ConfigurationToken=polled["NextPollConfigurationToken"])
    assert again["Configuration"].read() == b""
    assert control.stop_deployment(**number, AllowRevert=True)["State"] == "REVERTED"
    assert control.get_environment(**environment)["State"] == "READY_FOR_DEPLOYMENT"
    control.delete_hosted_configuration_version(**version)
    control.delete_configuration_profile(**profile)
    control.delete_environment(**environment)
    control.delete_deployment_strategy(**strategy)
    control.delete_application(**ours)


def secretsmanager(rig: Rig) -> None:
    """A staged version that becomes the current one, and the one before it that stays readable as the previous."""
    client = rig.client("secretsmanager")
    first = client.create_secret(Name="key", SecretString="first")["VersionId"]
    second = client.put_secret_value(SecretId="key", SecretString="second", VersionStages=["AWSPENDING"])["VersionId"]
    assert client.get_secret_value(SecretId="key")["SecretString"] == "first"
    client.update_secret_version_stage(
        SecretId="key", VersionStage="AWSCURRENT", MoveToVersionId=second, RemoveFromVersionId=first
    )
    current = client.get_secret_value(SecretId="key")
    assert (current["SecretString"], current["VersionId"]) == ("second", second)
    assert client.get_secret_value(SecretId="key", VersionStage="AWSPREVIOUS")["VersionId"] == first
