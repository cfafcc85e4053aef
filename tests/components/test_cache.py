import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from components.cache import Cache, CacheArgs, CacheMode, short_id
from tests.components.recorder import Record, Recording, untagged

TYPE = "prodkit:index:Cache"
SERVERLESS = "aws:elasticache/serverlessCache:ServerlessCache"
REPLICATED = "aws:elasticache/replicationGroup:ReplicationGroup"
USER = "aws:elasticache/user:User"
ARGS: CacheArgs = {
    "vpc_id": "vpc-1",
    "subnet_ids": ["subnet-1", "subnet-2"],
    "key_arn": "arn:key",
    "tags": {"team": "a"},
}
OUTPUTS: dict[str, dict[str, Any]] = {
    SERVERLESS: {"endpoints": [{"address": "cache.test", "port": 6379}]},
    REPLICATED: {"configurationEndpointAddress": "shards.test", "replicationGroupId": "cache-1234"},
}


@pytest.fixture(scope="module")
def serverless(record: Record) -> Recording:
    return record(lambda: Cache("cache", ARGS), outputs=OUTPUTS)


@pytest.fixture(scope="module")
def replicated(record: Record) -> Recording:
    return record(lambda: Cache("cache", {**ARGS, "mode": CacheMode.REPLICATED}), outputs=OUTPUTS)


def test_by_default_aws_sizes_the_cache_within_limits_that_bound_the_bill(serverless: Recording) -> None:
    assert serverless.one(SERVERLESS).inputs == {
        "engine": "valkey",
        "majorEngineVersion": "8",
        "description": "Response cache, rate limits and shared flights",
        "cacheUsageLimits": {
            "dataStorage": {"maximum": 1, "unit": "GB"},
            "ecpuPerSeconds": [{"maximum": 5000}],
        },
        "kmsKeyId": "arn:key",
        "securityGroupIds": ["cache-sg-id"],
        "subnetIds": ["subnet-1", "subnet-2"],
        "userGroupId": "prodkit-test-cache",
        "tags": {"team": "a"},
    }


def test_replicated_survives_the_loss_of_a_zone_and_speaks_the_same_protocol(replicated: Recording) -> None:
    assert replicated.one(REPLICATED).inputs == {
        "description": "Response cache, rate limits and shared flights",
        "engine": "valkey",
        "engineVersion": "8.0",
        "parameterGroupName": "default.valkey8.cluster.on",
        "numNodeGroups": 1,
        "replicasPerNodeGroup": 1,
        "nodeType": "cache.t4g.small",
        "port": 6379,
        "automaticFailoverEnabled": True,
        "multiAzEnabled": True,
        "atRestEncryptionEnabled": True,
        "kmsKeyId": "arn:key",
        "transitEncryptionEnabled": True,
        "transitEncryptionMode": "required",
        "userGroupIds": ["prodkit-test-cache"],
        "securityGroupIds": ["cache-sg-id"],
        "subnetGroupName": "cache-subnets",
        "snapshotRetentionLimit": 1,
        "autoMinorVersionUpgrade": True,
        "tags": {"team": "a"},
    }


@pytest.mark.parametrize(
    ("mode", "endpoint", "name"),
    [
        (CacheMode.SERVERLESS, "cache.test:6379", "cache-cache"),
        (CacheMode.REPLICATED, "shards.test:6379", "cache-1234"),
    ],
)
def test_the_outputs_say_how_to_connect(record: Record, mode: CacheMode, endpoint: str, name: str) -> None:
    outputs = record(lambda: Cache("cache", {**ARGS, "mode": mode}), outputs=OUTPUTS).outputs(TYPE)
    policy = json.loads(outputs.pop("connect_policy"))
    assert outputs == {
        "endpoint": endpoint,
        "name": name,
        "user_name": "prodkit-test-cache",
        "mode": "cluster",
        "port": 6379,
        "security_group_id": "cache-sg-id",
    }
    (connect,) = policy["Statement"]
    kind = "serverlessCache" if mode is CacheMode.SERVERLESS else "replicationGroup"
    assert connect["Action"] == ["elasticache:Connect"]
    assert connect["Resource"] == [
        f"arn:aws:elasticache:us-east-1:123456789012:{kind}/cache-cache",
        "arn:aws:elasticache:us-east-1:123456789012:user/cache-user",
    ]


def test_the_user_has_no_password_and_one_name(serverless: Recording) -> None:
    inputs = serverless.one(USER).inputs
    assert inputs["authenticationMode"] == {"type": "iam"}
    assert inputs["userId"] == inputs["userName"] == "prodkit-test-cache"
    assert {"passwords", "passwordsWo", "noPasswordRequired"}.isdisjoint(inputs)
    assert serverless.one("aws:elasticache/userGroup:UserGroup").inputs["userIds"] == ["prodkit-test-cache"]


def test_the_security_group_lets_nobody_in_or_out_by_itself(serverless: Recording) -> None:
    group = serverless.one("aws:ec2/securityGroup:SecurityGroup")
    assert group.inputs == {
        "vpcId": "vpc-1",
        "description": "The cache; whoever may connect is a rule of its own",
        "tags": {"team": "a", "Name": "cache-cache"},
    }
    assert not [r for r in serverless.resources if "Rule" in r.type]


