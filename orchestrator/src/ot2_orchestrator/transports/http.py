"""HTTP: which route a message takes, how an answer is read, what each failure of httpx means. Alone in knowing it.

`httpx.HTTPTransport` is driven directly: the redirects, cookies and hooks of `httpx.Client` cost a third of a short
call and have no use here.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import getproxies, proxy_bypass

import httpx
from ot2_agent.errors import MalformedRequest, from_code
from ot2_agent.wire import Event, dumps

from .base import Message, NoAnswer

_ROUTES: Mapping[str, tuple[str, str]] = {
    "submit": ("POST", "/tasks/{task}/runs"),
    "get": ("GET", "/runs/{run_id}"),
    "events": ("GET", "/runs/{run_id}/events"),
    "cancel": ("POST", "/runs/{run_id}/cancel"),
    "resolve": ("POST", "/runs/{run_id}/resolve"),
    "list": ("GET", "/runs"),
    "tasks": ("GET", "/tasks"),
    "status": ("GET", "/status"),
    "health": ("GET", "/health"),
    "reset": ("POST", "/control/reset"),
    "startup": ("POST", "/control/startup"),
}
"""Operation -> method and path. What the path does not take is the query of a GET, the body of a POST."""

_OPTION_HEADERS: Mapping[str, str] = {
    "timeout_s": "OT2-Timeout-S",
    "start_within_s": "OT2-Start-Within-S",
    "expires_in_s": "OT2-Expires-In-S",
    "expires_at": "OT2-Expires-At",
    "labels": "OT2-Labels",
    "dry_run": "OT2-Dry-Run",
    "on_behalf_of": "OT2-On-Behalf-Of",
    "claim_token": "X-Claim-Token",
    "traceparent": "traceparent",
}
"""A request's options travel as headers: the body is the parameters and nothing else."""

