# SPDX-License-Identifier: MIT
"""``tsl train``, ``tsl validate`` and ``tsl predict``: LightningCLI with a folder for each run."""

from __future__ import annotations

import argparse
import json
import logging
import re
import warnings
from argparse import SUPPRESS
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from torchsparse_lite.compat import load_weights, read_weights
from torchsparse_lite.errors import needs_extra, refuse
from torchsparse_lite.host_memory import keep_host_memory
from torchsparse_lite.train.checkpoint import WholeFileCheckpointIO
from torchsparse_lite.train.module import Segmentation
from torchsparse_lite.train.predictions import WritePredictions
from torchsparse_lite.train.scans import ScanData
from torchsparse_lite.train.stages import latency_table
from torchsparse_lite.train.sync import SyncNorms
from torchsparse_lite.whole_file import write_whole

__all__ = ["predict", "train", "validate"]

_RECIPES = files("torchsparse_lite") / "recipes"
_RECIPE_NAMES = sorted(path.name.removesuffix(".yaml") for path in _RECIPES.iterdir())
CONFIG = "config.yaml"
_RUN = "runs/segmentation"
_BOUND = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
"""Settings of the trainer that a run keeps; it may go on longer, or with another logger."""
_NOISE = (
    "LightningCLI's args parameter",
    ".*LeafSpec",
    ".*does not have many workers",
    "Checkpoint directory",
)


def train(arguments: list[str]) -> None:
    """Train, validate after every epoch, keep the best and the last checkpoint."""
    with quiet():
        TrainCommand(arguments).run()


def validate(arguments: list[str]) -> None:
    """Scores by class of a trained network."""
    with quiet():
        ValidateCommand(arguments).run()


def predict(arguments: list[str]) -> None:
    """Label files of scans, and where the time went."""
    with quiet():
        PredictCommand(arguments).run()


@contextmanager
def quiet() -> Iterator[None]:
    """Without hints of libraries that are no use here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class RunCommand(LightningCLI):
    """The arguments that all three have, and what they make: network, scans and trainer."""

    name: ClassVar[str]
    description: ClassVar[str]
    trains: ClassVar[type[Segmentation]] = Segmentation

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(
            self.trains,
            ScanData,
            save_config_callback=None,
            trainer_defaults={
                "accelerator": "cpu",
                "num_sanity_val_steps": 0,
                "reload_dataloaders_every_n_epochs": 1,
                "use_distributed_sampler": False,
                "log_every_n_steps": 1,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_kwargs={
                "prog": f"tsl {self.name}",
                "description": self.description,
                "exit_on_error": False,
            },
            args=_with_recipes(self.name, arguments),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", default=_RUN, help="folder of the run")
        help_ = (
            "checkpoint or file of weights to begin with"
            if self.name.endswith("train")
            else SUPPRESS
        )
        parser.add_argument("--init", type=str | None, default=None, help=help_)
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer of the config, with our callbacks and everything in the folder of the run."""
        config = self.config_init["trainer"]
        plugins = [*_listed(config["plugins"]), WholeFileCheckpointIO()]
        if config["sync_batchnorm"]:
            plugins.append(SyncNorms())
        return super().instantiate_trainer(
            default_root_dir=self.folder,
            plugins=plugins,
            sync_batchnorm=False,
            callbacks=[*_listed(config["callbacks"]), *self.callbacks()],
            **kwargs,
        )

    def callbacks(self) -> list[Callback]:
        """Those of this command, which follow those of the config."""
        return []

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config["run"])

    def own_config(self) -> dict[str, Any]:
        """What it takes to make the same network, scans and trainer again."""
        text = self.parser.dump(self.config, skip_none=False, format="yaml")
        config: dict[str, Any] = needs_extra("tsl", "yaml", "train").safe_load(text)
        return {key: config[key] for key in ("seed_everything", "trainer", "model", "data")}

    def load(self, path: str | Path) -> None:
        """Weights of the network, out of a checkpoint or a file of a bare network."""
        weights = read_weights(path)
        is_bare = weights.keys() == self.model.network.state_dict().keys()
        load_weights(self.model.network, weights, rename=[] if is_bare else [(r"^network\.", "")])

    def report(self) -> None:
        """Print the scores, and write them down beside the run."""
        scores = self.model.last
        if scores is None or not self.trainer.is_global_zero:
            return
        print(scores.table(self.model.classes))
        path = self.folder / "scores.json"
        text = json.dumps(scores.as_dict(self.model.classes), indent=2) + "\n"
        write_whole(self.name, path, text.encode())
        print(f"written to {path}")


