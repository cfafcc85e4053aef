import re
from typing import Any

import pytest

from components.load_balancer import LoadBalancer
from tests.components.recorder import Record, Recording

ALB = "aws:lb/loadBalancer:LoadBalancer"
LISTENER = "aws:lb/listener:Listener"
TARGETS = "aws:lb/targetGroup:TargetGroup"
COMPUTED: dict[str, dict[str, Any]] = {
    ALB: {"dnsName": "alb.test", "zoneId": "Z35", "arnSuffix": "app/web/1"},
    TARGETS: {"arnSuffix": "targetgroup/web/2"},
    "aws:acm/certificate:Certificate": {
        "domainValidationOptions": [
            {
                "domainName": "api.example.com",
                "resourceRecordName": "_x.api.example.com",
                "resourceRecordType": "CNAME",
                "resourceRecordValue": "_y.acm.test",
            }
        ]
    },
    "aws:route53/record:Record": {"fqdn": "_x.api.example.com"},
    "aws:route53/zone:Zone": {"zoneId": "Z1", "nameServers": ["ns1.test", "ns2.test"]},
}
PLAIN: dict[str, Any] = {
    "vpc_id": "vpc-1",
    "subnet_ids": ["subnet-a", "subnet-b"],
    "access_logs_bucket": "logs",
    "idle_timeout_seconds": 310,
    "client_keep_alive_seconds": 3600,
    "deregistration_delay_seconds": 610,
    "allow_plain_http": True,
    "waf": False,
    "protect": False,
    "tags": {"Stack": "test"},
}


def args(**more: Any) -> Any:
    """The smallest arguments, with `more`; None leaves one out."""
    return {key: value for key, value in {**PLAIN, **more}.items() if value is not None}


def recorded(record: Record, **more: Any) -> Recording:
    return record(lambda: LoadBalancer("web", args(**more)), outputs=COMPUTED)


def test_streams_live_as_long_as_the_timeouts_say(record: Record) -> None:
    made = recorded(record)
    balancer = made.one(ALB).inputs
    assert balancer["idleTimeout"] == 310
    assert balancer["clientKeepAlive"] == 3600
    targets = made.one(TARGETS).inputs
    assert targets["deregistrationDelay"] == 610
    assert targets["loadBalancingAlgorithmType"] == "least_outstanding_requests"
    assert targets["stickiness"] == {"type": "lb_cookie", "enabled": False}


def test_the_balancer_refuses_malformed_requests_and_logs_the_rest(record: Record) -> None:
    balancer = recorded(record, protect=True).one(ALB).inputs
    assert balancer["dropInvalidHeaderFields"] is True
    assert balancer["desyncMitigationMode"] == "defensive"
    assert balancer["accessLogs"] == {"bucket": "logs", "prefix": "web", "enabled": True}
    assert balancer["enableDeletionProtection"] is True
    assert balancer["subnets"] == ["subnet-a", "subnet-b"]


def test_only_ready_tasks_get_requests(record: Record) -> None:
    targets = recorded(record).one(TARGETS).inputs
    assert (targets["targetType"], targets["port"], targets["protocol"]) == ("ip", 8080, "HTTP")
    assert targets["healthCheck"] == {
        "path": "/health/ready",
        "protocol": "HTTP",
        "port": "traffic-port",
        "matcher": "200",
        "interval": 5,
        "timeout": 4,
        "healthyThreshold": 2,
        "unhealthyThreshold": 2,
    }


def test_without_a_certificate_only_http_is_served_and_only_when_accepted(record: Record) -> None:
    made = recorded(record)
    listener = made.one(LISTENER).inputs
    assert (listener["port"], listener["protocol"]) == (80, "HTTP")
    assert listener["defaultActions"][0]["type"] == "forward"
    assert made.outputs("prodkit:index:LoadBalancer")["url"] == "http://alb.test"
    with pytest.raises(ValueError, match="would travel unencrypted; set one, or accept it with allow_plain_http=True"):
        record(lambda: LoadBalancer("web", args(allow_plain_http=None)))


