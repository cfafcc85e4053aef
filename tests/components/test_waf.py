from hypothesis import given
from hypothesis import strategies as st

from components import _waf


def test_no_rule_about_bodies_blocks_a_prompt() -> None:
    for rule in _waf.rules(20_000)[1:]:
        group = rule["statement"]["managed_rule_group_statement"]
        counted = {o["name"]: o["action_to_use"] for o in group["rule_action_overrides"]}
        assert counted == {name: {"count": {}} for name in _waf.BODY_RULES[group["name"]]}
    assert _waf.BODY_RULES == {
        "AWSManagedRulesCommonRuleSet": (
            "SizeRestrictions_BODY",
            "EC2MetaDataSSRF_BODY",
            "GenericLFI_BODY",
            "GenericRFI_BODY",
            "CrossSiteScripting_BODY",
        ),
        "AWSManagedRulesKnownBadInputsRuleSet": ("JavaDeserializationRCE_BODY", "Log4JRCE_BODY", "ReactJSRCE_BODY"),
        "AWSManagedRulesAmazonIpReputationList": (),
    }


@given(st.integers(10, 2_000_000_000))
def test_one_address_cannot_flood_the_service(limit: int) -> None:
    rate = _waf.rules(limit)[0]
    assert rate["action"] == {"block": {}}
    assert rate["statement"] == {
        "rate_based_statement": {"aggregate_key_type": "IP", "limit": limit, "evaluation_window_sec": 300}
    }


def test_priorities_and_metric_names_are_unique() -> None:
    rules = _waf.rules(20_000)
    assert [rule["priority"] for rule in rules] == [0, 1, 2, 3]
    assert len({rule["visibility_config"]["metric_name"] for rule in rules}) == len(rules)


def test_no_sample_shows_a_callers_key() -> None:
    assert all(rule["visibility_config"]["sampled_requests_enabled"] is False for rule in _waf.rules(20_000))
