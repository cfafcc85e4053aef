"""LoadBalancer: the public door. TLS, a firewall that lets long prompts pass, and timeouts that let streams live."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast

import pulumi
import pulumi_aws as aws

from components import _timeouts, _waf
from components._args import Tags, named
from components._balancer import check_balancer

# TLS 1.2 and 1.3 with forward secrecy, AEAD ciphers and hybrid post-quantum key exchange, AWS's recommendation:
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/describe-ssl-policies.html
TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
_HSTS = "max-age=31536000"
_WEB_ACL_LOG_PREFIX = "aws-waf-logs-"  # WAF writes to no log group of another name


class LoadBalancerArgs(TypedDict):
    """What a LoadBalancer is made from."""

    vpc_id: pulumi.Input[str]
    """VPC of the balancer and its targets."""
    subnet_ids: pulumi.Input[Sequence[pulumi.Input[str]]]
    """Subnets of the balancer, one in each of at least two zones; public ones unless `internal`."""
    access_logs_bucket: pulumi.Input[str]
    """Bucket for access logs, in the same region, encrypted with SSE-S3, that lets load balancers write."""
    idle_timeout_seconds: pulumi.Input[int]
    """Seconds a connection may stay without a byte, 1-4000; longer than heartbeats and calls that do not stream."""
    client_keep_alive_seconds: pulumi.Input[int]
    """Age in seconds at which a client's connection is closed after the answer in progress, 60-604800."""
    deregistration_delay_seconds: pulumi.Input[int]
    """Seconds that a leaving task keeps its requests, 0-3600; shorter than the longest stream, deploys cut streams."""
    target_port: NotRequired[pulumi.Input[int]]
    """Port of the tasks; default 8080."""
    health_check_path: NotRequired[pulumi.Input[str]]
    """Path that answers 200 while a task takes requests; default `/health/ready`."""
    shift_traffic: NotRequired[bool]
    """Make a second target group, and a listener rule that ECS shifts requests between the two with: what canary and
    linear rollouts need. Default false. Known before deployment."""
    domain_name: NotRequired[pulumi.Input[str]]
    """Name that callers use, for example `api.example.com`: gets a certificate and an address record. Whether it is set
    is known before deployment."""
    certificate_arn: NotRequired[pulumi.Input[str]]
    """Adopted ACM certificate in the same region; default: one is made for `domain_name`. Whether it is set is known
    before deployment."""
    hosted_zone_id: NotRequired[pulumi.Input[str]]
    """Route 53 zone that serves `domain_name`. Whether it is set is known before deployment."""
    create_hosted_zone: NotRequired[bool]
    """Make a Route 53 zone for `domain_name`; default false. The first deployment then waits until the parent domain
    delegates to the zone's name servers. Known before deployment."""
    allow_plain_http: NotRequired[bool]
    """Accept a balancer without a certificate: prompts, answers and callers' keys travel unencrypted over the internet.
    Read only when neither `domain_name` nor `certificate_arn` is set; default false. Known before deployment."""
    ingress_cidrs: NotRequired[Sequence[str]]
    """IPv4 ranges that may connect; default everyone, `0.0.0.0/0`. Known before deployment."""
    internal: NotRequired[bool]
    """Reachable only from inside of the VPC and what is connected to it; default false. Known before deployment."""
    waf: bool
    """Put a web firewall in front: rate limit per address, bad addresses, known attacks; about $10 a month and $0.60 a
    million requests. Rules about bodies only count, because prompts look like attacks. Known before deployment."""
    waf_requests_per_address: NotRequired[int]
    """Most requests from one address within five minutes, 10-2000000000; default 20000. Known before deployment."""
    waf_log_retention_days: NotRequired[pulumi.Input[int]]
    """Days the firewall's log is kept, one of CloudWatch's periods; default 30."""
    logs_key_arn: NotRequired[pulumi.Input[str]]
    """KMS key of the firewall's log group; default: CloudWatch's own key."""
    protect: bool
    """Refuse deletion of the balancer by AWS until this is false again. Known before deployment."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


class LoadBalancer(pulumi.ComponentResource):
    """An application load balancer with one target group; tasks join it and open their group to its security group."""

    url: pulumi.Output[str]
    """Address to call, without a slash at its end."""
    dns_name: pulumi.Output[str]
    """The balancer's own DNS name."""
    target_group_arn: pulumi.Output[str]
    """Target group for a service; known once a listener forwards to it."""
    security_group_id: pulumi.Output[str]
    """Security group of the balancer; it has no way out until a service adds one."""
    load_balancer_arn: pulumi.Output[str]
    """ARN of the balancer."""
    load_balancer_suffix: pulumi.Output[str]
    """The balancer as CloudWatch's `LoadBalancer` dimension has it."""
    target_group_suffix: pulumi.Output[str]
    """The target group as CloudWatch's `TargetGroup` dimension has it."""
    alternate_target_group_arn: pulumi.Output[str]
    """Second target group, which is empty between deployments or holds all tasks; empty text unless `shift_traffic`."""
    alternate_target_group_suffix: pulumi.Output[str]
    """The second target group as CloudWatch's `TargetGroup` dimension has it; empty text unless `shift_traffic`."""
    listener_rule_arn: pulumi.Output[str]
    """Rule that says which group gets which share of requests; empty text unless `shift_traffic`."""
    name_servers: pulumi.Output[Sequence[str]]
    """Name servers to delegate the domain to; empty unless a zone was made."""

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = cast(LoadBalancerArgs, check_balancer(name, args, LoadBalancerArgs))
        super().__init__("prodkit:index:LoadBalancer", name, {}, opts)
        self._name = name
        self._args = args
        self._tags: Tags = args.get("tags", {})
        self._child = pulumi.ResourceOptions(parent=self)

        domain = args.get("domain_name")
        tls = domain is not None or args.get("certificate_arn") is not None
        group = self._security_group([80, 443] if tls else [80])
        balancer = self._balancer(group)
        targets = self._target_group("tg")
        zone_id, self.name_servers = self._zone()
        listener = self._listeners(balancer, targets, self._certificate(zone_id) if tls else None)
        if domain is not None and zone_id is not None:
            self._address(domain, zone_id, balancer)
        if args["waf"]:
            self._firewall(balancer)

        host: pulumi.Input[str] = balancer.dns_name if domain is None else domain
        self.url = pulumi.Output.concat("https://" if tls else "http://", host)
        self.dns_name = balancer.dns_name
        # ECS refuses a target group that no listener forwards to, so whoever gets the ARN also waits for the listener.
        self.target_group_arn = pulumi.Output.all(targets.arn, listener.arn).apply(lambda arns: str(arns[0]))
        nothing = pulumi.Output.from_input("")
        self.alternate_target_group_arn = self.alternate_target_group_suffix = self.listener_rule_arn = nothing
        if args.get("shift_traffic", False):
            self._shift(listener, targets)
        self.security_group_id = group.id
        self.load_balancer_arn = balancer.arn
        self.load_balancer_suffix = balancer.arn_suffix
        self.target_group_suffix = targets.arn_suffix
        self.register_outputs(
            {
                "url": self.url,
                "dns_name": self.dns_name,
                "target_group_arn": self.target_group_arn,
                "security_group_id": self.security_group_id,
                "load_balancer_arn": self.load_balancer_arn,
                "load_balancer_suffix": self.load_balancer_suffix,
                "target_group_suffix": self.target_group_suffix,
                "alternate_target_group_arn": self.alternate_target_group_arn,
                "alternate_target_group_suffix": self.alternate_target_group_suffix,
                "listener_rule_arn": self.listener_rule_arn,
                "name_servers": self.name_servers,
            }
        )

    def _security_group(self, ports: list[int]) -> aws.ec2.SecurityGroup:
        name = self._name
        group = aws.ec2.SecurityGroup(
            f"{name}-group",
            description="Load balancer: callers in, tasks out",
            vpc_id=self._args["vpc_id"],
            tags=named(self._tags, f"{name}-group"),
            opts=self._child,
        )
        for port in ports:
            for cidr in self._args.get("ingress_cidrs", ["0.0.0.0/0"]):
                aws.vpc.SecurityGroupIngressRule(
                    f"{name}-in-{port}-{cidr.replace('/', '-')}",
                    security_group_id=group.id,
                    description=f"Callers to port {port}",
                    cidr_ipv4=cidr,
                    ip_protocol="tcp",
                    from_port=port,
                    to_port=port,
                    tags=self._tags,
                    opts=self._child,
                )
        return group

    def _balancer(self, group: aws.ec2.SecurityGroup) -> aws.lb.LoadBalancer:
        args = self._args
        return aws.lb.LoadBalancer(
            f"{self._name}-alb",
            load_balancer_type="application",
            internal=args.get("internal", False),
            subnets=args["subnet_ids"],
            security_groups=[group.id],
            idle_timeout=args["idle_timeout_seconds"],
            client_keep_alive=args["client_keep_alive_seconds"],
            access_logs={"bucket": args["access_logs_bucket"], "prefix": self._name, "enabled": True},
            drop_invalid_header_fields=True,
            desync_mitigation_mode="defensive",
            xff_header_processing_mode="append",
            enable_deletion_protection=args["protect"],
            enable_waf_fail_open=False,
            tags=self._tags,
            opts=self._child,
        )

    def _target_group(self, suffix: str) -> aws.lb.TargetGroup:
        args = self._args
        return aws.lb.TargetGroup(
            f"{self._name}-{suffix}",
            vpc_id=args["vpc_id"],
            target_type="ip",
            port=args["target_port"],
            # TLS ends at the balancer; inside of the VPC only the balancer's security group reaches a task.
            protocol="HTTP",
            deregistration_delay=args["deregistration_delay_seconds"],
            # Answers differ in length by orders of magnitude: turns are no measure of a task's load.
            load_balancing_algorithm_type="least_outstanding_requests",
            stickiness={"type": "lb_cookie", "enabled": False},
            health_check={
                "path": args.get("health_check_path", "/health/ready"),
                "protocol": "HTTP",
                "port": "traffic-port",
                "matcher": "200",
                "interval": _timeouts.HEALTH_CHECK_INTERVAL_SECONDS,
                "timeout": _timeouts.HEALTH_CHECK_TIMEOUT_SECONDS,
                "healthy_threshold": _timeouts.HEALTHY_THRESHOLD,
                "unhealthy_threshold": _timeouts.UNHEALTHY_THRESHOLD,
            },
            tags=self._tags,
            opts=self._child,
        )

    def _zone(self) -> tuple[pulumi.Input[str] | None, pulumi.Output[Sequence[str]]]:
        args = self._args
        nobody: pulumi.Output[Sequence[str]] = pulumi.Output.from_input([])
        if not args.get("create_hosted_zone", False):
            return args.get("hosted_zone_id"), nobody
        zone = aws.route53.Zone(f"{self._name}-zone", name=args.get("domain_name"), tags=self._tags, opts=self._child)
        return zone.zone_id, zone.name_servers

    def _certificate(self, zone_id: pulumi.Input[str] | None) -> pulumi.Input[str]:
        """ARN of a certificate that is valid already: the adopted one, or a new one after DNS proved the domain."""
        adopted = self._args.get("certificate_arn")
        if adopted is not None:
            return adopted
        assert zone_id is not None, "checked before anything registers"
        certificate = aws.acm.Certificate(
            f"{self._name}-certificate",
            domain_name=self._args.get("domain_name"),
            validation_method="DNS",
            tags=self._tags,
            opts=self._child,
        )
        proof = certificate.domain_validation_options[0]
        record = aws.route53.Record(
            f"{self._name}-proof",
            zone_id=zone_id,
            name=proof.resource_record_name,
            type=proof.resource_record_type,
            records=[proof.resource_record_value],
            ttl=300,
            # ACM asks for the same record for every certificate of a domain, and another stack may have written it.
            allow_overwrite=True,
            opts=self._child,
        )
        valid = aws.acm.CertificateValidation(
            f"{self._name}-valid",
            certificate_arn=certificate.arn,
            validation_record_fqdns=[record.fqdn],
            opts=self._child,
        )
        return valid.certificate_arn

    def _listeners(
        self,
        balancer: aws.lb.LoadBalancer,
        targets: aws.lb.TargetGroup,
        certificate_arn: pulumi.Input[str] | None,
    ) -> aws.lb.Listener:
        """The listener that forwards; with a certificate another one redirects to it."""
        forward: aws.lb.ListenerDefaultActionArgsDict = {"type": "forward", "target_group_arn": targets.arn}
        if certificate_arn is None:
            return aws.lb.Listener(
                f"{self._name}-http",
                load_balancer_arn=balancer.arn,
                port=80,
                protocol="HTTP",
                default_actions=[forward],
                routing_http_response_server_enabled=False,
                tags=self._tags,
                opts=self._child,
            )
        aws.lb.Listener(
            f"{self._name}-redirect",
            load_balancer_arn=balancer.arn,
            port=80,
            protocol="HTTP",
            default_actions=[
                {"type": "redirect", "redirect": {"port": "443", "protocol": "HTTPS", "status_code": "HTTP_301"}}
            ],
            routing_http_response_server_enabled=False,
            tags=self._tags,
            opts=self._child,
        )
        return aws.lb.Listener(
            f"{self._name}-https",
            load_balancer_arn=balancer.arn,
            port=443,
            protocol="HTTPS",
            ssl_policy=TLS_POLICY,
            certificate_arn=certificate_arn,
            default_actions=[forward],
            routing_http_response_server_enabled=False,
            routing_http_response_strict_transport_security_header_value=_HSTS,
            tags=self._tags,
            opts=self._child,
        )

    def _shift(self, listener: aws.lb.Listener, targets: aws.lb.TargetGroup) -> None:
        """The second target group, and the rule by which ECS moves requests from one group to the other."""
        alternate = self._target_group("tg2")
        rule = aws.lb.ListenerRule(
            f"{self._name}-shift",
            listener_arn=listener.arn,
            priority=1,
            conditions=[{"path_pattern": {"values": ["/*"]}}],
            actions=[
                {
                    "type": "forward",
                    "forward": {
                        "target_groups": [{"arn": targets.arn, "weight": 100}, {"arn": alternate.arn, "weight": 0}],
                    },
                }
            ],
            tags=self._tags,
            # ECS writes the shares in every deployment; ours are those of the first day, all tasks being in one group.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["actions"]),
        )
        both = pulumi.Output.all(alternate.arn, rule.arn)
        self.alternate_target_group_arn = both.apply(lambda arns: str(arns[0]))
        self.alternate_target_group_suffix = alternate.arn_suffix
        self.listener_rule_arn = rule.arn

    def _address(self, domain: pulumi.Input[str], zone_id: pulumi.Input[str], balancer: aws.lb.LoadBalancer) -> None:
        aws.route53.Record(
            f"{self._name}-address",
            zone_id=zone_id,
            name=domain,
            type="A",
            aliases=[{"name": balancer.dns_name, "zone_id": balancer.zone_id, "evaluate_target_health": True}],
            opts=self._child,
        )

    def _firewall(self, balancer: aws.lb.LoadBalancer) -> None:
        name, args = self._name, self._args
        acl = aws.wafv2.WebAcl(
            f"{name}-waf",
            description="Attacks and floods stop here, prompts pass",
            scope="REGIONAL",
            default_action={"allow": {}},
            rules=_waf.rules(args["waf_requests_per_address"]),
            visibility_config=_waf.visibility(f"{name}-waf"),
            tags=self._tags,
            opts=self._child,
        )
        aws.wafv2.WebAclAssociation(f"{name}-waf-alb", resource_arn=balancer.arn, web_acl_arn=acl.arn, opts=self._child)
        log = aws.cloudwatch.LogGroup(
            f"{name}-waf-log",
            name_prefix=f"{_WEB_ACL_LOG_PREFIX}{name}-",
            retention_in_days=args["waf_log_retention_days"],
            kms_key_id=args.get("logs_key_arn"),
            tags=self._tags,
            opts=self._child,
        )
        aws.wafv2.WebAclLoggingConfiguration(
            f"{name}-waf-logging",
            resource_arn=acl.arn,
            log_destination_configs=[log.arn],
            redacted_fields=[{"single_header": {"name": header}} for header in ("authorization", "cookie")],
            opts=self._child,
        )
