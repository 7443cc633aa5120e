"""The floor: a bare FastAPI route that does nothing durable, behind the agent's own uvicorn settings."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from ot2_agent.server.serve import server_config

app = FastAPI()


@app.post("/tasks/{task}/runs")
async def run(task: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """What an agent answers, at its shortest."""
    return {"run_id": "floor", "task": task, "state": "succeeded", "result": parameters["a"] + parameters["b"]}


@app.get("/status")
async def status() -> dict[str, Any]:
    return {"status": "ready"}


def main() -> None:
    """Serve on the port in the first argument."""
    with socket.socket(proto=socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", int(sys.argv[1])))
        asyncio.run(uvicorn.Server(server_config(app)).serve(sockets=[sock]))


if __name__ == "__main__":
    main()
