# SPDX-License-Identifier: MIT
"""What a supernet learns in a step, in one process and in two, and what it is scored by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from house_form import provoke

pytest.importorskip("lightning", reason="the extra train is not installed")

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from tiny_supernet import DEFAULTS, module_of, pretend

import torchsparse_lite as tsl
from torchsparse_lite.nas.calibrate import recalibrate
from torchsparse_lite.train.sync import SyncNorms

# Lightning's own: hints about workers and loggers, and what it calls of torch.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

TESTS = Path(__file__).parent


def assert_same(one, two, *, rtol=0.0, atol=0.0):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(TESTS / "supernet_on_two_ranks.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def batch_of(step):
    return {"points": tsl.PointTensor(*step["points"]), "labels": step["labels"]}


def test_processes_step_by_the_mean_of_their_gradients(ranks):
    """Weights stay equal; what one alone used counts half, what none used has no gradient."""
    assert len(ranks[0]["steps"]) == 2
    uses = set()
    for number, steps in enumerate(zip(*(seen["steps"] for seen in ranks), strict=True)):
        assert_same(steps[0]["grads"], steps[1]["grads"])
        alone = []
        for rank, step in enumerate(steps):
            module = pretend(module_of(), global_step=number, global_rank=rank)
            module.supernet.load_state_dict(steps[0]["weights"])
            parameters = dict(module.supernet.named_parameters())
            for name in parameters:
                assert torch.equal(step["weights"][name], steps[0]["weights"][name]), name
            module.on_train_batch_start(batch_of(step), number)
            module.training_step(batch_of(step), number).backward()
            alone.append({n: p.grad for n, p in parameters.items() if p.grad is not None})
        assert alone[0].keys() | alone[1].keys() == steps[0]["grads"].keys()
        for name, grad in steps[0]["grads"].items():
            given = [one[name] for one in alone if name in one]
            mean = sum(given) / 2
            torch.testing.assert_close(grad, mean, rtol=1e-5, atol=1e-6 * float(mean.abs().max()))
            uses.add(len(given))
        uses.add(2 if parameters.keys() <= steps[0]["grads"].keys() else 0)
    assert uses == {0, 1, 2}
    last = [seen["validated"]["weights"] for seen in ranks]
    assert all(torch.equal(last[0][name], last[1][name]) for name in parameters)
    assert any(not torch.equal(last[0][name], steps[0]["weights"][name]) for name in parameters)


def test_processes_validate_one_network(ranks):
    """The largest, its norms recalibrated with the batches of all."""
    module = module_of()
    module.supernet.load_state_dict(ranks[0]["validated"]["weights"])
    module.supernet.set_active_subnet(module.supernet.space.largest)
    network = module.supernet.get_active_subnet()
    steps = [step for seen in ranks for step in seen["steps"]]
    recalibrate(network, [(batch_of(step)["points"],) for step in steps])
    for seen in ranks:
        scorer = seen["validated"]["scorer"]
        floating = {n: t for n, t in network.state_dict().items() if t.is_floating_point()}
        found = {name: scorer[name] for name in floating}
        assert_same(found, floating, rtol=1e-5, atol=1e-6)
    own = module.supernet.get_active_subnet()
    recalibrate(own, [(batch_of(step)["points"],) for step in ranks[0]["steps"]])
    name = "unet.down.3.blocks.0.second.1.running_mean"
    assert not torch.allclose(own.state_dict()[name], scorer[name], rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "ddp"}, ["trainer.strategy", "DDPStrategy", "strategy=ddp_find_unused"]),
        ({"strategy": "ddp_find_unused_parameters_false"}, ["find_unused_parameters=False"]),
        (
            {"strategy": DDPStrategy(find_unused_parameters=True, static_graph=True)},
            ["static_graph=True"],
        ),
        (
            {"strategy": "ddp_find_unused_parameters_true", "sync_batchnorm": True},
            ["trainer.sync_batchnorm must be false"],
        ),
        (
            {"strategy": "ddp_find_unused_parameters_true", "plugins": [SyncNorms()]},
            ["trainer.sync_batchnorm must be false"],
        ),
    ],
)
def test_what_processes_cannot_do_together_is_refused(options, words):
    module = module_of()
    module.trainer = pl.Trainer(**DEFAULTS, devices=2, **options)
    provoke(ValueError, words, lambda: module.setup("fit"))
    module.setup("validate")


def test_other_strategies_are_refused():
    module = pretend(module_of(), strategy=FSDPStrategy())
    provoke(ValueError, ["trainer.strategy", "FSDPStrategy"], lambda: module.setup("fit"))


@pytest.mark.parametrize(
    "options",
    [
        {"devices": 2, "strategy": "ddp_find_unused_parameters_true"},
        {"devices": 1, "sync_batchnorm": True},
    ],
)
def test_what_processes_can_do_is_not_refused(options):
    module = module_of()
    module.trainer = pl.Trainer(**DEFAULTS, **options)
    module.setup("fit")
