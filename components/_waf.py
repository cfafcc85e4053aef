"""The rules of the web firewall in front of the balancer, as data."""

from typing import Any

# A prompt is a long body that may hold markup, paths, shell commands and code: what these rules look for. They count
# instead of blocking. Names as AWS lists them, which is also how an override must spell them:
# https://docs.aws.amazon.com/waf/latest/developerguide/aws-managed-rule-groups-baseline.html
BODY_RULES = {
    "AWSManagedRulesCommonRuleSet": (
        "SizeRestrictions_BODY",
        "EC2MetaDataSSRF_BODY",
        "GenericLFI_BODY",
        "GenericRFI_BODY",
        "CrossSiteScripting_BODY",
    ),
    "AWSManagedRulesKnownBadInputsRuleSet": (
        "JavaDeserializationRCE_BODY",
        "Log4JRCE_BODY",
        "ReactJSRCE_BODY",
    ),
    "AWSManagedRulesAmazonIpReputationList": (),
}
RATE_WINDOW_SECONDS = 300


def rules(requests_per_address: int) -> list[Any]:
    """Rules in order of evaluation: cheap and certain first, then AWS's managed groups.

    Args:
        requests_per_address: most requests from one client address within five minutes.
    """
    rate = {
        "name": "rate-per-address",
        "priority": 0,
        "action": {"block": {}},
        "statement": {
            "rate_based_statement": {
                "aggregate_key_type": "IP",
                "limit": requests_per_address,
                "evaluation_window_sec": RATE_WINDOW_SECONDS,
            }
        },
        "visibility_config": visibility("rate-per-address"),
    }
    managed = (
        "AWSManagedRulesAmazonIpReputationList",
        "AWSManagedRulesKnownBadInputsRuleSet",
        "AWSManagedRulesCommonRuleSet",
    )
    return [rate, *(_managed(group, priority) for priority, group in enumerate(managed, start=1))]


def visibility(metric: str) -> Any:
    """Metrics on, samples off: a sampled request shows its headers in clear, the caller's key among them."""
    return {"cloudwatch_metrics_enabled": True, "metric_name": metric, "sampled_requests_enabled": False}


def _managed(group: str, priority: int) -> dict[str, Any]:
    return {
        "name": group,
        "priority": priority,
        "override_action": {"none": {}},
        "statement": {
            "managed_rule_group_statement": {
                "vendor_name": "AWS",
                "name": group,
                "rule_action_overrides": [{"name": rule, "action_to_use": {"count": {}}} for rule in BODY_RULES[group]],
            }
        },
        "visibility_config": visibility(group),
    }
