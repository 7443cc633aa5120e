"""HTTP: the device as a FastAPI application. The only folder that knows FastAPI."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException

from ...errors import OT2Error
from ..device import Device
from ..journal import JournalProblem
from .gate import Doors, Gate
from .problems import on_error, on_http_error
from .routes import Routes

__all__ = ["App", "Doors", "make_app"]
App = FastAPI
"""The kind of application that is made here, for those who must not know FastAPI."""


def make_app(device: Device, doors: Doors, lifespan: Callable[[], Any] | None = None) -> App:
    """The device as an ASGI application. `lifespan` is entered while it serves."""

    @asynccontextmanager
    async def span(_: App) -> AsyncIterator[None]:
        if lifespan is None:
            yield
        else:
            with lifespan():
                yield

    app = App(
        title=device.who.title,
        description=device.who.description,
        version=device.who.version,
        lifespan=span,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.device = device
    routes = Routes(device, doors)
    routes.attach(app)
    _mount_docs(app)
    app.add_exception_handler(OT2Error, on_error)
    app.add_exception_handler(JournalProblem, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_middleware(Gate, doors=doors, submit=routes.submit)
    return app


def _mount_docs(app: App) -> None:
    """`/docs` from files that are installed with the agent, so that it works without internet."""
    app.openapi_url = "/openapi.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that FastAPI's own pages are better switched off: they are
        patch_fastapi(app, redirect_from_root_to_docs=False)
