"""The organization behind the Admin API: projects, their service accounts, and the keys that those have."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

ADMIN_KEY_START = "sk-admin-"
FIRST_PROJECT = "proj_simulator"


@dataclass(slots=True)
class Key:
    """A key of a service account, without its value."""

    id: str
    name: str
    account: str
    key_hash: str
    redacted: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None = None

    @property
    def is_expired(self) -> bool:
        """Whether its life is over."""
        return self.expires_at is not None and time.time() >= self.expires_at


@dataclass(slots=True)
class Account:
    """A service account."""

    id: str
    name: str
    role: str
    created_at: int


@dataclass(slots=True)
class Project:
    """A project with its service accounts and keys, by id, oldest first."""

    id: str
    name: str
    created_at: int
    accounts: dict[str, Account] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)


class Organization:
    """Every project, and which keys are valid because of them."""

    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.dead: set[str] = set()
        """Hashes of keys that were revoked."""
        self.reset()

    def reset(self) -> None:
        """Back to one empty project."""
        self.projects.clear()
        self.dead.clear()
        self.projects[FIRST_PROJECT] = Project(FIRST_PROJECT, "Default project", int(time.time()))

    def add_project(self, name: str) -> Project:
        """A new project."""
        made = Project(_id("proj"), name, int(time.time()))
        self.projects[made.id] = made
        return made

    def add_account(self, project: Project, name: str, role: str) -> Account:
        """A new service account of a project."""
        made = Account(_id("svc_acct"), name, role, int(time.time()))
        project.accounts[made.id] = made
        return made

    def add_key(
        self, project: Project, account: Account, name: str, value: str, key_hash: str, expires_in: int | None
    ) -> Key:
        """Remember a key of `value`, which is not kept."""
        now = int(time.time())
        expires = None if expires_in is None else now + expires_in
        redacted = f"{value[:8]}{'*' * 12}{value[-4:]}"
        made = Key(_id("key"), name, account.id, key_hash, redacted, now, expires)
        project.keys[made.id] = made
        return made

    def revoke(self, project: Project, key: Key) -> None:
        """A key is refused from now on."""
        del project.keys[key.id]
        self.dead.add(key.key_hash)

    def admits(self, key_hash: str) -> bool:
        """Whether a key is neither revoked nor expired; notes that it was used. Keys made elsewhere are admitted."""
        if key_hash in self.dead:
            return False
        for project in self.projects.values():
            for key in project.keys.values():
                if key.key_hash == key_hash:
                    key.last_used_at = int(time.time())
                    return not key.is_expired
        return True


def new_value() -> str:
    """The value of a new service account key: of OpenAI's shape, and nobody's."""
    return f"sk-svcacct-{secrets.token_urlsafe(32)}"


def show_project(project: Project) -> dict[str, Any]:
    """A project as the Admin API shows it."""
    return {
        "object": "organization.project",
        "id": project.id,
        "name": project.name,
        "created_at": project.created_at,
        "archived_at": None,
        "status": "active",
    }


def show_account(account: Account) -> dict[str, Any]:
    """A service account as the Admin API shows it."""
    return {
        "object": "organization.project.service_account",
        "id": account.id,
        "name": account.name,
        "role": account.role,
        "created_at": account.created_at,
    }


def show_new_key(key: Key, value: str) -> dict[str, Any]:
    """A key with its value, which is shown this once."""
    return {
        "object": "organization.project.service_account.api_key",
        "id": key.id,
        "name": key.name,
        "value": value,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


def show_key(project: Project, key: Key) -> dict[str, Any]:
    """A key as lists show it."""
    owner = show_account(project.accounts[key.account])
    del owner["object"]
    return {
        "object": "organization.project.api_key",
        "id": key.id,
        "name": key.name,
        "redacted_value": key.redacted,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "owner_project_access": "active",
        "owner": {"type": "service_account", "service_account": owner},
    }


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
