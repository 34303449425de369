# SPDX-License-Identifier: MIT
"""What a supernet learns in a step, in one process and in two, and what it is scored by."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from house_form import provoke

pytest.importorskip("lightning", reason="the extra train is not installed")

import lightning.pytorch as pl
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from tiny_supernet import DEFAULTS, SPACE, loader, module_of, pretend
from torch.optim.swa_utils import AveragedModel

import torchsparse_lite as tsl
from torchsparse_lite import nas
from torchsparse_lite.nas.calibrate import recalibrate
from torchsparse_lite.nas.channels import channel_groups
from torchsparse_lite.nas.sampling import Phase
from torchsparse_lite.train import subnets
from torchsparse_lite.train.sorting import sort_supernet
from torchsparse_lite.train.subnets import SubnetScores
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
    assert len(ranks[0]["steps"]) == 3
    uses = set()
    for number, steps in enumerate(zip(*(seen["steps"] for seen in ranks), strict=True)):
        assert_same(steps[0]["grads"], steps[1]["grads"])
        alone = []
        for rank, step in enumerate(steps):
            where = {"global_step": number, "estimated_stepping_batches": 3, "global_rank": rank}
            module = pretend(module_of(phases="ofa"), **where)
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


@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
def test_a_sandwich_step_by_hand(distill):
    """The largest learns from the labels; the others from it too, and it not from them."""
    module = pretend(module_of(dropout=0.0, sandwich=True, distill=distill))
    (batch,) = loader(2)
    points, labels = batch["points"], batch["labels"]
    archs = module.sampler.draw(0, 0.0, 0)
    assert len(set(archs)) == 3
    teacher, losses, networks = None, [], []
    for arch in archs:
        module.supernet.set_active_subnet(arch)
        networks.append(module.supernet.get_active_subnet())
        logs = networks[-1](points).log_softmax(1)
        hard = -logs[torch.arange(len(labels)), labels].mean()
        if teacher is None:
            teacher = logs.detach().exp()
            losses.append(hard)
        else:
            soft = -(teacher * logs).sum(1).mean()
            losses.append((1 - distill) * hard + distill * soft)
    expected = sum(losses) / 3
    expected.backward()
    loss = module.training_step(batch, 0)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    grad = torch.zeros_like(module.supernet.tensors["classifier.weight"])
    for network in networks:
        weight = network.classifier.weight  # its channels are the leading ones
        grad[:, : weight.shape[1]] += weight.grad
    torch.testing.assert_close(module.supernet.tensors["classifier.weight"].grad, grad)


def iou_by_hand(network, batches):
    hits, union = torch.zeros(2), torch.zeros(2)
    for batch in batches:
        prediction = network(batch["points"]).argmax(1)
        for label in range(2):
            one, other = prediction == label, batch["labels"] == label
            hits[label] += (one & other).sum()
            union[label] += (one | other).sum()
    return float((hits / union).mean())


@torch.no_grad()
def extracted(module, arch, batches):
    """A subnet as a network of its own, its norms recalibrated; and it without that."""
    module.supernet.set_active_subnet(arch)
    network, plain = (module.supernet.get_active_subnet() for _ in range(2))
    recalibrate(network, [(batch["points"],) for batch in batches])
    return network, plain.eval()


def test_subnets_of_a_step_share_one_grid(monkeypatch):
    made = []

    def grid(*arguments):
        made.append(tsl.PointGrid(*arguments))
        return made[-1]

    monkeypatch.setattr("torchsparse_lite.nas.grids.PointGrid", grid)
    module = pretend(module_of(sandwich=True, subnets=2))
    module.train()
    batch = next(iter(loader(2)))
    module.training_step(batch, 0).backward()
    assert len(made) == 1
    module.training_step(batch, 1)
    assert len(made) == 2


def test_validation_is_of_the_largest_subnet_taken_out():
    """Recalibrated with the batches of the epoch; the supernet is as before."""
    module = pretend(module_of())
    *first, second, third = list(loader(8))
    for batches in (first, [second, third]):
        module.on_train_epoch_start()
        for batch in batches:
            module.training_step(batch, 0)
    weights = copy.deepcopy(module.supernet.state_dict())
    expected, plain = extracted(module, module.supernet.space.largest, [second, third])
    module.supernet.set_active_subnet(module.supernet.space.smallest)
    validation = list(loader(12))[4:]
    with torch.inference_mode():
        module.eval().on_validation_epoch_start()
        points = validation[0]["points"]
        assert torch.equal(module(points), expected(points))
        assert not torch.allclose(module(points), plain(points), rtol=1e-2, atol=1e-2)
        for number, batch in enumerate(validation):
            module.validation_step(batch, number)
        module.on_validation_epoch_end()
    assert module.last.mean == pytest.approx(iou_by_hand(expected, validation))
    assert module.scorer is module.supernet
    assert_same(module.supernet.state_dict(), weights)


def test_subnets_are_scored_as_networks_of_their_own():
    module = pretend(module_of())
    calibration, validation = list(loader(4)), list(loader(8))[2:]
    supernet = module.supernet
    pairs = [(batch["points"], batch["labels"]) for batch in validation]
    scores = SubnetScores(supernet, [batch["points"] for batch in calibration], pairs, 2)
    found = set()
    for arch in (supernet.space.largest, supernet.space.smallest):
        network, plain = extracted(module, arch, calibration)
        expected = iou_by_hand(network, validation)
        hits = [(network(p).argmax(1) == labels).float() for p, labels in pairs]
        given = scores.scores(scores.network(arch))
        assert float(given.mean) == pytest.approx(expected)
        assert float(given.accuracy) == pytest.approx(float(torch.cat(hits).mean()))
        assert float(given.mean) != pytest.approx(iou_by_hand(plain, validation))
        found.add(float(given.mean))
    assert len(found) == 2
    provoke(ValueError, ["validation"], lambda: SubnetScores(supernet, [], [], 2))


def taught(optimizer, dtype=torch.float32, steps=3):
    """A module in the middle of a training of its largest subnet, and what it does a step with."""
    module = pretend(module_of(dropout=0.0, optimizer=optimizer).to(dtype))  # masks stay in place
    module.supernet.set_active_subnet(module.supernet.space.largest)
    made = module.configure_optimizers()["optimizer"]
    module.trainer.optimizers.append(made)
    batches = list(loader(2 * steps + 2))

    def step(batch):
        made.zero_grad()
        torch.manual_seed(0)
        module.loss(module.supernet(as_type(batch["points"], dtype)), batch["labels"]).backward()
        made.step()

    for batch in batches[:-1]:
        step(batch)
    return module, step, batches[-1]


def as_type(points, dtype):
    return points.replace_feats(points.feats.to(dtype))


def deep_and_shallow(space):
    """All with the most channels."""
    largest = dict(space.largest)
    for gene in space.genes:
        if gene.name.endswith("depth"):
            values = {**largest, gene.name: gene.options[0]}
            yield space.arch({n: v for n, v in values.items() if is_active(space, n, values)})
    yield space.largest


def is_active(space, name, values):
    return space.by_name[name].is_active(values)


@torch.no_grad()
def outputs(module, archs, points):
    found = []
    for arch in archs:
        module.supernet.set_active_subnet(arch)
        found.append(module.supernet.eval()(points))
        module.supernet.train()
    return found


def test_sorting_leaves_networks_of_all_channels_as_they_are():
    """The shallow ones too; narrow ones are others than before."""
    module, _, batch = taught("sgd")
    space, points = module.supernet.space, batch["points"]
    archs = [*deep_and_shallow(space), space.smallest]
    assert len(set(archs)) == 10
    *before, smallest_before = outputs(module, archs, points)
    sort_supernet(module.supernet, module.trainer)
    *after, smallest_after = outputs(module, archs, points)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(smallest_before, smallest_after, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_goes_on_as_without_sorting(optimizer):
    """In float64: AdamW makes much of the last bits of small gradients."""
    results = []
    for is_sorted in (False, True):
        module, step, batch = taught(optimizer, torch.float64)
        archs, points = [module.supernet.space.largest], as_type(batch["points"], torch.float64)
        results += outputs(module, archs, points)
        if is_sorted:
            sort_supernet(module.supernet, module.trainer)
        step(batch)
        results += outputs(module, archs, points)
    before, after, _, after_sorting = results
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after_sorting, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [("sgd", {"momentum_buffer"}), ("adamw", {"exp_avg", "exp_avg_sq"})],
)
def test_what_belongs_to_a_weight_is_sorted_with_it(optimizer, moments):
    """Number by number: moments, gradients and averages that tell of which one they are."""
    module, _, _ = taught(optimizer)
    (made,) = module.trainer.optimizers
    average = EMAWeightAveraging(decay=0.9)
    average._average_model = AveragedModel(module)
    module.trainer.callbacks.append(average)
    parameters = dict(module.supernet.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for parameter in parameters.values():
        state = made.state[parameter]
        assert moments == {key for key, value in state.items() if value.dim()}
        for value in [parameter.grad, *(state[key] for key in moments)]:
            value.copy_(parameter.detach())
    sort_supernet(module.supernet, module.trainer)
    moved = [n for n, p in parameters.items() if not torch.equal(p, before[n])]
    assert len(moved) > 0.9 * len(parameters)
    for name, parameter in parameters.items():
        assert torch.equal(parameter.grad, parameter), name
        for key in moments:
            assert torch.equal(made.state[parameter][key], parameter), (name, key)
    averaged = average._average_model.module.supernet
    assert_same(averaged.state_dict(), module.supernet.state_dict())


def test_important_channels_of_all_groups_come_first():
    module, _, _ = taught("sgd")
    sort_supernet(module.supernet, module.trainer)
    tensors = module.supernet.tensors
    for group in channel_groups(module.supernet.get_active_subnet()):
        importance = 0
        for name in group.makers:
            weight = tensors[name].detach().double().abs()
            importance = importance + (weight.sum(1) if weight.dim() == 2 else weight.sum((0, 1)))
        assert (importance.diff() <= 1e-9).all(), group.makers


class Break(Callback):
    """Ends the training before a step."""

    def __init__(self, at=-1):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at:
            raise InterruptedError


def fit(folder, *, at=-1, resume=False, epochs=2, accumulate=1, **options):
    module = module_of(**{"phases": "ofa", **options})
    last = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = pl.Trainer(
        **{**DEFAULTS, "enable_checkpointing": True},
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[Break(at), EMAWeightAveraging(decay=0.5), last],
    )
    path = folder / "last.ckpt" if resume else None
    trainer.fit(module, loader(8), ckpt_path=path, weights_only=True)
    return module.state_dict()


@pytest.fixture
def sorted_at(monkeypatch):
    """Steps before which channels are sorted."""
    found = []

    def sort(supernet, trainer):
        found.append(trainer.global_step)
        sort_supernet(supernet, trainer)

    monkeypatch.setattr(subnets, "sort_supernet", sort)
    return found


@pytest.mark.parametrize(
    ("options", "at", "sorts"),
    [
        ({"epochs": 2}, 4, [4, 4]),  # killed before the channels of the whole run are sorted
        ({"epochs": 2, "optimizer": "sgd"}, 5, [4, 4, 4]),  # killed behind, and sorted again
        ({"epochs": 3, "accumulate": 2}, 4, [3, 3]),  # gone on from a checkpoint behind
    ],
)
def test_a_broken_run_ends_as_one_without_a_break(tmp_path, sorted_at, options, at, sorts):
    whole = fit(tmp_path / "whole", **options)
    with pytest.raises(InterruptedError):
        fit(tmp_path / "broken", at=at, **options)
    resumed = fit(tmp_path / "broken", resume=True, **options)
    assert sorted_at == sorts
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    ("phases", "sorts"),
    [
        ("all", []),
        ("depth", []),
        ("ofa", [2]),
        ((Phase(0.75, lambda gene: gene.options[-1:]), Phase(1, lambda gene: gene.options)), [3]),
    ],
)
def test_channels_are_sorted_before_the_first_that_vary(sorted_at, phases, sorts):
    module = module_of(phases=phases)
    for step in range(4):
        pretend(module, global_step=step).on_train_batch_start({}, 0)
    assert sorted_at == sorts


def test_a_run_begun_without_sorting_ends_without(sorted_at):
    module = pretend(module_of(phases="ofa"), global_step=3)
    module.on_load_checkpoint({})
    module.on_train_batch_start({}, 0)
    assert sorted_at == []


def test_what_cannot_be_sorted_is_said_once(sorted_at):
    space = replace(nas.search_space(**SPACE), structures=({}, {"down.0.depth": 1}))
    module = pretend(module_of(space, phases="ofa"), global_step=2)
    with pytest.warns(UserWarning, match="channels will not be sorted: space .* has 2 structures"):
        module.on_fit_start()
    module.on_train_batch_start({}, 0)
    assert sorted_at == []


def test_averages_that_cannot_be_sorted_are_refused():
    callbacks = [StochasticWeightAveraging(0.01)]
    module = pretend(module_of(phases="ofa"), callbacks=callbacks)
    words = ["trainer.callbacks", "StochasticWeightAveraging", "EMAWeightAveraging"]
    provoke(ValueError, words, module.on_fit_start)
    pretend(module_of(phases="depth"), callbacks=callbacks).on_fit_start()
