"""EC2. moto keeps a security group rule's description with its CIDR block, so a rule that names a group has none.

ModifySecurityGroupRules, and wherever rules are answered
        the description of rules that reference another group (aws_vpc_security_group_ingress_rule and _egress_rule
        drift on every plan under stock moto)
CreateFlowLogs, DescribeFlowLogs
        file format and partitions of flow logs in S3; without them aws_flow_log is replaced on every apply
DeleteNatGateway
        lets go of its address; without that no gateway can be made with it again after a destroy that was refused
"""

from moto.ec2.models import ec2_backends
from moto.ec2.models.security_groups import SecurityGroupRule

from local.aws.call import Call, Record
from local.aws.registry import api

SERVICE = "ec2"
SecurityGroupRule.description = property(
    lambda rule: rule.ip_range.get("Description") or rule.source_group.get("Description")
)


@api(SERVICE, "ModifySecurityGroupRules")
def modify_rules(call: Call) -> Record:
    """ModifySecurityGroupRules."""
    answer = call.moto()
    group = ec2_backends[call.account][call.region].get_security_group_from_id(call["GroupId"])
    for update in call["SecurityGroupRules"]:
        rule, sent = group.get_rule(update["SecurityGroupRuleId"]), update["SecurityGroupRule"]
        if rule.source_group and "Description" in sent:
            rule.source_group["Description"] = sent["Description"]
            rule.ip_range.pop("Description", None)
        if sent.get("ReferencedGroupId"):
            rule.source_group["GroupId"] = sent["ReferencedGroupId"]
    return answer


@api(SERVICE, "CreateFlowLogs")
def create_flow_logs(call: Call) -> Record:
    """CreateFlowLogs."""
    answer = call.moto()
    for flow_log in answer.get("FlowLogIds", []):
        call.table("flow logs")[flow_log] = call.pick("DestinationOptions")
    return answer


@api(SERVICE, "DescribeFlowLogs")
def describe_flow_logs(call: Call) -> Record:
    """DescribeFlowLogs."""
    answer = call.moto()
    for flow_log in answer.get("FlowLogs", []):
        flow_log.update(call.table("flow logs").get(flow_log["FlowLogId"], {}))
    return answer


@api(SERVICE, "DeleteNatGateway")
def delete_nat_gateway(call: Call) -> Record:
    """DeleteNatGateway."""
    answer = call.moto()
    backend = ec2_backends[call.account][call.region]
    for held in backend.nat_gateways[call["NatGatewayId"]].address_set:
        for address in backend.address_by_allocation([held["allocationId"]]) if "allocationId" in held else ():
            address.association_id = address.eni = None
    return answer
