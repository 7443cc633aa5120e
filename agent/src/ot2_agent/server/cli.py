"""`ot2-agent`: serve, check, healthcheck, emulate, runs, init. Exit 78 where nothing can work (sysexits' EX_CONFIG)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from ..check import nearest
from ..environment import BOOT, sdk_link
from ..hardware import HardwareBusy, HardwareLock, memory_folder
from ..wire import State
from .journal import Journal, JournalProblem, Memory, Reader
from .serve import BAD_CONFIG, Trouble, serve, serve_script
from .settings import Settings, flag_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        words, told = _apart(sys.argv[1:] if argv is None else argv)
        options, rest = _parser().parse_known_args(words)
        return int(options.run(options, [*rest, *told]))
    except Trouble as exc:
        print(f"ot2-agent: {exc}", file=sys.stderr)
        return BAD_CONFIG
    except (HardwareBusy, JournalProblem) as exc:
        print(f"ot2-agent: {exc}", file=sys.stderr)
        return BAD_CONFIG
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ot2-agent", description="Tasks on an OT-2, callable from anywhere, run at most once."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about_settings = "Flags are the settings of the README's table, e.g. --port 8000 --mode emulated --python PY."
    for name, run, text in (
        ("serve", _serve, "serve the tasks of a Python file"),
        ("check", _check, "say what is wrong here, without starting anything"),
        ("healthcheck", _healthcheck, "exit 0 when the agent at --url is healthy"),
        ("emulate", _emulate, "an emulated OT-2 on this computer"),
        ("runs", _runs, "the runs in the journal, newest first"),
        ("init", _init, "begin a new journal where the old one is gone or damaged"),
    ):
        command = commands.add_parser(
            name, help=text, description=text, epilog=about_settings, add_help=name != "emulate"
        )
        command.set_defaults(run=run)
        if name in ("serve", "check"):
            command.add_argument("tasks", nargs="?", help="a Python file or a dotted module name")
            command.add_argument("--env-file", help="a file of OT2_AGENT_* lines")
        if name in ("runs", "init"):
            command.add_argument("--env-file", help="a file of OT2_AGENT_* lines")
        if name == "healthcheck":
            command.add_argument("--url", default="http://127.0.0.1:8000")
        if name == "runs":
            command.add_argument("--state", choices=[state.value for state in State])
            command.add_argument("--task")
            command.add_argument("--limit", type=int, default=20)
            command.add_argument("--json", action="store_true")
        if name == "init":
            command.add_argument("--yes", action="store_true", help="a person has looked at the deck")
    commands.add_parser("script", add_help=False).set_defaults(run=_script)  # for `launch`: without `help`, unlisted
    return parser


# --- settings -------------------------------------------------------------------------------------------------------


def read_settings(rest: Sequence[str], env_file: str | None = None, **given: Any) -> Settings:
    """Settings from flags, then the environment, then the env file.

    Raises:
        Trouble: one is unknown or does not fit.
    """
    if env_file is not None and not Path(env_file).is_file():
        raise Trouble(f"There is no env file {env_file}. Nothing was started.")
    values = {**_flags(rest), **{name: value for name, value in given.items() if value is not None}}
    try:
        return Settings(_env_file=env_file, **values)
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        said = str(first["msg"]).removeprefix("Value error, ")
        where = f"{flag_of(name).removeprefix('--')} {first['input']!r}: " if name else ""
        raise Trouble(f"{where}{said}. Nothing was started.") from exc


_FLAGS = {flag_of(name): name for name in Settings.model_fields if name != "tasks"}
_WITHOUT_SETTINGS = ("emulate", "healthcheck", "script")
_YES_OR_NO = ("true", "false", "yes", "no", "on", "off", "1", "0")


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line without its settings, and the settings as `--flag=value`: their order does not matter.

    Raises:
        Trouble: a flag has no value.
    """
    own, told, left = list[str](), list[str](), list(words)
    if left[:1] and left[0] in _WITHOUT_SETTINGS:
        return left, told
    while left:
        word = left.pop(0)
        name = _FLAGS.get(word)
        if name is None:
            (told if word.partition("=")[0] in _FLAGS else own).append(word)
        elif Settings.model_fields[name].annotation is bool:
            said = left.pop(0) if left and left[0].lower() in _YES_OR_NO else "true"
            told.append(f"{word}={said}")
        elif left:
            told.append(f"{word}={left.pop(0)}")
        else:
            raise Trouble(f"{word} needs a value. Nothing was started.")
    return own, told


