"""S3's XML: small builders for answers, small readers for what clients send."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from launcher.local.store_model import StoredObject, StoreError

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
# parsers turn a bare line end into \n and drop other control characters' meaning; references survive
CONTROL = {chr(code): f"&#x{code:X};" for code in range(32)}


@dataclass(frozen=True)
class Response:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()


def node(name: str, *children: str) -> str:
    return f"<{name}>{''.join(children)}</{name}>"


def text(name: str, value: object) -> str:
    return f"<{name}>{escape(str(value), CONTROL)}</{name}>"


def document(root: str, *children: str) -> bytes:
    inner = "".join(children)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{NAMESPACE}">{inner}</{root}>'.encode()


def xml_response(root: str, *children: str, headers: dict[str, str] | None = None) -> Response:
    return bytes_response(document(root, *children), "application/xml", headers)


def bytes_response(body: bytes, content_type: str, headers: dict[str, str] | None = None) -> Response:
    kept = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
    return Response(200, kept, (body,))


def empty_response(status: int = 200, headers: dict[str, str] | None = None) -> Response:
    length = {} if status in (204, 304) else {"Content-Length": "0"}
    return Response(status, {**length, **(headers or {})})


def quoted(etag: str) -> str:
    return f'"{etag}"'


def iso_time(epoch: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(epoch))


def http_time(epoch: float) -> str:
    return formatdate(int(epoch), usegmt=True)


def render_tags(tags: dict[str, str]) -> str:
    return node("TagSet", *(node("Tag", text("Key", key), text("Value", value)) for key, value in tags.items()))


def render_copy(root: str, stored: StoredObject) -> Response:
    return xml_response(root, text("LastModified", iso_time(stored.modified)), text("ETag", quoted(stored.etag)))


def parse_xml(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise malformed_xml() from error


def iter_named(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Elements of that name at any depth, with or without S3's namespace: clients send both."""
    return (element for element in root.iter() if local_name(element) == name)


def find_text(parent: ElementTree.Element, name: str) -> str | None:
    return next((element.text or "" for element in parent if local_name(element) == name), None)


def need_text(parent: ElementTree.Element, name: str) -> str:
    found = find_text(parent, name)
    if found is None:
        raise malformed_xml()
    return found


def parse_tags(body: bytes) -> dict[str, str]:
    return {need_text(tag, "Key"): need_text(tag, "Value") for tag in iter_named(parse_xml(body), "Tag")}


def local_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def malformed_xml() -> StoreError:
    message = "The XML you provided was not well-formed or did not validate against our published schema"
    return StoreError("MalformedXML", 400, message)