@pytest.mark.parametrize(
    "naming",
    [
        {"domain_name": "api.example.com", "hosted_zone_id": "Z1"},
        {"domain_name": "api.example.com", "create_hosted_zone": True},
        {"domain_name": "api.example.com", "certificate_arn": "arn:cert"},
        {"certificate_arn": "arn:cert"},
    ],
)
def test_with_a_domain_or_certificate_plain_http_only_redirects(record: Record, naming: dict[str, Any]) -> None:
    made = recorded(record, allow_plain_http=None, **naming)
    http = made.one(LISTENER, "web-redirect").inputs
    assert http["defaultActions"] == [
        {"type": "redirect", "redirect": {"port": "443", "protocol": "HTTPS", "statusCode": "HTTP_301"}}
    ]
    https = made.one(LISTENER, "web-https").inputs
    assert (https["port"], https["protocol"]) == (443, "HTTPS")
    assert https["sslPolicy"] == "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
    assert https["routingHttpResponseStrictTransportSecurityHeaderValue"] == "max-age=31536000"
    assert made.outputs("prodkit:index:LoadBalancer")["url"].startswith("https://")


def test_a_domain_gets_a_proven_certificate_and_an_address(record: Record) -> None:
    made = recorded(record, domain_name="api.example.com", hosted_zone_id="Z9")
    certificate = made.one("aws:acm/certificate:Certificate").inputs
    assert (certificate["domainName"], certificate["validationMethod"]) == ("api.example.com", "DNS")
    proof = made.one("aws:route53/record:Record", "web-proof").inputs
    assert (proof["zoneId"], proof["name"], proof["type"]) == ("Z9", "_x.api.example.com", "CNAME")
    assert proof["records"] == ["_y.acm.test"]
    address = made.one("aws:route53/record:Record", "web-address").inputs
    assert address["aliases"] == [{"name": "alb.test", "zoneId": "Z35", "evaluateTargetHealth": True}]
    valid = made.one("aws:acm/certificateValidation:CertificateValidation").inputs
    assert made.one(LISTENER, "web-https").inputs["certificateArn"] == valid["certificateArn"]
    assert made.all("aws:route53/zone:Zone") == []


def test_a_created_zone_tells_its_name_servers(record: Record) -> None:
    made = recorded(record, domain_name="api.example.com", create_hosted_zone=True)
    assert made.one("aws:route53/zone:Zone").inputs["name"] == "api.example.com"
    assert made.outputs("prodkit:index:LoadBalancer")["name_servers"] == ["ns1.test", "ns2.test"]
    assert made.one("aws:route53/record:Record", "web-address").inputs["zoneId"] == "Z1"


def test_an_adopted_certificate_makes_none(record: Record) -> None:
    made = recorded(record, certificate_arn="arn:cert")
    assert made.one(LISTENER, "web-https").inputs["certificateArn"] == "arn:cert"
    assert made.all("aws:acm/certificate:Certificate") == []
    assert made.all("aws:route53/record:Record") == []


def test_callers_come_in_on_the_listeners_ports_only(record: Record) -> None:
    made = recorded(record, certificate_arn="arn:cert", ingress_cidrs=["10.0.0.0/8", "192.0.2.0/24"])
    rules = [r.inputs for r in made.all("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")]
    assert sorted((r["cidrIpv4"], r["fromPort"], r["toPort"], r["ipProtocol"]) for r in rules) == [
        ("10.0.0.0/8", 80, 80, "tcp"),
        ("10.0.0.0/8", 443, 443, "tcp"),
        ("192.0.2.0/24", 80, 80, "tcp"),
        ("192.0.2.0/24", 443, 443, "tcp"),
    ]
    # The characters that EC2 takes: API_CreateSecurityGroup, GroupDescription.
    group = made.one("aws:ec2/securityGroup:SecurityGroup").inputs
    for described in [*rules, group]:
        assert re.fullmatch(r"[\w. \-:/()#,@\[\]+=&;{}!$*]{1,255}", described["description"])
    assert made.all("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule") == []
    plain = recorded(record).all("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")
    assert [rule.inputs["fromPort"] for rule in plain] == [80]


