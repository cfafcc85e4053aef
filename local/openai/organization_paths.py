"""The part of the Admin API that key rotation and the ledger use, under `/v1/organization/`."""

from typing import Any, TypeVar
from urllib.parse import parse_qs

import orjson

from local.openai.checks import missing, wrong_type
from local.openai.errors import ApiError, bad, unknown_parameter
from local.openai.organization import (
    Account,
    Key,
    Organization,
    Project,
    new_value,
    show_account,
    show_key,
    show_new_key,
    show_project,
)
from local.openai.request import Request
from local.openai.state import key_hash

T = TypeVar("T")

PREFIX = "/v1/organization/"
_MOST_LISTED = 100
_LISTED = 20  # unless the caller says otherwise


async def administer(request: Request) -> None:
    """Answer a request that an admin key makes; 404 for what is not there."""
    await request.reply(_Call(request).answer())


class _Call:
    """One request with what its path names."""

    def __init__(self, request: Request) -> None:
        self.organization: Organization = request.simulator.organization
        self.simulator = request.simulator
        self.method, self.path = request.entry.method, request.entry.path
        self.query = parse_qs(request.query)
        self.raw_query = request.query
        self.bill = request.simulator.bill
        self.raw = request.raw

    def answer(self) -> dict[str, Any]:
        match self.path.removeprefix(PREFIX).split("/"):
            case ["costs"] | ["usage", "completions" | "embeddings" | "moderations"]:
                self._only("GET")
                return self.bill.answer(self.path.rpartition("/")[2], self.raw_query)
            case ["projects"]:
                return self._projects()
            case ["projects", project]:
                self._only("GET")
                return show_project(self._project(project))
            case ["projects", project, "service_accounts"]:
                return self._accounts(self._project(project))
            case ["projects", project, "service_accounts", account]:
                return self._one_account(self._project(project), account)
            case ["projects", project, "service_accounts", account, "api_keys"]:
                self._only("POST")
                found = self._project(project)
                return self._new_key(found, self._account(found, account))
            case ["projects", project, "api_keys"]:
                self._only("GET")
                found = self._project(project)
                return self._page([show_key(found, key) for key in found.keys.values()])
            case ["projects", project, "api_keys", key]:
                found = self._project(project)
                return self._one_key(found, self._key(found, key))
        raise self._invalid()

    def _projects(self) -> dict[str, Any]:
        if self._only("GET", "POST") == "GET":
            return self._page([show_project(one) for one in self.organization.projects.values()])
        return show_project(self.organization.add_project(self._text(self._body("name"), "name")))

    def _accounts(self, project: Project) -> dict[str, Any]:
        if self._only("GET", "POST") == "GET":
            return self._page([show_account(one) for one in project.accounts.values()])
        body = self._body("name", "create_service_account_only", "expires_in_seconds")
        alone = body.get("create_service_account_only") or False
        account = self.organization.add_account(project, self._text(body, "name"), "none" if alone else "member")
        if alone:
            return {**show_account(account), "api_key": None}
        return {**show_account(account), "api_key": self._made_key(project, account, "Secret Key", body)}

    def _one_account(self, project: Project, name: str) -> dict[str, Any]:
        account = self._account(project, name)
        if self._only("GET", "DELETE") == "GET":
            return show_account(account)
        for key in [key for key in project.keys.values() if key.account == account.id]:
            self.organization.revoke(project, key)
        del project.accounts[account.id]
        return {"object": "organization.project.service_account.deleted", "id": account.id, "deleted": True}

    def _new_key(self, project: Project, account: Account) -> dict[str, Any]:
        body = self._body("name", "expires_in_seconds", "scopes")
        name = body.get("name") or "Secret Key"
        return self._made_key(project, account, name, body)

    def _made_key(self, project: Project, account: Account, name: str, body: dict[str, Any]) -> dict[str, Any]:
        expires = body.get("expires_in_seconds")
        if expires is not None and type(expires) is not int:
            raise wrong_type("expires_in_seconds", "an integer", expires)
        value = new_value()
        key = self.organization.add_key(project, account, name, value, key_hash(value), expires)
        if self.simulator.accepted_keys is not None:
            self.simulator.accepted_keys |= {key.key_hash}
        return show_new_key(key, value)

    def _one_key(self, project: Project, key: Key) -> dict[str, Any]:
        if self._only("GET", "DELETE") == "GET":
            return show_key(project, key)
        self.organization.revoke(project, key)
        return {"object": "organization.project.api_key.deleted", "id": key.id, "deleted": True}

    def _project(self, name: str) -> Project:
        return self._found(self.organization.projects.get(name), "project", name)

    def _account(self, project: Project, name: str) -> Account:
        return self._found(project.accounts.get(name), "service account", name)

    def _key(self, project: Project, name: str) -> Key:
        return self._found(project.keys.get(name), "API key", name)

    def _found(self, thing: T | None, kind: str, name: str) -> T:
        if thing is None:
            raise ApiError(404, f"No such {kind}: '{name}'.", "not_found")
        return thing

    def _only(self, *methods: str) -> str:
        if self.method not in methods:
            raise self._invalid()
        return self.method

    def _invalid(self) -> ApiError:
        return ApiError(404, f"Invalid URL ({self.method} {self.path})")

    def _body(self, *fields: str) -> dict[str, Any]:
        try:
            body = orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise bad("We could not parse the JSON body of your request. The API expects a JSON payload.")
        for name in body:
            if name not in fields:
                raise unknown_parameter(name)
        return body

    def _text(self, body: dict[str, Any], name: str) -> str:
        value = body.get(name)
        if value is None:
            raise missing(name)
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        return value

    def _page(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """The part of a list that `after` and `limit` ask for."""
        limit = self.query.get("limit", [str(_LISTED)])[0]
        if not limit.isdigit() or not 1 <= int(limit) <= _MOST_LISTED:
            raise bad(f"Invalid 'limit': choose 1 to {_MOST_LISTED}.", "limit", "invalid_value")
        ids = [item["id"] for item in items]
        after = self.query.get("after", [""])[0]
        start = ids.index(after) + 1 if after in ids else 0
        page = items[start : start + int(limit)]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + len(page) < len(items),
        }
