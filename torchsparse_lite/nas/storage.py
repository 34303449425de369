# SPDX-License-Identifier: MIT
"""Trials in a storage that outlives a kill, and that several processes write to at once."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from torchsparse_lite.errors import needs_extra, refuse

__all__ = ["ARCH", "SCORES", "SharedStudy", "is_complete"]

ARCH, SCORES = "arch", "scores"
_WORKER, _PLACE, _SETTINGS, _PULSE = "worker", "place", "settings", "pulse of "
_REMEDY = "Give a URL such as sqlite:///search.db, of a folder or server that is there."
_ATTEMPTS = 5
_RACE = ("IntegrityError", "already exists", "database is locked")
_BEAT_S, _SILENCE_S, _POLL_S = 20.0, 120.0, 1.0


def is_complete(trial: Any) -> bool:
    """Whether it has scores."""
    return bool(trial.state.name == "COMPLETE")


def _place(trial: Any) -> float:
    """Its number among those that count; infinite until it is known."""
    return float(trial.user_attrs.get(_PLACE, math.inf))


class SharedStudy:
    """A study of Optuna under settings that do not change.

    Args:
        storage: URL of an RDB; None keeps nothing.
        name: of the study in the storage.
        settings: what its trials depend on, as JSON has it; under ``"objectives"`` the name of each
            score, and whether more is better.

    Raises:
        OSError: the storage cannot be reached.
        ValueError: it is no storage, or has a study of this name with other settings.
    """

    def __init__(self, storage: str | None, name: str, settings: Mapping[str, Any]) -> None:
        self._objectives = list(settings["objectives"])
        self._study = _opened(storage, name, settings["objectives"].values())
        self._host = _host()
        self._worker = f"{self._host}:{os.getpid()}:{uuid4().hex[:8]}"
        self._pulses: dict[str, tuple[Any, float]] = {}
        given = json.loads(json.dumps(settings))
        before = self._study.user_attrs.get(_SETTINGS)
        if before is None:
            self._study.set_user_attr(_SETTINGS, given)
        elif before != given:
            self._refuse_others(name, before, given)

    def _refuse_others(self, name: str, before: dict[str, Any], given: dict[str, Any]) -> None:
        other = [key for key in {**before, **given} if before.get(key) != given.get(key)]
        begun, now = ({key: values.get(key) for key in other} for values in (before, given))
        remedy = "Go on with what it was begun with, or take another name or another storage."
        refuse(f"search: {' and '.join(sorted(other))}", f"as in {name!r}: {begun}", now, remedy)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let others know that this process lives."""
        stop = Event()

        def beat() -> None:
            for number in count():
                # A beat may be lost when others write; the next one comes.
                with suppress(Exception):
                    self._study.set_user_attr(_PULSE + self._worker, number)
                if stop.wait(_BEAT_S):
                    return

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def live(self) -> list[Any]:
        """Trials that did not fail, in the order of their places: so a kill leaves no trace."""
        trials = self._study.get_trials(deepcopy=False)
        live = [trial for trial in trials if trial.state.name in ("COMPLETE", "RUNNING")]
        return sorted(live, key=_place)

    def complete(self) -> list[Any]:
        """Trials with scores, in the order of their places."""
        return [trial for trial in self.live() if is_complete(trial)]

    def claim(self, trials: int, sampler: Callable[[int], Any]) -> Any:
        """The next trial, which this process works on; None once all trials have scores.

        Waits while other processes are at the last ones, for they may die over them.

        Args:
            trials: of all processes together.
            sampler: of Optuna, for a trial that follows on so many.
        """
        while True:
            self.free_the_dead()
            number = len(self.live())
            if number < trials:
                trial = self.ask(sampler(number))
                if len(self.before(trial)) < trials:
                    return trial
                self.give_up(trial.number)  # another process was faster
            elif len(self.complete()) >= trials:
                return None
            time.sleep(_POLL_S if number >= trials else 0)

    def before(self, trial: Any) -> list[Any]:
        """The trials that count at the places before this one."""
        live = self.live()
        return live[: [other.number for other in live].index(trial.number)]

    def ask(self, sampler: Any) -> Any:
        """A new trial, which this process works on, at the first place that is free."""
        self._study.sampler = sampler
        trial = self._study.ask()
        trial.set_user_attr(_WORKER, self._worker)
        while True:
            taken = {_place(other) for other in self.live() if other.number != trial.number}
            place = next(number for number in count() if number not in taken)
            trial.set_user_attr(_PLACE, place)
            # Of two that came at once the later one sees the other. If both do, both move on.
            if place not in {
                _place(other) for other in self.live() if other.number != trial.number
            }:
                return trial
            time.sleep(0.003 * (1 + trial.number % 7))

    def tell(self, trial: Any, arch: str, scores: Mapping[str, float]) -> None:
        """What came of a trial; it no longer counts if others took it for dead."""
        with suppress(_finished()):
            trial.set_user_attr(ARCH, arch)
            trial.set_user_attr(SCORES, dict(scores))
            values = [scores[objective] for objective in self._objectives]
            self._study.tell(trial, values, skip_if_finished=True)

    def give_up(self, number: int) -> None:
        """The trial does not count, unless it is finished meanwhile."""
        failed = needs_extra("search", "optuna.trial", "search").TrialState.FAIL
        with suppress(_finished()):
            self._study.tell(number, state=failed, skip_if_finished=True)

    def free_the_dead(self) -> None:
        """Give up trials of processes that are no more.

        Of those of this machine it asks the system. Others have gone if their pulse has not changed
        for a while, by the clock of this process.
        """
        pulses = self._study.user_attrs
        for trial in self.live():
            if not is_complete(trial) and self._is_dead(trial, pulses):
                self.give_up(trial.number)

    def _is_dead(self, trial: Any, pulses: Mapping[str, Any]) -> bool:
        worker = trial.user_attrs.get(_WORKER, "")
        if worker == self._worker:
            return False
        host, _, rest = worker.partition(":")
        if host == self._host and not _is_alive(int(rest.partition(":")[0])):
            return True
        # Without a worker it was killed at once, or is just about to write who it is.
        key, pulse = worker or f"trial {trial.number}", pulses.get(_PULSE + worker)
        now = time.monotonic()
        if key not in self._pulses or self._pulses[key][0] != pulse:
            self._pulses[key] = (pulse, now)
        return now - self._pulses[key][1] > _SILENCE_S