def test_the_firewall_guards_the_balancer_and_its_log_shows_no_key(record: Record) -> None:
    made = recorded(record, waf=True, waf_requests_per_address=500, logs_key_arn="arn:key")
    acl = made.one("aws:wafv2/webAcl:WebAcl").inputs
    # WAF refuses other characters, and the provider does not check: API_CreateWebACL, Description.
    assert re.fullmatch(r"[\w+=:#@/\-,.][\w+=:#@/\-,.\s]+[\w+=:#@/\-,.]", acl["description"])
    assert (acl["scope"], acl["defaultAction"]) == ("REGIONAL", {"allow": {}})
    assert acl["rules"][0]["statement"]["rateBasedStatement"]["limit"] == 500
    assert [rule["name"] for rule in acl["rules"][1:]] == [
        "AWSManagedRulesAmazonIpReputationList",
        "AWSManagedRulesKnownBadInputsRuleSet",
        "AWSManagedRulesCommonRuleSet",
    ]
    assert made.one("aws:wafv2/webAclAssociation:WebAclAssociation").inputs["resourceArn"].endswith("web-alb")
    log = made.one("aws:cloudwatch/logGroup:LogGroup").inputs
    assert log["namePrefix"] == "aws-waf-logs-web-"
    assert (log["retentionInDays"], log["kmsKeyId"]) == (30, "arn:key")
    logging = made.one("aws:wafv2/webAclLoggingConfiguration:WebAclLoggingConfiguration").inputs
    assert {"singleHeader": {"name": "authorization"}} in logging["redactedFields"]


def test_without_the_firewall_nothing_of_it_is_made(record: Record) -> None:
    assert not [r.type for r in recorded(record).resources if "waf" in r.type or "logGroup" in r.type]


def test_every_child_is_parented_and_tagged(record: Record) -> None:
    made = recorded(record, domain_name="api.example.com", create_hosted_zone=True, waf=True)
    assert made.strays("prodkit:index:LoadBalancer") == []
    untagged = {r.type for r in made.resources if r.custom and r.inputs.get("tags", {}).get("Stack") != "test"}
    assert untagged == {
        "aws:acm/certificateValidation:CertificateValidation",
        "aws:route53/record:Record",
        "aws:wafv2/webAclAssociation:WebAclAssociation",
        "aws:wafv2/webAclLoggingConfiguration:WebAclLoggingConfiguration",
    }


def test_a_service_waits_for_the_listener(record: Record) -> None:
    outputs = recorded(record).outputs("prodkit:index:LoadBalancer")
    assert outputs["target_group_arn"].endswith("targetGroup/web-tg")
    assert (outputs["load_balancer_suffix"], outputs["target_group_suffix"]) == ("app/web/1", "targetgroup/web/2")
    assert outputs["name_servers"] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"idle_timeout_seconds": 4001}, "idle_timeout_seconds=4001 is not allowed; choose 1 to 4000 seconds"),
        ({"client_keep_alive_seconds": 59}, "client_keep_alive_seconds=59 is not allowed; choose 60 to 604800"),
        ({"deregistration_delay_seconds": 3601}, "deregistration_delay_seconds=3601 is not allowed; choose 0 to 3600"),
        ({"target_port": 0}, "target_port=0 is not allowed; choose 1 to 65535"),
        ({"waf_requests_per_address": 9}, "waf_requests_per_address=9 is not allowed"),
        ({"waf_log_retention_days": 42}, "waf_log_retention_days=42 is not allowed; choose one of 1, 3, 5"),
        ({"ingress_cidrs": []}, r"ingress_cidrs=\[\] lets nobody in"),
        ({"ingress_cidrs": ["10.0.0.1/8"]}, "ingress_cidrs='10.0.0.1/8' is no IPv4 range"),
        (
            {"domain_name": "api.example.com"},
            "domain_name='api.example.com' needs hosted_zone_id or create_hosted_zone",
        ),
        ({"hosted_zone_id": "Z1"}, "a hosted zone without domain_name serves nothing"),
        (
            {"domain_name": "a.example.com", "hosted_zone_id": "Z1", "create_hosted_zone": True},
            "hosted_zone_id and create_hosted_zone exclude each other",
        ),
        ({"idle_timeout": 60}, "unknown argument 'idle_timeout'; did you mean 'idle_timeout_seconds'"),
        ({"waf": None}, "missing argument 'waf'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(record: Record, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^LoadBalancer: {message}"):
        record(lambda: LoadBalancer("web", args(**wrong)))


def test_a_name_too_long_for_aws_is_refused(record: Record) -> None:
    with pytest.raises(ValueError, match="makes AWS names over 32 characters; use 20 at most"):
        record(lambda: LoadBalancer("w" * 21, args()))
    assert record(lambda: LoadBalancer("w" * 20, args()), outputs=COMPUTED).one(ALB).name == f"{'w' * 20}-alb"
