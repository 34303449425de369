# SPDX-License-Identifier: MIT
"""What subnets a step trains, and the statistics of those that are evaluated."""

from __future__ import annotations

import clouds
import pytest
import torch

import torchsparse_lite as tsl
from torchsparse_lite import nas
from torchsparse_lite import nn as spnn
from torchsparse_lite.nas.calibrate import recalibrate
from torchsparse_lite.nas.sampling import ArchSampler, Phase

SPACE = nas.lidar()


def test_draws_depend_on_seed_step_and_rank_alone():
    sampler = ArchSampler(SPACE, count=2)
    draws = {
        (step, rank): tuple(sampler.draw(step, 0.3, rank)) for step in range(3) for rank in range(2)
    }
    assert len(set(draws.values())) == 6
    again = ArchSampler(SPACE, count=2)
    assert tuple(again.draw(2, 0.3, 1)) == draws[2, 1]
    assert ArchSampler(SPACE, count=2, seed=1).draw(0, 0.3) != list(draws[0, 0])


def test_sandwich():
    drawn = ArchSampler(SPACE, count=2, sandwich=True).draw(5, 0.5)
    assert drawn[0] == SPACE.largest
    assert drawn[-1] == SPACE.smallest
    assert len(set(drawn)) == 4


def test_deep_networks_come_first():
    sampler = ArchSampler(nas.spvnas(4), "depth")
    for step in range(20):
        (arch,) = sampler.draw(step, 0.4)
        assert all(value == 2 for name, value in arch.items() if name.endswith("depth"))
    depths = {
        value
        for step in range(20)
        for name, value in sampler.draw(step, 0.6)[0].items()
        if name.endswith("depth")
    }
    assert depths == {1, 2}


def test_kernels_then_depths_then_widths():
    sampler = ArchSampler(SPACE, "ofa")

    def seen(progress, kind):
        drawn = [sampler.draw(step, progress)[0] for step in range(30)]
        return {v for arch in drawn for n, v in arch.items() if n.endswith(kind)}

    assert [len(seen(p, "down.1.kernel")) for p in (0.1, 0.3, 0.9)] == [6, 6, 6]
    assert [len(seen(p, "down.1.depth")) for p in (0.1, 0.3, 0.9)] == [1, 4, 4]
    assert [len(seen(p, "down.1.channels")) > 1 for p in (0.1, 0.3, 1.0)] == [False, False, True]
    for progress in (0.0, 0.25, 0.5, 1.0):
        SPACE.validate(sampler.draw(0, progress)[0])


def test_wrong_samplers_are_refused():
    with pytest.raises(ValueError, match="ArchSampler: phases must be one of all, depth, ofa"):
        ArchSampler(SPACE, "darts")
    with pytest.raises(ValueError, match="ArchSampler: count must be at least 1, got 0"):
        ArchSampler(SPACE, count=0)
    with pytest.raises(ValueError, match="phases must be up to the end"):
        ArchSampler(SPACE, [Phase(0.5, lambda gene: gene.options)])


def test_recalibration_is_the_mean_over_batches():
    """And nothing else changes; dropout stays off."""
    network = spnn.Sequential(spnn.Linear(3, 4), spnn.BatchNorm(4), spnn.Dropout(0.5))
    batches = [
        tsl.PointTensor(clouds.random_values(n, 3, seed=n, dtype=torch.float32), torch.zeros(n, 3))
        for n in (20, 30)
    ]
    before = {n: p.clone() for n, p in network.named_parameters()}
    network[1].running_mean.fill_(100.0)
    recalibrate(network, [(batch,) for batch in batches])
    rows = [network[0](batch).feats for batch in batches]
    mean = sum(r.mean(0) for r in rows) / 2
    variance = sum(r.var(0) for r in rows) / 2
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)
    assert network[1].momentum == 0.1
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters())
    with pytest.raises(ValueError, match="recalibrate: inputs must be at least one batch"):
        recalibrate(network, [])
    assert not network[1].training