def _finished() -> type[Exception]:
    """What Optuna raises when another process has told of a trial."""
    error: type[Exception] = needs_extra(
        "search", "optuna.exceptions", "search"
    ).UpdateFinishedTrialError
    return error


def _opened(storage: str | None, name: str, more_is_better: Any) -> Any:
    optuna = needs_extra("search", "optuna", "search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["maximize" if more else "minimize" for more in more_is_better]
    options = {"storage": storage, "study_name": name, "directions": directions}
    try:
        return _created(optuna, load_if_exists=True, **options)
    except ValueError as wrong:
        return refuse("search: storage", "a URL of an RDB", f"{_shown(storage)} ({wrong})", _REMEDY)
    except Exception as error:
        if "sqlalchemy" not in type(error).__module__ and not isinstance(error, ImportError):
            raise
        actual = f"{_shown(storage)} ({str(error).splitlines()[0]})"
        return refuse("search: storage", "reachable", actual, _REMEDY, error=OSError)


def _shown(storage: str | None) -> str:
    """The URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", str(storage))


def _created(optuna: Any, **options: Any) -> Any:
    """The study. Processes that begin a storage at the same time get into each other's way."""
    for attempt in range(_ATTEMPTS):
        try:
            return optuna.create_study(**options)
        except Exception as error:
            is_race = any(word in str(error) for word in _RACE)
            if not is_race or attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(0.2 * (attempt + 1))
    return None


def _host() -> str:
    """Where the number of a process means that process: a boot of a machine, a container on it."""
    marks = [socket.gethostname()]
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        marks.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(marks)


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
