# SPDX-License-Identifier: MIT
"""Search spaces: what they count, draw, change, repair and refuse; released configurations."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
from house_form import provoke

from torchsparse_lite import models, nas
from torchsparse_lite.nas.spaces.spvnas import from_net_config, to_net_config

# SemanticKITTI_val_SPVNAS@65GMACs, as its net.config says.
RELEASED = {
    "output_channels": [32, 24, 52, 188, 232, 140, 152, 96, 76],
    "transition": [16, 44, 84, 152, 188, 104, 48, 64],
    "mids": [(44, 36), (80, 68), (64, 68), (116, 96), (140, 248), (64,), (104, 56), (112,)],
}


def released_config():
    config = {"output_channels": RELEASED["output_channels"], "num_classes": 19}
    for number, (transition, mids) in enumerate(
        zip(RELEASED["transition"], RELEASED["mids"], strict=True)
    ):
        name = f"downsample.{number}" if number < 4 else f"upsample.{number - 4}"
        config |= {f"{name}.transition": transition, f"{name}.feature": len(mids)}
        config |= {f"{name}.feature.layers.{b}.net.layers.0": mid for b, mid in enumerate(mids)}
    return config


def toy_space():
    """Small enough to list."""
    deep = frozenset({2, 3})
    genes = (
        nas.Gene("depth", (0, 1, 2, 3)),
        nas.widths("width", 4, 16, 4),
        nas.Gene("kernel", ("3", "5"), needs=("depth", deep), is_ordered=False),
        nas.widths("inner", 4, 12, 4, needs=("kernel", frozenset({"5"}))),
    )
    return nas.SearchSpace("toy", genes, lambda arch: None)


def all_of(space):
    """By brute force: every combination, idle genes dropped."""
    options = [gene.options for gene in space.genes]
    names = [gene.name for gene in space.genes]
    return {space.arch(dict(zip(names, values, strict=True))) for values in product(*options)}


def test_size_counts_what_differs():
    space = toy_space()
    assert space.size() == len(all_of(space)) == 2 * 4 + 2 * 4 * (1 + 3)


@pytest.mark.parametrize(("quantum", "exponent"), [(4, 48), (16, 30)])
def test_size_of_the_released_space(quantum, exponent):
    assert round(math.log10(nas.spvnas(quantum).size())) == exponent


def test_released_space_has_the_released_ranges():
    space = nas.spvnas(4)
    assert space.by_name["down.0.channels"].options == tuple(range(16, 49, 4))
    assert space.by_name["up.0.channels"].options == tuple(range(128, 385, 4))
    assert space.by_name["down.0.transition"].options == tuple(range(4, 33, 4))
    assert space.by_name["up.3.mids.1"].options == tuple(range(16, 129, 4))
    assert nas.spvnas(16).by_name["down.0.mids.0"].options == (16, 32, 48)
    half = nas.spvnas(4, width=0.5, voxel_size=0.2)
    assert half.name == "spvnas-4-0.5-0.2"
    assert half.by_name["down.0.channels"].options == tuple(range(8, 25, 4))
    assert half.build(half.largest).voxel_size == 0.2


def test_a_released_network_has_its_parameters():
    """10.79 million; and its file comes out as it went in."""
    arch = from_net_config(released_config())
    network = nas.spvnas(4).build(arch)
    parameters = sum(p.numel() for p in network.parameters())
    assert round(parameters / 1e6, 2) == 10.79
    assert isinstance(network, models.SPVCNN)
    config = json.loads(json.dumps(to_net_config(arch)))
    assert config.items() >= released_config().items()
    assert from_net_config(config) == arch
    assert config["upsample.1.feature.layers.1.net.layers.0"] is None
    with pytest.raises(ValueError, match=r"from_net_config: upsample.3.feature must be given"):
        from_net_config({k: v for k, v in config.items() if k != "upsample.3.feature"})


KINDS = [
    ("spvnas", {}),
    ("spvnas", {"quantum": 16}),
    ("lidar", {}),
    ("lidar", {"quantum": 16, "voxel_sizes": (0.1,)}),
    ("lidar", {"width": 0.25, "kernels": ["3x1x1"], "blocks": ["residual"], "between": []}),
    ("pvcnn", {}),
    ("pvcnn", {"preset": "shapenet"}),
    ("pvcnn", {"preset": "s3dis++"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_draws_are_of_the_space_and_repeatable(kind, options):
    space = nas.search_space(kind, **options)
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(20)]
    assert archs == [space.sample(np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(archs)) > 5
    for arch in (*archs, space.largest, space.smallest, *space.covering()):
        space.validate(arch)
        again = nas.Arch.from_json(json.dumps(json.loads(arch.to_json())))
        assert again == arch
        assert again.hash == arch.hash
    assert len({arch.hash for arch in archs}) == len(set(archs))


def test_a_space_is_named_after_its_options():
    assert nas.lidar().name == nas.lidar(voxel_sizes=[0.10, 0.075, 0.05]).name == "lidar"
    others = [nas.lidar(width=0.5), nas.lidar(blocks=["residual"]), nas.lidar(width=0.25)]
    assert len({space.name for space in others}) == 3


def test_widths_are_drawn_as_integers_rounded_down():
    """16 to 48 by 16: 16 and 32 stand for 16 integers each, 48 for one."""
    gene = nas.widths("c", 16, 48, 16)
    assert gene.weights == (16, 16, 1)
    rng = np.random.default_rng(0)
    drawn = [gene.draw(rng) for _ in range(3300)]
    assert drawn.count(48) == pytest.approx(100, abs=40)
    assert nas.widths("c", 4, 20, 16).options == (16,)


def test_mutation_changes_about_as_many_genes_as_said():
    space = nas.spvnas(4)
    rng = np.random.default_rng(0)
    arch = space.sample(rng)
    assert space.mutate(arch, rng, 0.0) == arch
    changed = [
        np.mean([space.mutate(arch, rng, 0.2).get(name) != arch[name] for name in arch])
        for _ in range(50)
    ]
    assert 0.1 < np.mean(changed) < 0.25
    for _ in range(50):
        space.validate(space.mutate(arch, rng, 0.5))


def test_crossover_takes_genes_of_its_parents():
    space = nas.lidar()
    rng = np.random.default_rng(0)
    one, other = space.sample(rng), space.sample(rng)
    for _ in range(20):
        child = space.crossover(one, other, rng)
        space.validate(child)
        for name in child:
            known = {parent[name] for parent in (one, other) if name in parent}
            assert not known or child[name] in known


def test_repair_shrinks_as_far_as_it_takes():
    space = nas.spvnas(4)
    rng = np.random.default_rng(0)

    def cost(arch):
        return sum(v for name, v in arch.items() if not name.endswith("depth"))

    for _ in range(10):
        arch = space.sample(rng)
        limit = 0.8 * cost(arch)
        repaired = space.repair(arch, lambda a, limit=limit: cost(a) <= limit)
        space.validate(repaired)
        assert 0.97 * limit < cost(repaired) <= limit
        depths = [name for name in arch if name.endswith("depth")]
        assert all(repaired[name] == arch[name] for name in depths)
    assert space.repair(arch, lambda a: True) is arch
    assert space.repair(arch, lambda a: cost(a) < 100) is None
    by_depth = space.repair(arch, lambda a: len(a) < len(space.smallest) + 2)
    assert len(by_depth) < len(space.smallest) + 2


def test_filling_raises_widths_as_far_as_they_fit():
    space = nas.spvnas(4)

    def cost(arch):
        return sum(v for name, v in arch.items() if not name.endswith("depth"))

    rng = np.random.default_rng(1)
    for _ in range(10):
        arch = space.sample(rng)
        limit = 1.3 * cost(arch)
        filled = space.repair(arch, lambda a, limit=limit: cost(a) <= limit, fill=True)
        space.validate(filled)
        assert 0.98 * limit < cost(filled) <= limit
        assert all(filled[name] >= arch[name] for name in arch)
        assert all(filled[name] == arch[name] for name in arch if name.endswith("depth"))
        widest = space.repair(arch, lambda a: True, fill=True)
        assert all(v == space.by_name[n].options[-1] for n, v in widest.items() if "depth" not in n)


def test_options_of_lidar_come_in_any_order():
    options = {"voxel_sizes": [0.1, 0.2], "kernels": ["3x3x3", "3x3x3/7"], "blocks": ["residual"]}
    space = nas.lidar(**options)
    assert space.by_name["voxel_size"].options == (0.2, 0.1)
    assert space.by_name["down.0.kernel"].options == ("3x3x3/7", "3x3x3")
    assert space.name == nas.lidar(**{k: v[::-1] for k, v in options.items()}).name
    for wrong in ({"quantum": 0}, {"deepest": 0}, {"width": 0.0}, {"voxel_sizes": []}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"lidar: {name} must be"):
            nas.lidar(**wrong)
    with pytest.raises(ValueError, match="spvnas: quantum must be positive, got 0"):
        nas.spvnas(0)


def test_what_is_no_architecture_is_refused():
    space = toy_space()
    good = {"depth": 2, "width": 8, "kernel": "5", "inner": 4}
    arch = space.arch(good)
    assert space.arch({**good, "kernel": "3"}) == space.arch({**good, "kernel": "3", "inner": 8})
    words = ["SearchSpace.arch: width must be one of 4, 8, 12, 16, got 7"]
    provoke(ValueError, words, lambda: space.arch({**good, "width": 7}))
    words = ["SearchSpace.arch: inner must be given, got nothing"]
    provoke(ValueError, words, lambda: space.arch({"depth": 2, "width": 8, "kernel": "5"}))
    words = ["SearchSpace.arch: values must be genes of space toy, got ['color']"]
    provoke(ValueError, words, lambda: space.arch({**good, "color": 1}))
    two = toy_space().arch({"depth": 2.0, "width": 8.0, "kernel": "3"})
    assert two.hash == space.arch({"depth": 2, "width": 8, "kernel": "3"}).hash
    with pytest.raises(ValueError, match="to_net_config: arch must be of spvnas as released"):
        to_net_config(arch)
    with pytest.raises(ValueError, match="validate: arch must be of space spvnas-4, got toy"):
        nas.spvnas(4).validate(arch)
    idle = nas.Arch("toy", (*space.arch({"depth": 1, "width": 8}).genes, ("kernel", "3")))
    words = ["of the genes that matter, in the order of the space, got ['kernel']"]
    provoke(ValueError, words, lambda: space.validate(idle))
    words[0] = words[0].replace("['kernel']", "another order or type")
    turned = nas.Arch("toy", arch.genes[::-1])
    provoke(ValueError, words, lambda: space.validate(turned))
    other = nas.Arch("toy", tuple((k, 8.0 if k == "width" else v) for k, v in arch.genes))
    assert other == arch
    assert other.hash != arch.hash
    provoke(ValueError, words, lambda: space.validate(other))
    for text in ("", "[]", '{"schema": 1}', '{"schema": 1, "space": "toy", "genes": 3}'):
        with pytest.raises(ValueError, match=r"Arch.from_json: text must be JSON of an Arch"):
            nas.Arch.from_json(text)
    with pytest.raises(ValueError, match=r"Arch.from_json: schema must be 1, got 2"):
        nas.Arch.from_json(arch.to_json().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="search_space: kind must be one of spvnas"):
        nas.search_space("darts")
    with pytest.raises(ValueError, match="lidar: kernels must be one of 3x3x3/7, 3x1x1, 3x3x3/15"):
        nas.lidar(kernels=["7"])
    for kernels in (["3x3x3/15", "3x3x3/19"], ["3x1x1", "3x3x3/15", "3x3x3/19", "5x5x5"]):
        words = ["lidar: kernels must be with one that holds the taps of all at every stage"]
        provoke(ValueError, words, lambda some=kernels: nas.lidar(kernels=some))
    with pytest.raises(ValueError, match="lidar: blocks must be at least one, got none"):
        nas.lidar(blocks=[])
    with pytest.raises(TypeError, match="search_space: options must be those of lidar"):
        nas.search_space("lidar", color=1)
