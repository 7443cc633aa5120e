"""The agent's environment: where an interpreter is that has the agent's dependencies, and how a private one is made.

Standard library only. The private one holds third-party packages alone; the agent's own code is always the caller's,
so SDK and agent never differ in version.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from .hardware import state_home

NEEDED = ("fastapi", "uvicorn", "pydantic", "pydantic_settings", "fastapi_swagger")
BOOT = (
    "import sys; sys.version_info < (3, 10) and sys.exit('This is Python %d.%d; 3.10 or newer is needed.' "
    "% sys.version_info[:2]); sys.path[:1] = [{link!r}] + [p for p in sys.path[:1] if p]; "
    "from ot2_agent.{module} import main; raise SystemExit(main())"
)
"""What `python -c` runs to start one of our modules in any interpreter, with this very SDK and nothing else of our
environment. `link` is a folder that holds one link, `ot2_agent`: a meta path finder would hang `multiprocessing`, and
PYTHONPATH would leak our dependencies into the other environment."""
LOCK_FILE = Path(__file__).with_name("requirements.lock")


INSIDE_WORKER = False
"""Set by a worker before it imports the task module: there `DeviceServer.run()` and `start()` do nothing."""


class NoAgentPython(RuntimeError):
    """No interpreter here has the agent's dependencies; the sentence names the command that makes one."""


def can_serve() -> bool:
    """Whether this interpreter has the agent's dependencies: all of them, and pydantic of the second generation."""
    try:
        found = all(importlib.util.find_spec(name) is not None for name in NEEDED)
    except (ImportError, ValueError):
        return False
    if not found:
        return False
    from importlib.metadata import version

    return int(version("pydantic").split(".")[0]) >= 2


def private_python() -> Path:
    """The interpreter of the private environment, whether it is there or not."""
    return state_home() / "environment" / "bin" / "python"


def agent_python() -> str:
    """The interpreter to run the agent with: OT2_AGENT_PYTHON, this one, the private one, in this order.

    Raises:
        NoAgentPython: there is none.
    """
    chosen = os.environ.get("OT2_AGENT_PYTHON")
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise NoAgentPython(f"OT2_AGENT_PYTHON names {chosen}, which cannot be run. Nothing was started.")
        return found
    if can_serve():
        return sys.executable
    if private_python().exists():
        return str(private_python())
    raise NoAgentPython(
        f"The agent needs an environment of its own, and there is none yet. Make it by: "
        f"{sys.executable} -m ot2_agent setup"
    )


def sdk_link(folder: Path) -> Path:
    """A folder inside `folder` with one link to this very SDK: all that another interpreter gets of ours."""
    from hashlib import sha256  # here, because it brings OpenSSL (3.5 MB), which a worker does not need

    target = Path(__file__).resolve().parent
    home = folder / "sdk" / sha256(str(target).encode()).hexdigest()[:12]  # other releases have their own
    home.mkdir(parents=True, exist_ok=True)
    link = home / "ot2_agent"
    if not link.is_symlink() or os.readlink(link) != str(target):
        fresh = home / f".{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        os.replace(fresh, link)
    return home


def agent_command(arguments: Sequence[str]) -> list[str]:
    """The command line that runs `ot2-agent ARGUMENTS` in the agent's environment.

    Raises:
        NoAgentPython: there is no such environment.
    """
    link = sdk_link(state_home())
    return [agent_python(), "-c", BOOT.format(link=str(link), module="server.cli"), *arguments]


def setup(arguments: Sequence[str]) -> int:
    """`python -m ot2_agent setup`: make the private environment from the locked, hashed set; wheels only."""
    if arguments:
        print("Usage: python -m ot2_agent setup", file=sys.stderr)
        return 2
    home = private_python().parent.parent
    python = os.environ.get("OT2_AGENT_SETUP_PYTHON") or sys.executable
    print(f"Making the agent's environment in {home} ...")
    fresh = home.with_name("environment.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        if python == sys.executable:
            venv.EnvBuilder(with_pip=True, symlinks=True).create(fresh)
        else:
            subprocess.run([python, "-m", "venv", str(fresh)], check=True)
        install = ["-m", "pip", "install", "-q", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK_FILE)]
        subprocess.run([str(fresh / "bin" / "python"), *install], check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        shutil.rmtree(fresh, ignore_errors=True)
        print(f"It could not be made ({exc}). Nothing was changed. Is the package index reachable?", file=sys.stderr)
        return 1
    shutil.rmtree(home, ignore_errors=True)
    fresh.rename(home)  # `python -m` and `-c` do not mind a venv that moved; only its scripts would
    print("Done. Scripts that end in DeviceServer().run() find it by themselves.")
    return 0
