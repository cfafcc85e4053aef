"""The Admin API as the official client meets it: service accounts, their keys, and which of those are accepted."""

import secrets
from collections.abc import Iterator

import openai
import pytest

from local.openai.organization import FIRST_PROJECT
from local.openai.server import Running

pytestmark = pytest.mark.process
MODEL = "gpt-6-luna"


@pytest.fixture(scope="session")
def admin_key() -> str:
    return f"sk-admin-{secrets.token_urlsafe(24)}"


@pytest.fixture
def admin(simulator: Running, admin_key: str) -> Iterator[openai.OpenAI]:
    """The official client with an admin key alone."""
    with openai.OpenAI(
        admin_api_key=admin_key, base_url=simulator.base_url, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def works(simulator: Running, value: str) -> bool:
    """Whether a key is accepted by the API of models."""
    with openai.OpenAI(api_key=value, base_url=simulator.base_url, max_retries=0) as client:
        try:
            client.models.list()
        except openai.AuthenticationError:
            return False
    return True


def account_with_key(admin: openai.OpenAI) -> tuple[str, str, str]:
    """A new service account: its id, and its first key's id and value."""
    made = admin.admin.organization.projects.service_accounts.create(FIRST_PROJECT, name="app")
    assert made.api_key is not None
    return made.id, made.api_key.id, made.api_key.value


def test_a_key_of_a_service_account_works_until_it_is_revoked(simulator: Running, admin: openai.OpenAI) -> None:
    account, first, first_value = account_with_key(admin)
    projects = admin.admin.organization.projects
    second = projects.service_accounts.api_keys.create(account, project_id=FIRST_PROJECT, name="second")
    assert works(simulator, first_value)
    assert works(simulator, second.value)
    assert projects.api_keys.delete(first, project_id=FIRST_PROJECT).deleted
    assert not works(simulator, first_value)
    assert works(simulator, second.value)
    assert [key.id for key in projects.api_keys.list(FIRST_PROJECT)] == [second.id]


def test_a_list_shows_whose_a_key_is_and_never_its_value(simulator: Running, admin: openai.OpenAI) -> None:
    account, key, value = account_with_key(admin)
    listed = admin.admin.organization.projects.api_keys.retrieve(key, project_id=FIRST_PROJECT)
    assert listed.owner.service_account is not None
    assert listed.owner.service_account.id == account
    assert listed.last_used_at is None
    assert value not in listed.to_json()
    assert works(simulator, value)
    assert admin.admin.organization.projects.api_keys.retrieve(key, project_id=FIRST_PROJECT).last_used_at is not None


def test_a_long_list_comes_in_pages(admin: openai.OpenAI) -> None:
    account, first, _ = account_with_key(admin)
    projects = admin.admin.organization.projects
    made = [
        projects.service_accounts.api_keys.create(account, project_id=FIRST_PROJECT, name=f"{number}").id
        for number in range(4)
    ]
    assert [key.id for key in projects.api_keys.list(FIRST_PROJECT, limit=2)] == [first, *made]


def test_where_only_some_keys_are_accepted_a_new_one_is_too(
    simulator: Running, admin: openai.OpenAI, admin_key: str, key: str
) -> None:
    simulator.accept_keys(key, admin_key)
    _, _, value = account_with_key(admin)
    assert works(simulator, key)
    assert works(simulator, value)
    assert not works(simulator, f"sk-{secrets.token_urlsafe(24)}")


def test_a_key_that_has_expired_is_refused(simulator: Running, admin: openai.OpenAI) -> None:
    account, _, _ = account_with_key(admin)
    made = admin.admin.organization.projects.service_accounts.api_keys.create(
        account, project_id=FIRST_PROJECT, expires_in_seconds=0
    )
    assert made.expires_at == made.created_at
    assert not works(simulator, made.value)


def test_keys_go_with_their_service_account(simulator: Running, admin: openai.OpenAI) -> None:
    account, _, value = account_with_key(admin)
    accounts = admin.admin.organization.projects.service_accounts
    assert [one.id for one in accounts.list(FIRST_PROJECT)] == [account]
    assert accounts.delete(account, project_id=FIRST_PROJECT).deleted
    assert not works(simulator, value)
    assert list(accounts.list(FIRST_PROJECT)) == []


def test_projects_are_made_and_found(admin: openai.OpenAI) -> None:
    projects = admin.admin.organization.projects
    made = projects.create(name="production")
    assert projects.retrieve(made.id).name == "production"
    assert [one.id for one in projects.list()] == [FIRST_PROJECT, made.id]


def test_admin_keys_and_keys_of_projects_do_not_stand_in_for_each_other(
    simulator: Running, admin_key: str, key: str
) -> None:
    with openai.OpenAI(api_key=admin_key, admin_api_key=key, base_url=simulator.base_url, max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError, match="Missing scopes"):
            client.models.list()
        with pytest.raises(openai.PermissionDeniedError, match="Missing scopes"):
            client.admin.organization.projects.list()


def test_what_does_not_exist_is_not_found(admin: openai.OpenAI) -> None:
    projects = admin.admin.organization.projects
    for attempt in (
        lambda: projects.retrieve("proj_none"),
        lambda: projects.service_accounts.api_keys.create("svc_acct_none", project_id=FIRST_PROJECT),
        lambda: projects.api_keys.delete("key_none", project_id=FIRST_PROJECT),
        lambda: admin.admin.organization.invites.list(),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()


def test_a_malformed_request_is_refused(admin: openai.OpenAI) -> None:
    accounts = admin.admin.organization.projects.service_accounts
    with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'colour'"):
        accounts.create(FIRST_PROJECT, name="app", extra_body={"colour": "red"})
    with pytest.raises(openai.BadRequestError, match="'limit'"):
        accounts.list(FIRST_PROJECT, limit=1000)


def test_faults_strike_the_admin_api_by_method(simulator: Running, admin: openai.OpenAI) -> None:
    account_with_key(admin)
    simulator.fault("status", status=500, match={"method": "DELETE"})
    projects = admin.admin.organization.projects
    (key,) = projects.api_keys.list(FIRST_PROJECT)
    with pytest.raises(openai.InternalServerError):
        projects.api_keys.delete(key.id, project_id=FIRST_PROJECT)
    assert projects.api_keys.delete(key.id, project_id=FIRST_PROJECT).deleted


def test_a_reset_forgets_every_key(simulator: Running, admin: openai.OpenAI) -> None:
    _, _, value = account_with_key(admin)
    simulator.reset()
    assert list(admin.admin.organization.projects.api_keys.list(FIRST_PROJECT)) == []
    assert works(simulator, value)
