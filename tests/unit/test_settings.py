"""The agent's settings: flags before variables before the env file, sentences for what does not fit, one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ot2_agent import hardware
from ot2_agent.server.cli import _apart, main, read_settings
from ot2_agent.server.serve import Trouble
from ot2_agent.server.settings import Settings, flag_of, is_loopback, table


def read(*words: str, env_file: Path | None = None, **given: Any) -> Settings:
    """The settings of a command line."""
    own, told = _apart(words)
    return read_settings([*own, *told], None if env_file is None else str(env_file), **given)


def test_the_defaults_are_the_safe_ones() -> None:
    made = read()
    assert (made.host, made.port, made.mode) == ("127.0.0.1", 8000, "simulated")
    assert (made.queue_places, made.keep_queue_after_failure, made.require_auth) == (16, False, False)
    assert (made.worker_python, made.device_id) == (sys.executable, hardware.host_slug())
    assert made.state == hardware.state_home() / made.device_id
    assert made.journal == made.state / "journal.db"
    assert made.max_body_bytes == 1 << 20


def test_a_flag_beats_the_variable_and_the_variable_beats_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("# ours\nOT2_AGENT_PORT=1\nOT2_AGENT_TITLE='In the file'\nOT2_AGENT_QUEUE_PLACES=3\nOTHER=1\n")
    assert (read(env_file=env_file).port, read(env_file=env_file).title) == (1, "In the file")
    monkeypatch.setenv("OT2_AGENT_PORT", "2")
    assert read(env_file=env_file).port == 2
    found = read("--port", "3", env_file=env_file)
    assert (found.port, found.queue_places) == (3, 3)


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OT2_AGENT_PORT", "")
    assert read().port == 8000


def test_what_a_script_gives_beats_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OT2_AGENT_TITLE", "the environment's")
    assert read(title="the script's").title == "the script's"
    assert read(title=None).title == "the environment's"


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "tasks.py", "--port", "8001", "--keep-queue-after-failure", "--mode=emulated"],
        ["serve", "--port", "8001", "--keep-queue-after-failure", "--mode", "emulated", "tasks.py"],
        ["serve", "--mode=emulated", "--keep-queue-after-failure", "tasks.py", "--port=8001"],
        ["serve", "--keep-queue-after-failure", "true", "tasks.py", "--mode", "emulated", "--port", "8001"],
    ],
)
def test_flags_may_stand_before_and_behind_the_task_file(words: list[str]) -> None:
    own, told = _apart(words)
    assert own == ["serve", "tasks.py"]
    made = read_settings(told)
    assert (made.port, made.keep_queue_after_failure, made.mode) == (8001, True, "emulated")


def test_flags_of_other_commands_are_left_to_them() -> None:
    assert _apart(["emulate", "--port", "0"]) == (["emulate", "--port", "0"], [])
    own, told = _apart(["runs", "--state", "failed", "--state-dir", "d", "--limit", "5"])
    assert (own, told) == (["runs", "--state", "failed", "--limit", "5"], ["--state-dir=d"])


@pytest.mark.parametrize("text", ['["ot2.lab","b"]', "ot2.lab,b", "ot2.lab, b", '["ot2.lab", "b"]'])
def test_a_list_is_json_or_words_with_commas(text: str) -> None:
    assert read("--allowed-hosts", text).allowed_hosts == ["ot2.lab", "b"]


WRONG = {
    "an unknown flag": (["--colour", "red"], "--colour is not a setting"),
    "a flag spelt wrong": (["--prot", "1"], "Did you mean --port?"),
    "a word": (["more"], "more is not a setting"),
    "a flag without its value": (["--port"], "--port needs a value"),
    "a port of letters": (["--port", "http"], "port 'http'"),
    "a port too high": (["--port", "65536"], "port '65536'"),
    "a negative port": (["--port", "-1"], "port '-1'"),
    "a mode that is none": (["--mode", "fast"], "mode 'fast'"),
    "a device id with a slash": (["--device-id", "a/b"], "device-id 'a/b': must be 1 to 32"),
    "a device id of 33": (["--device-id", "x" * 33], "must be 1 to 32"),
    "an emulator without port": (["--emulator", "localhost"], "must be host:port"),
    "an emulator without host": (["--emulator", ":9996"], "must be host:port"),
    "an emulator beyond the ports": (["--emulator", "localhost:99999"], "must be host:port"),
    "every address": (["--host", "0.0.0.0"], "0.0.0.0 is not loopback"),
    "every IPv6 address": (["--host", "::"], ":: is not loopback"),
    "another computer": (["--host", "192.168.1.5"], "ssh -L 8000:127.0.0.1:8000"),
    "a name": (["--host", "ot2.local"], "ot2.local is not loopback"),
    "tokens": (["--require-auth"], "does not have yet"),
    "no room for a body": (["--max-body-bytes", "10"], "max-body-bytes '10'"),
    "an endless queue": (["--queue-places", "1001"], "queue-places '1001'"),
    "a log level that is none": (["--log-level", "loud"], "log-level 'loud'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_that_does_not_fit_is_one_sentence(name: str) -> None:
    words, part = WRONG[name]
    with pytest.raises(Trouble) as caught:
        read(*words)
    said = str(caught.value)
    assert part in said
    assert said.endswith("Nothing was started.")
    assert "\n" not in said


def test_an_env_file_that_is_not_there_is_named() -> None:
    with pytest.raises(Trouble, match="no env file /nowhere/env"):
        read(env_file=Path("/nowhere/env"))


def test_the_command_says_it_and_ends_with_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "tasks.py", "--host", "0.0.0.0"]) == 78
    assert capsys.readouterr().err.startswith("ot2-agent: ")
    assert main(["serve", "tasks.py", "--port"]) == 78


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_all_of_it(host: str) -> None:
    assert is_loopback(host)
    assert read("--host", host).host == host


def test_each_piece_of_hardware_has_one_key(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"

    def key(mode: str, folder: Path, **more: str) -> str:
        flags = [word for name, value in more.items() for word in (f"--{name}", value)]
        return read("--mode", mode, "--state-dir", str(folder), *flags).hardware_key

    assert key("real", one) == key("real", two)
    assert key("emulated", one) == key("emulated", two)
    assert key("emulated", one) != key("emulated", one, emulator="127.0.0.1:9997")
    assert key("simulated", one) != key("simulated", two)
    assert len({key(mode, one) for mode in ("real", "emulated", "simulated")}) == 3


def test_the_worker_is_told_what_it_reads(tmp_path: Path) -> None:
    told = read("--mode", "emulated", "--emulator", "127.0.0.1:9", "--state-dir", str(tmp_path)).for_worker()
    assert told["OT2_AGENT_MODE"] == "emulated"
    assert told["OT2_AGENT_EMULATOR"] == "127.0.0.1:9"
    assert told["OT2_AGENT_STATE_DIR"] == str(tmp_path)


def test_a_relative_state_dir_is_made_absolute_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("--state-dir", "state").state == tmp_path / "state"


def test_the_table_has_every_setting_with_its_flag_and_what_it_is() -> None:
    lines = table().splitlines()[2:]
    assert len(lines) == len(Settings.model_fields)
    for line, (name, item) in zip(lines, Settings.model_fields.items(), strict=True):
        assert f"`OT2_AGENT_{name.upper()}`" in line
        assert name == "tasks" or f"`{flag_of(name)}`" in line
        assert item.description
        assert item.description in line
