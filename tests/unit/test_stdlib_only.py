"""A robot's Python may have nothing at all: a task is registered, bound and encoded in a bare interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "agent" / "src"

PROGRAM = f"""
import sys
sys.path.append({str(SOURCE)!r})
import json
from dataclasses import dataclass
from typing import Annotated
from ot2_agent import Param, task
from ot2_agent.encode import encode_result
from ot2_agent.task import REGISTRY

@dataclass
class Spot:
    well: str
    volume: Annotated[float, Param(le=300)]

@task
def fill(spot: Spot, times: int = 1) -> Spot:
    return spot

spec = REGISTRY["fill"]
result, warnings = encode_result(spec.function(**spec.bind({{"spot": {{"well": "A1", "volume": 5}}}})))
strangers = {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names - {{"ot2_agent", "__main__"}}
strangers = sorted(name for name in strangers if getattr(sys.modules.get(name), "__file__", None))
print(json.dumps([result, warnings, strangers]))
"""


def test_a_task_works_in_a_bare_interpreter_with_the_standard_library_alone() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"well": "A1", "volume": 5.0}, [], []]