def _flags(words: Sequence[str]) -> dict[str, Any]:
    """`--queue-places=4` and the like as settings by name.

    Raises:
        Trouble: a word is no setting.
    """
    made: dict[str, Any] = {}
    for word in words:
        flag, _, value = word.partition("=")
        name = _FLAGS.get(flag)
        if name is None:
            near = nearest(flag, list(_FLAGS)) if flag.startswith("--") else None
            hint = f" Did you mean {near}?" if near else ""
            raise Trouble(f"{word} is not a setting.{hint} The README's table lists them. Nothing was started.")
        made[name] = value
        if name == "allowed_hosts":
            made[name] = [part.strip() for part in value.strip("[]").replace('"', "").split(",") if part.strip()]
    return made


# --- commands -------------------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace, rest: Sequence[str]) -> int:
    settings = read_settings(rest, options.env_file, tasks=options.tasks)
    if not settings.tasks:
        raise Trouble("No task module is named. Say: ot2-agent serve tasks.py")
    return serve(settings)


def _script(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """For a script that serves its own tasks: everything comes as one JSON argument from `launch`."""
    told = json.loads(rest[0])
    settings = read_settings([], None, **told["settings"])
    return serve_script(settings, told)


def _check(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from .checkup import checkup

    settings = read_settings(rest, options.env_file, tasks=options.tasks)
    findings = checkup(settings)
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'BAD '} {finding.what}: {finding.found}")
        if not finding.good:
            print(f"       {finding.do}")
    return 0 if all(finding.good for finding in findings) else BAD_CONFIG


def _healthcheck(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from urllib.request import urlopen

    try:
        with urlopen(f"{options.url}/health", timeout=5) as answer:
            healthy = json.load(answer).get("status") == "healthy"
    except (OSError, ValueError, AttributeError) as exc:
        print(f"ot2-agent: no healthy agent at {options.url}: {exc}", file=sys.stderr)
        return 1
    return 0 if healthy else 1


def _emulate(options: argparse.Namespace, rest: Sequence[str]) -> NoReturn:
    """Run by the worker's interpreter, because the emulator ships inside opentrons."""
    words, python = list(rest), os.environ.get("OT2_AGENT_WORKER_PYTHON", "")
    if "--python" in words:
        at = words.index("--python")
        python = words[at + 1] if at + 1 < len(words) else ""
        del words[at : at + 2]
    python = python or sys.executable
    link = sdk_link(Settings(tasks="-").state)
    boot = BOOT.format(link=str(link), module="emulator")
    sys.stdout.flush()
    try:
        os.execv(shutil.which(python) or python, [python, "-c", boot, *words])
    except OSError as exc:
        raise Trouble(
            f"The interpreter {python} cannot be run ({exc}). Name one that has opentrons: --python PY"
        ) from exc


def _runs(options: argparse.Namespace, rest: Sequence[str]) -> int:
    settings = read_settings(rest, options.env_file)
    if not settings.journal.exists():
        raise Trouble(f"There is no journal in {settings.state}. Name the folder: --state-dir DIR")
    reader = Reader(settings.journal)
    for row in reader.history(state=options.state, task=options.task, limit=options.limit):
        answer = row.answer(settings.device_id).encode()
        if options.json:
            print(json.dumps(answer))
        else:
            said = answer.get("error") or json.dumps(answer.get("result"))
            print(f"{answer['submitted_at']}  {answer['run_id']:32}  {answer['state']:11}  {answer['task']}  {said}")
    reader.close()
    return 0


def _init(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Put the old journal aside, whatever is left of it, and begin a new one."""
    settings = read_settings(rest, options.env_file)
    lock = HardwareLock.take(settings.hardware_key, what="ot2-agent init")
    print(f"A new journal in {settings.state} forgets every run id: what was asked for before could run again.")
    if not options.yes and not _agreed("Has somebody looked at the deck, and may it be forgotten? [y/N] "):
        print("Nothing was changed. Say it without a terminal by: ot2-agent init --yes")
        return 1
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", "-wal", "-shm"):
        old = settings.journal.with_name(settings.journal.name + suffix)
        if old.exists():
            old.rename(old.with_name(f"{old.name}.{stamp}.old"))
    memory_path = memory_folder() / f"{settings.hardware_key}.json"
    memory_path.unlink(missing_ok=True)
    Journal.create(settings.journal, Memory(memory_path)).close()
    lock.release()
    print(f"Done. The old journal, if there was one, is beside it: *.{stamp}.old")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(question).strip().lower() in ("y", "yes")