def test_sizes_are_passed_on(record: Record) -> None:
    small: CacheArgs = {**ARGS, "max_data_gib": 20, "max_ecpu_per_second": 1000}
    limits = record(lambda: Cache("cache", small), outputs=OUTPUTS).one(SERVERLESS).inputs["cacheUsageLimits"]
    assert limits == {"dataStorage": {"maximum": 20, "unit": "GB"}, "ecpuPerSeconds": [{"maximum": 1000}]}
    nodes: CacheArgs = {**ARGS, "mode": CacheMode.REPLICATED, "node_type": "cache.m7g.large", "replicas": 2}
    inputs = record(lambda: Cache("cache", nodes), outputs=OUTPUTS).one(REPLICATED).inputs
    assert (inputs["nodeType"], inputs["replicasPerNodeGroup"]) == ("cache.m7g.large", 2)


@pytest.mark.parametrize("mode", list(CacheMode))
def test_the_cache_belongs_to_the_component_and_is_tagged(record: Record, mode: CacheMode) -> None:
    recording = record(lambda: Cache("cache", {**ARGS, "mode": mode}), outputs=OUTPUTS)
    assert recording.strays(TYPE) == []
    assert untagged(recording, {"team": "a"}) == []


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"mode": "replicatd"}, "mode='replicatd' is unknown; did you mean 'replicated'"),
        ({"subnet_ids": ["subnet-1"]}, "subnet_ids=.* is not allowed; choose two or three subnets"),
        ({"subnet_ids": ["a", "b", "c", "d"]}, "subnet_ids=.* is not allowed; choose two or three subnets"),
        ({"max_data_gib": 0}, "max_data_gib=0 .*; choose 1 to 5000 GiB"),
        ({"max_ecpu_per_second": 999}, "max_ecpu_per_second=999 .*; choose 1000 to 15000000 ECPU a second"),
        ({"mode": "replicated", "replicas": 6}, "replicas=6 .*; choose 1 to 5 replicas"),
        ({"replicas": 2}, "replicas has no meaning in mode=serverless; remove it or choose mode=replicated"),
        ({"node_type": "x"}, "node_type has no meaning in mode=serverless; remove it or choose mode=replicated"),
        (
            {"mode": "replicated", "max_data_gib": 2},
            "max_data_gib has no meaning in mode=replicated; remove it or choose mode=serverless",
        ),
    ],
)
def test_a_size_that_is_wrong_or_would_be_ignored_is_refused(record: Record, wrong: dict[str, Any], fix: str) -> None:
    args: Any = {**ARGS, **wrong}
    with pytest.raises(ValueError, match=f"Cache: {fix}"):
        record(lambda: Cache("cache", args))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_every_name_becomes_an_id_that_elasticache_takes(parts: list[str]) -> None:
    assert re.fullmatch(r"[a-z](?:-?[a-z0-9]){0,39}", short_id(*parts))
    assert len(short_id(*parts)) <= 40


@given(*[st.lists(st.text("ab-_A", min_size=1, max_size=25), min_size=3, max_size=3)] * 2)
def test_two_names_become_two_ids(one: list[str], other: list[str]) -> None:
    if "-".join(one) != "-".join(other):
        assert short_id(*one) != short_id(*other)


def test_a_plain_name_stays_readable() -> None:
    assert short_id("prodkit", "dev", "cache") == "prodkit-dev-cache"
    assert short_id("prodkit", "a-long-name-of-a-developer-stack", "cache").startswith("prodkit-a-long-name-of-a-deve")


def test_what_is_dangerous_is_taken_away_after_every_group_that_has_some_of_it(serverless: Recording) -> None:
    terms = serverless.one(USER).inputs["accessString"].split()
    assert terms[terms.index("~*") + 1] == "-@all"
    given = [place for place, term in enumerate(terms) if term.startswith("+@")]
    assert max(given) < terms.index("-@dangerous")
    assert "+@all" not in terms


@pytest.fixture
def valkey(serverless: Recording, tmp_path: Path) -> Iterator[Any]:
    """A client of a real server, connected as the recorded user; its `execute_command` has no annotations."""
    server = shutil.which("valkey-server") or shutil.which("redis-server")
    if server is None:
        pytest.skip("neither valkey-server nor redis-server is on PATH")
    with socket.socket() as probe, socket.socket() as bus_probe:
        probe.bind(("127.0.0.1", 0))
        bus_probe.bind(("127.0.0.1", 0))
        port, bus_port = probe.getsockname()[1], bus_probe.getsockname()[1]
    rules = tmp_path / "server.conf"
    rules.write_text(f"user app >word {serverless.one(USER).inputs['accessString']}\n")
    process = subprocess.Popen(
        # the bus port would be 10000 higher, which does not exist for every port
        [
            *(server, str(rules), "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
            *("--cluster-enabled", "yes", "--cluster-port", str(bus_port)),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    retry = Retry(ConstantBackoff(0.05), 100)
    client = redis.Redis(host="127.0.0.1", port=port, username="app", password="word", retry=retry)
    try:
        client.ping()
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(10)


@pytest.mark.process
def test_the_user_may_do_what_the_app_does_and_nothing_that_harms_the_server(valkey: Any) -> None:
    for allowed in (
        ["CLUSTER", "SLOTS"],
        ["CLUSTER", "SHARDS"],
        ["TIME"],
        ["SCAN", "0"],
        ["READONLY"],
        ["SCRIPT", "LOAD", "return 1"],
        ["EVAL", "return redis.call('TIME')", "0"],
    ):
        valkey.execute_command(*allowed)
    for harmful in (
        ["FLUSHALL"],
        ["FLUSHDB"],
        ["KEYS", "*"],
        ["CONFIG", "GET", "*"],
        ["ACL", "LIST"],
        ["CLIENT", "LIST"],
        ["CLUSTER", "RESET"],
        ["SHUTDOWN"],
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            valkey.execute_command(*harmful)