_TRANSIENT = frozenset({408, 429, 502, 503, 504})
"""Statuses that a proxy gives while the server behind it is away."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
"""Failures before there was a connection. After any other one the message may have arrived."""

_DROPPED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
_CONNECT_S = 5.0
_SILENCE_S = 30.0
"""Longest silence on a stream of events; the agent says something every 10 s."""
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0)


class _Http:
    """The half without I/O: messages to requests, responses to answers."""

    def __init__(self, base_url: str, auth_token: str | None, ca_file: str | None) -> None:
        self._base = _checked_url(base_url)
        self._ca_file = ca_file
        self._headers = [("User-Agent", "ot2-orchestrator"), ("Accept", "application/json")]
        if auth_token is not None:
            if not re.fullmatch(r"[\x21-\x7e]+", auth_token):
                raise ValueError("auth_token must be one word of printable ASCII characters.")
            self._headers.append(("Authorization", f"Bearer {auth_token}"))
        self._url = lru_cache(256)(lambda target: httpx.URL(self._base + target))

    @property
    def where(self) -> str:
        return self._base

    def options(self) -> dict[str, Any]:
        """What both httpx transports are made with."""
        url = httpx.URL(self._base)
        proxies = {} if _is_loopback(url.host) or proxy_bypass(url.host) else getproxies()
        return {
            "verify": _tls(url.scheme, self._ca_file),
            "limits": _LIMITS,
            "proxy": proxies.get(url.scheme) or proxies.get("all"),
        }

    def request(self, op: str, body: Message, timeout: float) -> httpx.Request:
        """The request of a message; `timeout` bounds the wait for its answer."""
        method, path = _ROUTES[op]
        rest = dict(body)
        headers = list(self._headers)
        if op == "submit":
            rest = {"wait": rest.pop("wait", 0.0)}
            path, content = f"/tasks/{quote(body['task'], safe='')}/runs", dumps(body.get("parameters", {}))
            headers += _option_headers(body)
        else:
            if "run_id" in rest and "{run_id}" in path:
                path = path.replace("{run_id}", quote(rest.pop("run_id"), safe=":"))
            content = dumps(rest) if method == "POST" else b""
        query = f"?{urlencode(rest)}" if rest and (method == "GET" or op == "submit") else ""
        if method == "POST":
            headers.append(("Content-Type", "application/json"))
        times = {"connect": min(_CONNECT_S, timeout), "read": timeout, "write": timeout, "pool": _CONNECT_S}
        return httpx.Request(
            method, self._url(path + query), headers=headers, content=content or None, extensions={"timeout": times}
        )

    def stream_request(self, run_id: str, after: str | None) -> httpx.Request:
        request = self.request("events", {"run_id": run_id}, _SILENCE_S)
        request.headers["Accept"] = "text/event-stream"
        if after is not None:
            request.headers["Last-Event-ID"] = after
        return request

    def read(self, response: httpx.Response) -> Message:
        """The answer in a response that was read.

        Raises:
            OT2Error: the device refused.
            NoAnswer: it did not come from an OT-2 agent.
        """
        try:
            data = json.loads(response.content)
        except ValueError:
            data = None
        if isinstance(data, dict):
            if response.is_success:
                return data
            if isinstance(code := data.get("code"), str):
                details = data.get("details")
                raise from_code(
                    code,
                    str(data.get("detail") or code),
                    run_id=data.get("run_id"),
                    details=details if isinstance(details, dict) else None,
                )
        raise _not_ours(response)

    def opens_stream(self, response: httpx.Response) -> bool:
        return response.is_success and response.headers.get("content-type", "").startswith("text/event-stream")


class HttpTransport(_Http):
    """HTTP for threads. Connections are kept and reused."""

    def __init__(self, base_url: str, auth_token: str | None = None, *, ca_file: str | None = None) -> None:
        super().__init__(base_url, auth_token, ca_file)
        self._pool = httpx.HTTPTransport(**self.options())

    def call(self, op: str, body: Message, timeout: float) -> Message:
        request = self.request(op, body, timeout)
        with _translated():
            response = self._pool.handle_request(request)
            try:
                response.read()
            finally:
                response.close()
        return self.read(response)

    def events(self, run_id: str, after: str | None) -> Generator[Event, None, None]:
        with _translated():
            response = self._pool.handle_request(self.stream_request(run_id, after))
            try:
                if not self.opens_stream(response):
                    response.read()
                    self.read(response)
                    raise _not_ours(response)
                for line in response.iter_lines():
                    if (event := _event(line)) is not None:
                        yield event
            finally:
                response.close()

    def close(self) -> None:
        self._pool.close()


class AsyncHttpTransport(_Http):
    """HTTP for asyncio. Connections belong to the event loop that opened them; another loop gets new ones."""

    def __init__(self, base_url: str, auth_token: str | None = None, *, ca_file: str | None = None) -> None:
        super().__init__(base_url, auth_token, ca_file)
        self._pool: httpx.AsyncHTTPTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def async_call(self, op: str, body: Message, timeout: float) -> Message:
        request = self.request(op, body, timeout)
        with _translated():
            response = await self._here().handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
        return self.read(response)

    async def async_events(self, run_id: str, after: str | None) -> AsyncGenerator[Event, None]:
        with _translated():
            response = await self._here().handle_async_request(self.stream_request(run_id, after))
            try:
                if not self.opens_stream(response):
                    await response.aread()
                    self.read(response)
                    raise _not_ours(response)
                async for line in response.aiter_lines():
                    if (event := _event(line)) is not None:
                        yield event
            finally:
                await response.aclose()

    async def aclose(self) -> None:
        if self._pool is not None and self._loop is asyncio.get_running_loop():
            await self._pool.aclose()
        self._pool = self._loop = None

    def _here(self) -> httpx.AsyncHTTPTransport:
        loop = asyncio.get_running_loop()
        if self._pool is None or self._loop is not loop:
            self._pool, self._loop = httpx.AsyncHTTPTransport(**self.options()), loop
        return self._pool


@contextmanager
def _translated() -> Iterator[None]:
    """The one place where exceptions of httpx become ours."""
    try:
        yield
    except httpx.HTTPError as exc:
        reason = str(exc).rstrip(".") or type(exc).__name__
        untrusted = "CERTIFICATE_VERIFY_FAILED" in reason
        if untrusted:
            reason = f"its certificate is not trusted ({reason}); give the CA that signed it as ca_file"
        raise NoAnswer(
            reason,
            maybe_received=not isinstance(exc, _NOT_SENT),
            final=untrusted,
            dropped=isinstance(exc, _DROPPED),
        ) from exc


def _not_ours(response: httpx.Response) -> NoAnswer:
    """Somebody answered, but no OT-2 agent: a proxy, another server, the wrong port."""
    status = response.status_code
    text = " ".join(response.text[:500].split())[:80]
    target = response.headers.get("location")
    what = f"it points to {target}" if target else repr(text)
    return NoAnswer(
        f"what answers there is not an OT-2 agent, or a proxy in front of it (status {status}, {what}); "
        f"check the address",
        maybe_received=status in (200, 202, 408) or status >= 500,
        final=status not in _TRANSIENT,
    )


def _option_headers(body: Message) -> list[tuple[str, str]]:
    made = [("Idempotency-Key", body["run_id"])]
    for name, header in _OPTION_HEADERS.items():
        value = body.get(name)
        if value is not None:
            made.append((header, value if isinstance(value, str) else dumps(value).decode("ascii")))
    return made


def _event(line: str) -> Event | None:
    """The event on one line of a stream; ids and kinds stand in the data too, so the other lines are not needed."""
    if not line.startswith("data:"):
        return None
    try:
        return Event.decode(json.loads(line[5:]))
    except (ValueError, MalformedRequest) as exc:
        raise NoAnswer(f"an event could not be read ({exc})", maybe_received=True, final=True) from exc


def _checked_url(base_url: str) -> str:
    """The base URL without its last slash.

    Raises:
        ValueError: it is not one.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as exc:
        raise ValueError(f"{base_url!r} is not a URL like http://localhost:8000: {exc}.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(
            f"{base_url!r} is not a URL like http://localhost:8000; it must begin with http:// or https://."
        )
    if url.userinfo or url.query or url.fragment:
        raise ValueError("The base URL is scheme, host, port and path alone; a token goes into auth_token.")
    return str(url).rstrip("/")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _tls(scheme: str, ca_file: str | None) -> ssl.SSLContext:
    """Trusts the system's CAs, or `ca_file` alone; for http:// an empty one (reading the CAs takes 50 ms)."""
    if scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ValueError(f"The CA file {ca_file} cannot be used: {exc}.") from exc
