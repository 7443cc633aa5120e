"""The OT-2 for task authors where no opentrons is: modes, sentences, versions. The rest needs the real thing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ot2_agent import modes, ot2


def test_the_mode_is_simulated_unless_the_agent_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OT2_AGENT_MODE", raising=False)
    assert ot2.mode() == "simulated"
    for said in ("simulated", "emulated", "real"):
        monkeypatch.setenv("OT2_AGENT_MODE", said)
        assert ot2.mode() == said


@pytest.mark.parametrize("said", ["", "Real", "simulation"])
def test_another_mode_is_a_sentence_and_no_guess(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("OT2_AGENT_MODE", said)
    with pytest.raises(
        ot2.HardwareError,
        match=re.escape(f"OT2_AGENT_MODE is {said!r}; it must be simulated, emulated or real"),
    ):
        ot2.protocol_context()


def test_a_python_without_opentrons_is_named_with_what_to_do() -> None:
    assert ot2.versions()["opentrons"] is None
    with pytest.raises(ot2.HardwareError, match=re.escape(sys.executable)) as caught:
        ot2.protocol_context()
    assert "ot2-agent serve --python" in str(caught.value)


def test_without_a_context_nothing_was_sent_and_closing_is_harmless() -> None:
    assert ot2.commands_sent() == 0
    ot2.close()


@pytest.mark.parametrize("said", ["9996", "127.0.0.1", "127.0.0.1:", ":9996", "127.0.0.1:0", "a:b", "a:65536"])
def test_an_emulator_address_that_is_none_is_a_sentence(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("OT2_AGENT_EMULATOR", said)
    with pytest.raises(ot2.HardwareError, match="it must be HOST:PORT"):
        modes._emulator()


def test_an_emulator_address_may_be_of_either_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OT2_AGENT_EMULATOR", "[::1]:9000")
    assert modes._emulator() == ("::1", 9000)


def test_who_has_a_device_open_is_named(tmp_path: Path) -> None:
    device = tmp_path / "device"
    program = "import sys; kept = open(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(device)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (named,) = modes.users_of(str(device))
        assert named.endswith(f"(pid {other.pid})")
        other.communicate()
    assert modes.users_of(str(device)) == []


@pytest.mark.parametrize("well", ["A1", "H12", "D10"])
def test_a_well_of_a_96_well_plate_matches(well: str) -> None:
    (param,) = ot2.Well96.__metadata__  # type: ignore[attr-defined]
    assert re.search(param.pattern, well)


@pytest.mark.parametrize("well", ["A0", "A13", "I1", "a1", "A01", "A1 ", "xA1", ""])
def test_no_other_name_is_a_well(well: str) -> None:
    (param,) = ot2.Well96.__metadata__  # type: ignore[attr-defined]
    assert not re.search(param.pattern, well)
