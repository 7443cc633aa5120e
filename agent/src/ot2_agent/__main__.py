"""`ot2-agent`, and `python -m ot2_agent`: finds an interpreter that can be the agent, and runs the command there.

Standard library only: it also works in the robot's own Python, where the agent's dependencies must not be.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .environment import NoAgentPython, agent_command, can_serve, setup


def main() -> int:
    """Run `ot2-agent COMMAND`; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["setup"]:
        return setup(arguments[1:])
    if can_serve():
        from .server.cli import main as run

        return run(arguments)
    try:
        command = agent_command(arguments)
    except NoAgentPython as exc:
        print(f"ot2-agent: {exc}", file=sys.stderr)
        return 78
    os.environ.setdefault("OT2_AGENT_WORKER_PYTHON", sys.executable)  # who has opentrons is who was asked
    return os.execv(command[0], command)


if __name__ == "__main__":
    sys.argv[0] = str(Path(sys.argv[0]).with_name("ot2-agent"))
    raise SystemExit(main())
