"""ElastiCache users and user groups, which moto keeps without their relations.

Create, Describe, Modify and DeleteUser          aws_elasticache_user
Create, Describe, Modify and DeleteUserGroup     aws_elasticache_user_group
"""

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.services.elasticache_store import SERVICE, create, delete, described


def _authentication(call: Call) -> Record:
    mode = call.get("AuthenticationMode", {})
    passwords = call.get("Passwords") or mode.get("Passwords") or []
    if mode.get("Type") == "iam":
        return {"Type": "iam"}
    if passwords:
        return {"Type": "password", "PasswordCount": len(passwords)}
    return {"Type": "no-password"}


@api(SERVICE, "CreateUser")
def create_user(call: Call) -> Record:
    """CreateUser."""
    if any(
        len(password) < 16
        for password in call.get("Passwords") or call.get("AuthenticationMode", {}).get("Passwords") or []
    ):
        raise AwsError("InvalidParameterValue", "Passwords length must be between 16-128 characters.")
    user = {
        **call.pick("UserId", "UserName", "Engine", "AccessString"),
        "Status": "active",
        "MinimumEngineVersion": "6.0",
        "UserGroupIds": [],
        "Authentication": _authentication(call),
    }
    return create(call, "users", call["UserId"], user, "user")


def _with_groups(call: Call, user: Record) -> Record:
    member_of = [name for name, group in call.table("user groups").items() if user["UserId"] in group["UserIds"]]
    return {**user, "UserGroupIds": member_of}


@api(SERVICE, "DescribeUsers")
def describe_users(call: Call) -> Record:
    """DescribeUsers."""
    return {"Users": [_with_groups(call, user) for user in described(call, "users", "UserId", "UserNotFoundFault")]}


@api(SERVICE, "ModifyUser")
def modify_user(call: Call) -> Record:
    """ModifyUser."""
    user = call.find("users", call["UserId"], "UserNotFoundFault")
    user.update(call.pick("AccessString", "Engine"))
    if call.get("Passwords") or call.get("AuthenticationMode") or call.get("NoPasswordRequired"):
        user["Authentication"] = _authentication(call)
    return _with_groups(call, user)


@api(SERVICE, "DeleteUser")
def delete_user(call: Call) -> Record:
    """DeleteUser."""
    user = delete(call, "users", call["UserId"], "UserNotFoundFault")
    for group in call.table("user groups").values():
        group["UserIds"] = [one for one in group["UserIds"] if one != call["UserId"]]
    return {**user, "Status": "deleting"}


def _user_group(call: Call, group: Record) -> Record:
    using = [
        name
        for name, one in call.table("replication groups").items()
        if group["UserGroupId"] in one.get("UserGroupIds", [])
    ]
    serverless = [
        name for name, one in call.table("serverless caches").items() if one.get("UserGroupId") == group["UserGroupId"]
    ]
    return {**group, "ReplicationGroups": using, "ServerlessCaches": serverless}


@api(SERVICE, "CreateUserGroup")
def create_user_group(call: Call) -> Record:
    """CreateUserGroup."""
    for user in call.get("UserIds", []):
        if user != "default":
            call.find("users", user, "UserNotFoundFault")
    group = {
        **call.pick("UserGroupId", "Engine"),
        "UserIds": call.get("UserIds", []),
        "Status": "active",
        "MinimumEngineVersion": "6.0",
        "PendingChanges": {},
    }
    return create(call, "user groups", call["UserGroupId"], group, "usergroup")


@api(SERVICE, "DescribeUserGroups")
def describe_user_groups(call: Call) -> Record:
    """DescribeUserGroups."""
    return {
        "UserGroups": [
            _user_group(call, group)
            for group in described(call, "user groups", "UserGroupId", "UserGroupNotFoundFault")
        ]
    }


@api(SERVICE, "ModifyUserGroup")
def modify_user_group(call: Call) -> Record:
    """ModifyUserGroup."""
    group = call.find("user groups", call["UserGroupId"], "UserGroupNotFoundFault")
    kept = [one for one in group["UserIds"] if one not in call.get("UserIdsToRemove", [])]
    group["UserIds"] = kept + call.get("UserIdsToAdd", [])
    group.update(call.pick("Engine"))
    return _user_group(call, group)


@api(SERVICE, "DeleteUserGroup")
def delete_user_group(call: Call) -> Record:
    """DeleteUserGroup."""
    group = delete(call, "user groups", call["UserGroupId"], "UserGroupNotFoundFault")
    return {**group, "Status": "deleting"}
