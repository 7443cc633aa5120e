"""Pydantic models as parameters and results: of the pydantic here, and of both major versions on robots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

SOURCE = Path(__file__).resolve().parents[2] / "agent" / "src"

MODELS = """
import json, sys
sys.path.append(sys.argv[1])
from typing import Any, Dict, List, Optional, Tuple
import pydantic
from ot2_agent.check import first_misfit
from ot2_agent.encode import encode_result
from ot2_agent.plain import Unfit
from ot2_agent.schema import Describer

class Tip(pydantic.BaseModel):
    size: int = pydantic.Field(300, gt=0)
    note: Optional[str] = None

class Rack(pydantic.BaseModel):
    '''A rack of tips.'''
    slot: int
    tips: List[Tip] = []
    spare: Optional[Tip] = None
    corner: Tuple[int, str] = (1, "a")
    by_name: Dict[str, Tip] = {}
    above: Optional["Rack"] = None

class Even(pydantic.BaseModel):
    number: int
    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        if self.number % 2:
            raise ValueError("it is odd")

getattr(Rack, "model_rebuild", getattr(Rack, "update_forward_refs", None))()
describer = Describer("__main__")
kinds = {kind.__name__: describer.describe(kind) for kind in (Tip, Rack, Even, )}
kinds["Tips"] = describer.describe(Optional[List[Tip]])
answers = []
for name, value in json.loads(sys.argv[2]):
    kind = kinds[name]
    misfit = first_misfit(kind.schema, value, describer.defs)
    if misfit is not None:
        answers.append(["misfit", list(misfit.where), misfit.why])
        continue
    try:
        answers.append(["fits", encode_result(kind.convert(value, ("x",)))])
    except Unfit as exc:
        answers.append(["unfit", list(exc.where), exc.why])
print(json.dumps({"version": pydantic.VERSION, "answers": answers,
    "schemas": [{**kind.schema, "$defs": describer.defs} for kind in kinds.values()]}))
"""

TIP = {"size": 300, "note": None}
RACK = {"slot": 1, "tips": [], "spare": None, "corner": [1, "a"], "by_name": {}, "above": None}
CASES: list[tuple[str, Any, Any]] = [
    ("Tip", {}, ["fits", [TIP, []]]),
    ("Tip", {"note": None}, ["fits", [TIP, []]]),
    ("Tip", {"size": "300"}, ["misfit", ["size"], "must be an integer, not '300'"]),
    ("Tip", {"size": 0}, ["misfit", ["size"], "must be above 0, not 0"]),
    ("Tip", [], ["misfit", [], "must be an object, not an array"]),
    ("Rack", {}, ["misfit", [], "needs slot (an integer)"]),
    ("Rack", {"slot": 1}, ["fits", [RACK, []]]),
    ("Rack", {"slot": 1, "tips": [{"note": "x"}]}, ["fits", [{**RACK, "tips": [{**TIP, "note": "x"}]}, []]]),
    ("Rack", {"slot": 1, "spare": None, "above": {"slot": 2}}, ["fits", [{**RACK, "above": {**RACK, "slot": 2}}, []]]),
    ("Rack", {"slot": 1, "corner": [1]}, ["misfit", ["corner"], "must have exactly 2 items, not 1"]),
    (
        "Rack",
        {"slot": 1, "by_name": {"a": {"size": -1}}},
        ["misfit", ["by_name", "a", "size"], "must be above 0, not -1"],
    ),
    ("Even", {"number": 1}, ["unfit", ["x"], "is refused by Even: it is odd"]),
    ("Tips", None, ["fits", [None, []]]),
    ("Tips", [{}], ["fits", [[TIP], []]]),
    ("Tips", [{"size": True}], ["misfit", [0, "size"], "must be an integer, not true"]),
]


def check_models(python: Path) -> str:
    """Run the cases with the pydantic of one interpreter; its version."""
    sent = json.dumps([case[:2] for case in CASES])
    command = [str(python), "-c", MODELS, str(SOURCE), sent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for schema in told["schemas"]:
        Draft202012Validator.check_schema(schema)
    assert told["answers"] == [answer for _, _, answer in CASES]
    return str(told["version"])


def test_models_of_the_pydantic_here_are_read_and_encoded() -> None:
    pytest.importorskip("pydantic")
    check_models(Path(sys.executable))


def test_models_of_pydantic_1_are_read_and_encoded(opentrons_820: Path) -> None:
    assert check_models(opentrons_820).startswith("1.")


def test_models_of_pydantic_2_are_read_and_encoded(opentrons_900: Path) -> None:
    assert check_models(opentrons_900).startswith("2.")
