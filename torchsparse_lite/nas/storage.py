# SPDX-License-Identifier: MIT
"""Trials in a storage that outlives a kill, and that several processes write to at once."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from torchsparse_lite.errors import needs_extra, refuse

__all__ = ["ARCH", "SCORES", "SharedStudy", "is_complete"]

ARCH, SCORES = "arch", "scores"
_WORKER = "worker"
_REMEDY = "Give a URL such as sqlite:///search.db, of a folder or server that is there."
_ATTEMPTS = 5
_RACE = ("IntegrityError", "already exists", "database is locked")
_SETTLING = timedelta(seconds=30)
_PATIENCE, _LEAST_PATIENCE = 20, timedelta(minutes=5)


def is_complete(trial: Any) -> bool:
    """Whether it has scores."""
    return bool(trial.state.name == "COMPLETE")


class SharedStudy:
    """A study of Optuna under settings that do not change.

    Args:
        storage: URL of an RDB; None keeps nothing.
        name: of the study in the storage.
        settings: what its trials depend on; under ``"objectives"`` the name of each score, and
            whether more is better.

    Raises:
        OSError: the storage cannot be reached.
        ValueError: it is no storage, or has a study of this name with other settings.
    """

    def __init__(self, storage: str | None, name: str, settings: Mapping[str, Any]) -> None:
        self._objectives = list(settings["objectives"])
        self._study = _opened(storage, name, settings["objectives"].values())
        before = self._study.user_attrs.get("settings")
        if before is None:
            self._study.set_user_attr("settings", dict(settings))
        elif before != json.loads(json.dumps(settings)):
            other = sorted(key for key in settings if before.get(key) != settings[key])
            remedy = "Take another name or another storage."
            refuse(f"search: {' and '.join(other)}", f"as in the search {name!r}", "others", remedy)

    def live(self) -> list[Any]:
        """Trials that did not fail, in their order: so a kill leaves no trace."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.name in ("COMPLETE", "RUNNING")]

    def complete(self) -> list[Any]:
        """Trials with scores, in their order."""
        return [trial for trial in self.live() if is_complete(trial)]

    def ask(self, sampler: Any) -> Any:
        """A new trial, which this process works on."""
        self._study.sampler = sampler
        trial = self._study.ask()
        trial.set_user_attr(_WORKER, f"{socket.gethostname()}:{os.getpid()}")
        return trial

    def tell(self, trial: Any, arch: str, scores: Mapping[str, float]) -> None:
        """What came of a trial; it no longer counts if others took it for dead."""
        finished = needs_extra("search", "optuna.exceptions", "search").UpdateFinishedTrialError
        try:
            trial.set_user_attr(ARCH, arch)
            trial.set_user_attr(SCORES, dict(scores))
        except finished:
            return
        self._study.tell(trial, [scores[objective] for objective in self._objectives])

    def give_up(self, number: int) -> None:
        """The trial does not count."""
        failed = needs_extra("search", "optuna.trial", "search").TrialState.FAIL
        self._study.tell(number, state=failed)

    def free_the_dead(self) -> None:
        """Give up trials of processes that are no more.

        Of those of this machine it asks the system. Those of other machines are dead if they take
        much longer than trials do.
        """
        live = self.live()
        done = [trial.duration for trial in live if is_complete(trial)]
        usual = sorted(done)[len(done) // 2] if done else None
        for trial in live:
            if not is_complete(trial) and _is_dead(trial, usual):
                self.give_up(trial.number)


def _is_dead(trial: Any, usual: timedelta | None) -> bool:
    started: datetime = trial.datetime_start
    age = datetime.now() - started
    host, _, process = trial.user_attrs.get(_WORKER, "").rpartition(":")
    if not process:  # killed, or just about to write who it is
        return age > _SETTLING
    if host == socket.gethostname():
        return not _is_alive(int(process))
    return usual is not None and age > max(_PATIENCE * usual, _LEAST_PATIENCE)


def _opened(storage: str | None, name: str, more_is_better: Any) -> Any:
    optuna = needs_extra("search", "optuna", "search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["maximize" if more else "minimize" for more in more_is_better]
    options = {"storage": storage, "study_name": name, "directions": directions}
    try:
        return _created(optuna, load_if_exists=True, **options)
    except ValueError as wrong:
        return refuse("search: storage", "a URL of an RDB", f"{storage} ({wrong})", _REMEDY)
    except Exception as error:
        if "sqlalchemy" not in type(error).__module__ and not isinstance(error, ImportError):
            raise
        actual = f"{storage} ({str(error).splitlines()[0]})"
        return refuse("search: storage", "reachable", actual, _REMEDY, error=OSError)


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
