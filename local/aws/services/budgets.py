"""AWS Budgets: moto keeps a budget but not its subscribers or tags.

CreateBudget, DescribeBudget, UpdateBudget, DeleteBudget                aws_budgets_budget
CreateNotification, DeleteNotification, DescribeNotificationsForBudget  its notification blocks
DescribeSubscribersForNotification                                      read for every notification on refresh
CreateSubscriber, DeleteSubscriber                                      a changed e-mail address or topic
ListTagsForResource, TagResource, UntagResource
"""

import datetime
from typing import Any

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.state import now
from local.aws.tags import mapping, tagging

SERVICE = "budgets"
FOREVER = datetime.datetime(2087, 6, 15, tzinfo=datetime.UTC)
"""The end that AWS answers for a budget without one."""
COST_TYPES = {
    "IncludeTax": True,
    "IncludeSubscription": True,
    "UseBlended": False,
    "IncludeRefund": True,
    "IncludeCredit": True,
    "IncludeUpfront": True,
    "IncludeRecurring": True,
    "IncludeOtherSubscription": True,
    "IncludeSupport": True,
    "IncludeDiscount": True,
    "UseAmortized": False,
}
tagging(SERVICE, arn="ResourceARN", tags="ResourceTags", keys="ResourceTagKeys", as_list=True)


def _budgets(call: Call) -> dict[str, Record]:
    return call.table("budgets", region="aws")  # a global service: one store whatever region signs


def _budget(call: Call) -> Record:
    found = _budgets(call).get(call["BudgetName"])
    if found is None:
        raise AwsError("NotFoundException", f"Unable to get budget: {call['BudgetName']} - the budget doesn't exist.")
    return found


def _arn(call: Call, name: str) -> str:
    return f"arn:aws:budgets::{call.account}:budget/{name}"


def _completed(sent: Record) -> Record:
    start = now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    budget = {**sent, "TimePeriod": {"Start": start, "End": FOREVER, **(sent.get("TimePeriod") or {})}}
    if budget["BudgetType"] == "COST":
        budget["CostTypes"] = {**COST_TYPES, **(sent.get("CostTypes") or {})}
    budget["CalculatedSpend"] = {"ActualSpend": {"Amount": "0.0", "Unit": "USD"}}
    budget["LastUpdatedTime"] = now()
    return budget


@api(SERVICE, "CreateBudget")
def create_budget(call: Call) -> Record:
    """CreateBudget, with or without notifications."""
    budget = call["Budget"]
    name = budget["BudgetName"]
    if name in _budgets(call):
        raise AwsError("DuplicateRecordException", f"Error creating budget: {name} - the budget already exists.")
    sent = call.get("NotificationsWithSubscribers", [])
    _budgets(call)[name] = {
        "budget": _completed(budget),
        "notifications": [(_notification(one["Notification"]), list(one["Subscribers"])) for one in sent],
    }
    call.tags(_arn(call, name)).update(mapping(call.get("ResourceTags")))
    return {}


@api(SERVICE, "DescribeBudget")
def describe_budget(call: Call) -> Record:
    """DescribeBudget."""
    return {"Budget": _budget(call)["budget"]}


@api(SERVICE, "UpdateBudget")
def update_budget(call: Call) -> Record:
    """UpdateBudget."""
    new = call["NewBudget"]
    kept = _budgets(call).get(new["BudgetName"])
    if kept is None:
        text = f"Unable to update budget: {new['BudgetName']} - the budget doesn't exist."
        raise AwsError("NotFoundException", text)
    kept["budget"] = _completed(new)
    return {}


@api(SERVICE, "DeleteBudget")
def delete_budget(call: Call) -> Record:
    """DeleteBudget."""
    _budget(call)
    del _budgets(call)[call["BudgetName"]]
    call.table("tags").pop(_arn(call, call["BudgetName"]), None)
    return {}


def _notification(sent: Record) -> Record:
    return {"ThresholdType": "PERCENTAGE", "NotificationState": "OK", **sent}


def _same(one: Record, other: Record) -> bool:
    keys = ("NotificationType", "ComparisonOperator", "Threshold", "ThresholdType")
    return all(one.get(key) == other.get(key) for key in keys)


def _subscribers(call: Call) -> list[Any]:
    wanted = _notification(call["Notification"])
    found: list[Any]
    for notification, found in _budget(call)["notifications"]:
        if _same(notification, wanted):
            return found
    raise AwsError("NotFoundException", "Unable to find the notification.")


@api(SERVICE, "CreateNotification")
def create_notification(call: Call) -> Record:
    """CreateNotification."""
    kept, wanted = _budget(call), _notification(call["Notification"])
    if any(_same(notification, wanted) for notification, _ in kept["notifications"]):
        raise AwsError("DuplicateRecordException", "The notification already exists.")
    kept["notifications"].append((wanted, list(call["Subscribers"])))
    return {}


@api(SERVICE, "DeleteNotification")
def delete_notification(call: Call) -> Record:
    """DeleteNotification."""
    kept, wanted = _budget(call), _notification(call["Notification"])
    _subscribers(call)
    kept["notifications"] = [pair for pair in kept["notifications"] if not _same(pair[0], wanted)]
    return {}


@api(SERVICE, "DescribeNotificationsForBudget")
def describe_notifications(call: Call) -> Record:
    """DescribeNotificationsForBudget."""
    return {"Notifications": [notification for notification, _ in _budget(call)["notifications"]]}


@api(SERVICE, "DescribeSubscribersForNotification")
def describe_subscribers(call: Call) -> Record:
    """DescribeSubscribersForNotification."""
    return {"Subscribers": _subscribers(call)}


@api(SERVICE, "CreateSubscriber")
def create_subscriber(call: Call) -> Record:
    """CreateSubscriber."""
    _subscribers(call).append(call["Subscriber"])
    return {}


@api(SERVICE, "DeleteSubscriber")
def delete_subscriber(call: Call) -> Record:
    """DeleteSubscriber."""
    _subscribers(call).remove(call["Subscriber"])
    return {}
