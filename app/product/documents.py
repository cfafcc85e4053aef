"""A tenant's documents: the text and its passages in S3, their state and the tenant's epoch in the state table."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import orjson

from app.aws import Aws, error_code
from app.cache.wishes import DOCUMENTS_TAG
from app.errors import ApiError

ID = re.compile(r"doc_[0-9a-f]{28}\Z")
TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
KEY_ID = re.compile(r"[0-9a-f]{12}\Z")
PENDING, READY, FAILED = "pending", "ready", "failed"
MESSAGE_VERSION = 1
MAX_REASON_CHARACTERS = 500
Invalidate = Callable[[str, str], Awaitable[None]]
"""Called with a tenant and a tag."""
_GONE = frozenset({"NoSuchKey", "404"})
_CONDITION_FAILED = "ConditionalCheckFailedException"


@dataclass(frozen=True, slots=True)
class Document:
    """What is known of one document. `bytes` counts its UTF-8 text, `created_at` is in Unix seconds."""

    id: str
    name: str
    status: str
    """`pending` until the worker has read it, then `ready`, or `failed` with a reason."""
    bytes: int
    chunks: int
    created_at: int
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        """The document as /documents shows it."""
        state = {"status": self.status, "reason": self.reason, "bytes": self.bytes, "chunks": self.chunks}
        return {"id": self.id, "object": "document", "name": self.name, **state, "created_at": self.created_at}


@dataclass(frozen=True, slots=True)
class Job:
    """What a queue message asks for: read one document, on the account of the key that posted it."""

    tenant: str
    document_id: str
    key_id: str

    def to_message(self) -> str:
        """The message body."""
        asked = {"tenant": self.tenant, "document_id": self.document_id, "key_id": self.key_id}
        return orjson.dumps({"version": MESSAGE_VERSION, "kind": "ingest", **asked}).decode()

    @classmethod
    def from_message(cls, body: str) -> Job:
        """The job in a message body; raises ValueError for anything that `to_message` does not write."""
        found = orjson.loads(body)
        if not isinstance(found, dict) or found.get("version") != MESSAGE_VERSION or found.get("kind") != "ingest":
            raise ValueError("not an ingest message of a known version")
        job = cls(str(found.get("tenant")), str(found.get("document_id")), str(found.get("key_id")))
        # The parts become keys of other stores: nothing but our own names may pass.
        if not TENANT.match(job.tenant) or not ID.match(job.document_id) or not KEY_ID.match(job.key_id):
            raise ValueError("the message names no valid tenant, document and key")
        return job


class Documents:
    """Reads and writes documents. Every method raises ApiError 503 `service_unavailable` when AWS does not answer."""

    def __init__(self, aws: Aws, *, table: str, bucket: str, queue_url: str, invalidate: Invalidate) -> None:
        """`invalidate` makes a tenant's answers from documents unreachable; it returns once that is so everywhere."""
        self._aws = aws
        self._invalidate = invalidate
        self._table = table
        self._bucket = bucket
        self._queue_url = queue_url

    async def create(self, tenant: str, key_id: str, name: str, text: str) -> Document:
        """Keep a text, note it as pending and queue it for the worker; nothing stays behind when queueing fails."""
        now = time.time()
        # The time leads, so that the order of the ids is the order of arrival.
        document_id = f"doc_{int(now * 1000):012x}{secrets.token_hex(8)}"
        body = text.encode()
        document = Document(document_id, name, PENDING, len(body), 0, int(now))
        await self._put_object(tenant, document_id, "source", body, "text/plain; charset=utf-8")
        try:
            await self._call("dynamodb", "put_item", TableName=self._table, Item=_item(tenant, key_id, document))
            message = Job(tenant, document_id, key_id).to_message()
            await self._call("sqs", "send_message", QueueUrl=self._queue_url, MessageBody=message)
        except ApiError:
            await self.delete(tenant, document_id)
            raise
        return document

    async def get(self, tenant: str, document_id: str) -> Document | None:
        """One document as it is now, None when there is none of that id."""
        key = _key(tenant, document_id)
        found = await self._call("dynamodb", "get_item", TableName=self._table, Key=key, ConsistentRead=True)
        return _document(found["Item"]) if "Item" in found else None

    async def page(self, tenant: str, limit: int, after: str | None) -> tuple[list[Document], bool]:
        """Up to `limit` documents, newest first, older than the one named `after`; and whether there are more."""
        query = self._query(tenant) | {"ScanIndexForward": False, "Limit": limit + 1}
        if after is not None:
            query["ExclusiveStartKey"] = _key(tenant, after)
        found = await self._call("dynamodb", "query", **query)
        documents = [_document(item) for item in found["Items"]]
        return documents[:limit], len(documents) > limit

    async def ready(self, tenant: str) -> list[Document]:
        """Every document that can be searched, oldest first."""
        query = self._query(tenant)
        documents: list[Document] = []
        while True:
            found = await self._call("dynamodb", "query", **query)
            documents += [_document(item) for item in found["Items"]]
            if "LastEvaluatedKey" not in found:
                return [document for document in documents if document.status == READY]
            query["ExclusiveStartKey"] = found["LastEvaluatedKey"]

    async def delete(self, tenant: str, document_id: str) -> None:
        """Remove every object and the item of a document, and tell the indexes; doing it again is no error."""
        await self._delete_objects(tenant, document_id)
        await self._call("dynamodb", "delete_item", TableName=self._table, Key=_key(tenant, document_id))
        # A worker may have written its passages between the two; one that writes later removes them itself (finish).
        await self._delete_objects(tenant, document_id)
        await self.bump(tenant)

    async def source(self, tenant: str, document_id: str) -> bytes | None:
        """The text as it was kept, None when it was deleted."""
        return await self._get_object(tenant, document_id, "source")

    async def passages_file(self, tenant: str, document_id: str) -> bytes | None:
        """The passages and vectors as `vectors.pack` wrote them, None when they were deleted."""
        return await self._get_object(tenant, document_id, "chunks.json")

    async def finish(self, tenant: str, document_id: str, passages_file: bytes, chunks: int) -> bool:
        """Keep the passages and call the document ready; False when it was deleted meanwhile, and nothing is kept."""
        await self._put_object(tenant, document_id, "chunks.json", passages_file, "application/json")
        values = {":status": {"S": READY}, ":chunks": {"N": str(chunks)}}
        change = "SET #status = :status, chunks = :chunks REMOVE reason"
        if await self._update(tenant, document_id, change, values):
            await self.bump(tenant)
            return True
        await self._delete_objects(tenant, document_id)
        return False

    async def fail(self, tenant: str, document_id: str, reason: str) -> bool:
        """Call a document failed, with a reason its owner can act on; False when it was not pending any more."""
        said = {":reason": {"S": reason[:MAX_REASON_CHARACTERS]}}
        values = {":failed": {"S": FAILED}, ":pending": {"S": PENDING}, **said}
        change = "SET #status = :failed, reason = :reason"
        return await self._update(tenant, document_id, change, values, "#status = :pending")

    async def epoch(self, tenant: str) -> int:
        """A number that grows with every change of what can be searched."""
        key = {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": "EPOCH"}}
        found = await self._call("dynamodb", "get_item", TableName=self._table, Key=key, ConsistentRead=True)
        return int(found["Item"]["n"]["N"]) if "Item" in found else 0

    async def bump(self, tenant: str) -> None:
        """Make every replica look again at what can be searched, and forget each answer that was made from it.

        Returns when all have; raises ApiError 503 when that cannot be known, and then it is to be done again.
        """
        await self._call(
            "dynamodb",
            "update_item",
            TableName=self._table,
            Key={"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": "EPOCH"}},
            UpdateExpression="ADD n :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )
        await self._invalidate(tenant, DOCUMENTS_TAG)

    def _query(self, tenant: str) -> dict[str, Any]:
        return {
            "TableName": self._table,
            "ConsistentRead": True,
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :document)",
            "ExpressionAttributeValues": {":pk": {"S": f"TENANT#{tenant}"}, ":document": {"S": "DOC#"}},
        }

    async def _update(
        self,
        tenant: str,
        document_id: str,
        change: str,
        values: dict[str, Any],
        condition: str = "attribute_exists(pk)",
    ) -> bool:
        """Change an item if it still is as it must be; False when it is not."""
        answer = await self._call(
            "dynamodb",
            "update_item",
            expected={_CONDITION_FAILED},
            TableName=self._table,
            Key=_key(tenant, document_id),
            UpdateExpression=change,
            ConditionExpression=condition,
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues=values,
        )
        return answer is not None

    async def _put_object(self, tenant: str, document_id: str, part: str, body: bytes, content_type: str) -> None:
        key = _object(tenant, document_id, part)
        await self._call("s3", "put_object", Bucket=self._bucket, Key=key, Body=body, ContentType=content_type)

    async def _get_object(self, tenant: str, document_id: str, part: str) -> bytes | None:
        key = _object(tenant, document_id, part)
        answer = await self._call("s3", "get_object", expected=_GONE, Bucket=self._bucket, Key=key)
        return None if answer is None else bytes(await self._aws.run(answer["Body"].read))

    async def _delete_objects(self, tenant: str, document_id: str) -> None:
        keys = [{"Key": _object(tenant, document_id, part)} for part in ("source", "chunks.json")]
        answer = await self._call("s3", "delete_objects", Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True})
        if answer.get("Errors"):  # S3 answers 200 even when it could not delete
            raise ApiError("service_unavailable", "The document's text could not be deleted; try again.")

    async def _call(self, service: str, operation: str, *, expected: Collection[str] = (), **parameters: Any) -> Any:
        """One AWS operation; None when it fails with an expected code."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return await self._aws.call(service, operation, **parameters)
        except (BotoCoreError, ClientError) as error:
            if error_code(error) in expected:
                return None
            message = f"The documents cannot be reached just now ({error_code(error)}); try again."
            raise ApiError("service_unavailable", message, headers={"retry-after": "1"}) from error


def _key(tenant: str, document_id: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"TENANT#{tenant}"}, "sk": {"S": f"DOC#{document_id}"}}


def _object(tenant: str, document_id: str, part: str) -> str:
    return f"tenants/{tenant}/{document_id}/{part}"


def _item(tenant: str, key_id: str, document: Document) -> dict[str, dict[str, str]]:
    return {
        **_key(tenant, document.id),
        "name": {"S": document.name},
        "status": {"S": document.status},
        "bytes": {"N": str(document.bytes)},
        "chunks": {"N": str(document.chunks)},
        "created_at": {"N": str(document.created_at)},
        "key_id": {"S": key_id},
    }


def _document(item: dict[str, Any]) -> Document:
    return Document(
        id=item["sk"]["S"].removeprefix("DOC#"),
        name=item["name"]["S"],
        status=item["status"]["S"],
        bytes=int(item["bytes"]["N"]),
        chunks=int(item["chunks"]["N"]),
        created_at=int(item["created_at"]["N"]),
        reason=item["reason"]["S"] if "reason" in item else None,
    )