class TrainCommand(RunCommand):
    name = "train"
    description = (
        "Train a network, validate it, keep its best and its last checkpoint. Recipes that "
        f"--config knows by name: {', '.join(_RECIPE_NAMES)}."
    )

    def __init__(self, arguments: list[str]) -> None:
        if "--resume" in arguments:
            arguments = _of_a_run(self.name, arguments)
        super().__init__(arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--resume",
            action="store_true",
            help="go on from the run's last checkpoint, by default with its config",
        )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        if self.config_init["trainer"]["logger"] is None:
            kwargs["logger"] = TensorBoardLogger(self.folder, "", "log")
        return super().instantiate_trainer(**kwargs)

    def callbacks(self) -> list[Callback]:
        """Keep the last epoch, and the best one if there is something to measure it with."""
        folder = self.folder / "checkpoints"
        last = ModelCheckpoint(
            folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
        if not self.datamodule.val:
            return [last]
        best = _Best(
            folder, filename="best", monitor="val/miou", mode="max", enable_version_counter=False
        )
        return [best, last]

    def run(self) -> None:
        last: Path | None = self.folder / "checkpoints" / "last.ckpt"
        if last is None or not last.is_file():
            last = None
        elif not self.config["resume"]:
            refuse(
                f"train: {self.folder}",
                "the folder of a new run",
                "one with a checkpoint",
                "Go on from it with --resume, or give another --run.",
            )
        if last is not None:
            self._check_config()
        elif self.config["init"]:
            self.load(self.config["init"])
        if self.trainer.is_global_zero and last is None:
            dump = needs_extra("tsl train", "yaml", "train").safe_dump
            text = dump({**self.own_config(), "init": self.config["init"]}, sort_keys=False)
            write_whole(self.name, self.folder / CONFIG, text.encode())
        keep_host_memory()
        self.trainer.fit(self.model, self.datamodule, ckpt_path=last, weights_only=True)
        self.report()

    def _check_config(self) -> None:
        """Raise unless the run that goes on is the one that was begun."""
        load = needs_extra("tsl train", "yaml", "train").safe_load
        begun, given = load((self.folder / CONFIG).read_text()), self.own_config()
        bound = {
            "model": given["model"].keys(),
            "data": given["data"].keys() - {"root", "val", "predict", "workers"},
            "trainer": _BOUND,
        }
        # A setting that the library did not have then is not in the file.
        changed = [
            f"{part}.{key}"
            for part, keys in bound.items()
            for key in given[part]
            if key in keys and key in begun[part] and begun[part][key] != given[part][key]
        ]
        if changed:
            part, key = changed[0].split(".")
            refuse(
                f"train: {' and '.join(changed)}",
                f"as in {self.folder / CONFIG} to go on with --resume",
                repr(given[part][key]),
                "Leave --config and these arguments out, or give another --run.",
            )


class _Best(ModelCheckpoint):
    """Knows the best score of a run whose folder was moved, too."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class TrainedCommand(RunCommand):
    """What is done with a trained network."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(_of_a_run(self.name, arguments))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--checkpoint", type=str | None, default=None, help="by default the best of the run"
        )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        return super().instantiate_trainer(logger=False, enable_checkpointing=False, **kwargs)

    def load_trained(self) -> None:
        """The weights asked for; by default the run's best or, without validation, its last."""
        folder = self.folder / "checkpoints"
        best = folder / "best.ckpt"
        self.load(self.config["checkpoint"] or (best if best.is_file() else folder / "last.ckpt"))


class ValidateCommand(TrainedCommand):
    name = "validate"
    description = "Scores of a trained network on the scans of data.val, class by class."

    def run(self) -> None:
        if not self.datamodule.val:
            remedy = "Give scans with labels: --data.val '[{split: val}]'."
            refuse("validate: data.val", "at least one data set", "none", remedy)
        self.load_trained()
        keep_host_memory()
        self.trainer.validate(self.model, self.datamodule, verbose=False)
        self.report()


class PredictCommand(TrainedCommand):
    name = "predict"
    description = "Label the scans of data.predict with a trained network."

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--out", type=str | None, default=None, help="by default predictions/ of the run"
        )

    def callbacks(self) -> list[Callback]:
        folder = self.config["out"] or self.folder / "predictions"
        self.writer = WritePredictions(self.datamodule.predict_scans, folder)
        return [self.writer]

    def run(self) -> None:
        self.load_trained()
        self.model.fuse()
        keep_host_memory()
        self.trainer.predict(self.model, self.datamodule, return_predictions=False)
        print(latency_table(self.writer.times))
        print(f"{len(self.writer.files)} label files in {self.writer.folder}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _with_recipes(command: str, arguments: list[str]) -> list[str]:
    """``--config name`` becomes the path of our recipe of that name, unless it is a file."""
    result = list(arguments)
    for index, argument in enumerate(result):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-c"):
            continue
        place = index if equals else index + 1
        value = value if equals else "".join(result[place : place + 1])
        is_name = re.fullmatch(r"[\w.-]+", value) and not Path(value).is_file()
        if not is_name:  # a path, or the config itself
            continue
        if value not in _RECIPE_NAMES:
            rule = f"a file or one of the recipes {', '.join(_RECIPE_NAMES)}"
            refuse(f"{command}: --config", rule, repr(value), "Check the path or the name.")
        recipe = str(_RECIPES / f"{value}.yaml")
        result[place] = f"{flag}={recipe}" if equals else recipe
    return result


def _of_a_run(command: str, arguments: list[str]) -> list[str]:
    """Put the config of the run before the arguments, unless these name another."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", default=_RUN)
    parser.add_argument("--config", "-c", action="append")
    parser.add_argument("--help", "-h", action="store_true")
    given, _ = parser.parse_known_args(arguments)
    if given.config or given.help:
        return arguments
    config = Path(given.run) / CONFIG
    if config.is_file():
        if not command.startswith("search") and "nas.Supernet" in config.read_text():
            remedy = "Take a network out of it first: tsl search derive."
            refuse(f"{command}: --run {given.run}", "of a network", "a supernet's", remedy)
        return ["--config", str(config), *arguments]
    return refuse(
        f"{command}: --run {given.run}",
        f"the folder of a run, with {CONFIG}",
        "none",
        "Give the folder that tsl train wrote, or --config and --checkpoint.",
        error=FileNotFoundError,
    )
