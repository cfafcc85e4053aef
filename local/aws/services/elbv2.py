"""Elastic Load Balancing v2. moto keeps balancers, groups, listeners and rules; it ignores deletion protection.

DeleteLoadBalancer    refused while deletion protection is on
"""

from moto.elbv2.models import elbv2_backends

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api


@api("elbv2", "DeleteLoadBalancer")
def delete_load_balancer(call: Call) -> Record:
    """DeleteLoadBalancer."""
    balancer = elbv2_backends[call.account][call.region].load_balancers.get(call["LoadBalancerArn"])
    if balancer and balancer.attrs.get("deletion_protection.enabled") == "true":
        text = f"Load balancer '{balancer.arn}' cannot be deleted because deletion protection is enabled"
        raise AwsError("OperationNotPermitted", text)
    return call.moto()
