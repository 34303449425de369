# SPDX-License-Identifier: MIT
"""Losses and metrics by hand and by brute force; the schedule; a module that learns."""

from __future__ import annotations

import itertools
import math
import time
from types import SimpleNamespace

import clouds
import pytest
import torch
from torch import nn
from two_grounds import POINTS, write_two_grounds
from two_sheets import TwoSheets, collate

import torchsparse_lite as tsl
from torchsparse_lite import models

pytest.importorskip("lightning", reason="the extra train is not installed")

import lightning.pytorch as pl

from torchsparse_lite.data import IGNORE, JoinedScans, RotateZ, SemanticKITTI, load_card
from torchsparse_lite.trace import scope
from torchsparse_lite.train.checkpoint import WholeFileCheckpointIO
from torchsparse_lite.train.losses import SegmentationLoss, _descending, lovasz_softmax
from torchsparse_lite.train.metrics import confusion_matrix, iou_of
from torchsparse_lite.train.module import Segmentation, warmup_cosine
from torchsparse_lite.train.scans import ScanData
from torchsparse_lite.train.stages import latency_table, time_stages

# Lightning's own: hints about workers and loggers, and what it calls of torch.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


def lovasz_by_definition(scores, labels):
    """Sum over sorted errors of error times the step of the Jaccard loss, class by class."""
    probabilities = scores.softmax(1)
    losses = []
    for k in sorted(set(labels.tolist())):
        truth = labels == k
        errors = [
            float(abs(float(t) - float(p))) for t, p in zip(truth, probabilities[:, k], strict=True)
        ]
        order = sorted(range(len(errors)), key=lambda i: -errors[i])
        wrong, before, total = set(), 0.0, 0.0
        positives = {i for i, t in enumerate(truth.tolist()) if t}
        for i in order:
            wrong.add(i)
            jaccard = 1 - len(positives - wrong) / len(positives | wrong)
            total += errors[i] * (jaccard - before)
            before = jaccard
        losses.append(total)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_is_its_definition(seed):
    scores = clouds.random_values(12, 4, seed=seed)
    labels = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(seed))
    expected = lovasz_by_definition(scores, labels)
    assert float(lovasz_softmax(scores, labels)) == pytest.approx(expected, abs=1e-6)
    with_ignored = torch.cat([labels, torch.full((3,), IGNORE)])
    more = torch.cat([scores, clouds.random_values(3, 4, seed=9)])
    assert float(lovasz_softmax(more, with_ignored)) == pytest.approx(expected, abs=1e-6)


def test_gradient_of_lovasz_is_that_of_its_definition(device):
    scores, step = clouds.random_values(8, 3, seed=3).double(), 1e-6
    labels = torch.tensor([0, 2, 1, 0, 2, 2, 1, 0])
    expected = torch.zeros_like(scores)
    for i, k in itertools.product(*map(range, scores.shape)):
        for sign in (-1, 1):
            moved = scores.clone()
            moved[i, k] += sign * step
            expected[i, k] += sign * lovasz_by_definition(moved, labels) / (2 * step)
    leaf = scores.float().to(device).requires_grad_()
    lovasz_softmax(leaf, labels.to(device)).backward()
    torch.testing.assert_close(leaf.grad.double().cpu(), expected, atol=1e-6, rtol=1e-5)


def test_errors_are_sorted_as_torch_sorts_them(device):
    """Also where many are alike, at both ends and next to them."""
    errors = clouds.random_values(4, 500, seed=5).float().abs().clamp_max(1)
    errors[1] = errors[1].mul(8).round() / 8
    errors[2], errors[3] = 0.0, 1.0
    errors[2:, ::3] = torch.tensor([1e-45, 1 - 2**-24]).unsqueeze(1)
    expected = errors.sort(dim=1, descending=True, stable=True).indices
    for same in (errors, errors.t().contiguous().t()):
        assert torch.equal(_descending(same.to(device)).cpu(), expected)


def test_perfect_scores_cost_nothing():
    labels = torch.tensor([0, 1, 2, 2])
    scores = 100.0 * nn.functional.one_hot(labels, 3).float()
    assert float(SegmentationLoss(lovasz=1.0)(scores, labels)) == pytest.approx(0, abs=1e-6)
    assert float(SegmentationLoss(lovasz=1.0)(-scores, labels)) > 10


@pytest.mark.parametrize("labels", [torch.full((4,), IGNORE), torch.zeros(0).long()])
def test_nothing_to_learn_from_gives_zero_gradients(labels):
    scores = torch.zeros(len(labels), 3, requires_grad=True)
    loss = SegmentationLoss(lovasz=1.0)(scores, labels)
    assert float(loss) == 0
    loss.backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_loss_arguments():
    labels, scores = torch.tensor([0, 1]), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    plain = SegmentationLoss()(scores, labels)
    assert float(plain) == pytest.approx(float(nn.functional.cross_entropy(scores, labels)))
    weighted = SegmentationLoss(class_weights=[0.0, 1.0])(scores, labels)
    first = torch.where(labels == 0, 0, 255)
    for lovasz in (0.0, 1.0):  # where no class weighs anything, the cross-entropy is none
        leaf = scores.clone().requires_grad_()
        nothing = SegmentationLoss(lovasz, class_weights=[0.0, 1.0])(leaf, first)
        assert nothing.item() == pytest.approx(lovasz * lovasz_softmax(scores, first).item())
        nothing.backward()
        assert leaf.grad.isfinite().all()
        assert bool(leaf.grad.any()) == bool(lovasz)
    for factor in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="SegmentationLoss: class_weights must be at least 0"):
            SegmentationLoss(class_weights=[1.0, factor])
    assert float(weighted) == pytest.approx(2 + math.log(1 + math.exp(-2)))
    with pytest.raises(ValueError, match="SegmentationLoss: lovasz must be at least 0"):
        SegmentationLoss(lovasz=-1)


def test_absent_classes_do_not_count():
    metric = confusion_matrix(4)
    prediction = torch.tensor([0, 0, 1, 1, 3, 2])
    labels = torch.tensor([0, 0, 1, 0, 1, IGNORE])
    metric.update(prediction[:3], labels[:3])
    metric.update(prediction[3:], labels[3:])
    result = iou_of(metric.compute())
    assert result.points.tolist() == [3, 2, 0, 0]
    assert result.per_class[:2].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert result.per_class[2:].isnan().all()
    assert result.mean == pytest.approx(0.5)
    assert result.accuracy == pytest.approx(3 / 5)
    table = result.table(["car", "road", "tree", "pole"])
    assert "mean over 2 classes" in table
    assert table.count("absent") == 2


def test_scores_of_nothing_are_nan():
    result = iou_of(torch.zeros(3, 3))
    assert math.isnan(result.mean)
    assert math.isnan(result.accuracy)


def test_schedule():
    factors = [warmup_cosine(step, 4, 20) for step in range(21)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[12] == pytest.approx(0.5)
    assert factors[20] == pytest.approx(0.0)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def trained(folder, epochs=6, **options):
    torch.manual_seed(0)
    shape = models.UNetShape.of((8, 8, 8), (1, 1), stem_depth=1)
    network = models.SPVCNN(4, 2, shape, voxel_size=0.2)
    loader = torch.utils.data.DataLoader(TwoSheets(4, 300), 2, collate_fn=collate)
    module = Segmentation(
        network,
        ["low", "high"],
        **{"learning_rate": 0.02, "loss": SegmentationLoss(lovasz=1.0), **options},
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, loader, loader)
    return module


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_small_network_learns(tmp_path, optimizer):
    module = trained(tmp_path, optimizer=optimizer, epochs=12, warmup_steps=2, views=2)
    assert module.last is not None
    assert module.last.mean > 0.95


def test_training_is_repeatable(tmp_path):
    one, two = (trained(tmp_path, epochs=2).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("classes", "present"), [(13, 13), (19, 19), (20, 20), (19, 1)])
def test_losses_are_bitwise_for_any_number_of_threads(threads, classes, present):
    """Values and gradients; torch's own softmax is not, beyond 16 classes."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(50_021, classes, generator=generator)
    labels = torch.randint(0, present, (len(scores),), generator=generator)
    results = []
    for count in (1, 2, 3):
        threads(count)
        leaf = scores.clone().requires_grad_()
        loss = SegmentationLoss(lovasz=1.0)(leaf, labels)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_views_turn_the_coordinates_wherever_they_stand():
    """A quarter turn: x to y, y to -x; other features stay."""
    seen = []

    class Watch(nn.Module):
        def forward(self, points):
            seen.append(points)
            return points.feats[:, :2]

    xyz = clouds.random_values(5, 3, dtype=torch.float32)
    other = clouds.random_values(5, 2, seed=1, dtype=torch.float32)
    points = tsl.PointTensor(torch.cat([other, xyz], dim=1), xyz)
    Segmentation(Watch(), ["a", "b"], views=4).probabilities(points)
    assert len(seen) == 4
    turned = torch.stack([-xyz[:, 1], xyz[:, 0], xyz[:, 2]], dim=1)
    torch.testing.assert_close(seen[1].xyz, turned)
    assert torch.equal(seen[1].feats, torch.cat([other, seen[1].xyz], dim=1))
    assert torch.equal(points.xyz, xyz)


@pytest.mark.parametrize("decay_norms", [False, True])
def test_weight_decay_of_norms(tmp_path, decay_norms):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module = Segmentation(network, ["a", "b"], weight_decay=0.5, decay_norms=decay_norms)
    module.trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(network[0].weight)] == 0.5
    for free in (network[0].bias, network[1].weight, network[1].bias):
        assert decay[id(free)] == (0.5 if decay_norms else 0.0)


def test_module_arguments():
    network = nn.Identity()
    with pytest.raises(ValueError, match="Segmentation: optimizer must be one of sgd, adamw"):
        Segmentation(network, ["a"], optimizer="lion")
    with pytest.raises(ValueError, match="Segmentation: views must be at least 1"):
        Segmentation(network, ["a"], views=0)


def test_rare_classes_weigh_more():
    loss = SegmentationLoss(balance=0.5)
    loss.weigh(torch.tensor([100, 25, 0]))
    assert (loss.weight / loss.weight[0]).tolist() == pytest.approx([1.0, 2.0, 10.0])
    assert float(loss.weight.mean()) == pytest.approx(1.0)
    scores, labels = torch.randn(30, 3), torch.arange(30) % 3
    expected = nn.functional.cross_entropy(scores, labels, loss.weight)
    torch.testing.assert_close(loss(scores, labels), expected)
    with pytest.raises(ValueError, match=r"SegmentationLoss: balance must be from 0 to 1, without"):
        SegmentationLoss(balance=0.5, class_weights=[1.0])
    with pytest.raises(ValueError, match=r"SegmentationLoss: balance must be from 0 to 1"):
        SegmentationLoss(balance=-1)


def test_balance_needs_scans_to_count(tmp_path):
    loss = SegmentationLoss(balance=0.5)
    with pytest.raises(ValueError, match=r"loss.balance must be 0 without a data module"):
        trained(tmp_path, epochs=1, loss=loss)


def scan_data(tmp_path, **options):
    root = tmp_path / "scans"
    if not root.exists():
        write_two_grounds(root, {"00": 3, "01": 2})
    options = {"workers": 0, "batch_size": 1, "val": [{"sequences": ["01"]}], **options}
    return ScanData(root, **{"train": [{"sequences": [0]}], **options})


def test_scans_are_joined_and_repeated(tmp_path):
    other = SemanticKITTI(tmp_path / "scans", sequences=["01"]) if scan_data(tmp_path) else None
    data = scan_data(tmp_path, train=[{"sequences": [0], "repeats": 2}, other])
    batches = list(data.train_dataloader())
    assert len(batches) == 2 * 3 + 2
    names = sorted(batch["name"][0] for batch in batches)
    assert names == sorted(["00/000000", "00/000001", "00/000002"] * 2 + ["01/000000", "01/000001"])
    assert [batch["name"] for batch in data.val_dataloader()] == [["01/000000"], ["01/000001"]]
    assert int(data.class_points().sum()) == 8 * POINTS
    assert data.class_points().nonzero().flatten().tolist() == [
        data.classes.index("road"),
        data.classes.index("building"),
    ]
    with pytest.raises(ValueError, match="ScanData: predict must be at least one data set"):
        data.predict_dataloader()


def test_classes_are_those_of_the_first_source(tmp_path):
    assert scan_data(tmp_path).num_classes == 19
    assert ScanData(train=[], val=[], dataset="s3dis").num_classes == 13
    assert ScanData(train=[{"dataset": "pandaset"}]).classes == list(load_card("pandaset").classes)
    assert (
        ScanData(train=[{"card": "ika_11", "files": []}]).num_classes
        == load_card("ika_11").num_classes
    )
    with pytest.raises(ValueError, match="ScanData: dataset must be one of semantickitti"):
        _ = ScanData(train=[{"dataset": "kitti"}]).card


def test_repeats_are_augmented_anew_and_epochs_too(tmp_path):
    data = scan_data(
        tmp_path, train=[{"files": ["00/000000"], "repeats": 2}], transforms=[RotateZ()]
    )
    first, second = (batch["points"].coords for batch in data.train_dataloader())
    assert not torch.equal(first, second)
    again = [batch["points"].coords for batch in data.train_dataloader()]
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_processes_share_the_scans(tmp_path, batch_size):
    """Their batches together are those of one process; the rest of an epoch is left out."""

    def names(rank, processes):
        data = scan_data(tmp_path, train=[{"sequences": [0]}, {"sequences": [1]}])
        data.batch_size = batch_size if processes > 1 else 2 * batch_size
        data.trainer = SimpleNamespace(global_rank=rank, world_size=processes, current_epoch=3)
        validated = [batch["name"][0] for batch in data.val_dataloader()]
        return [batch["name"] for batch in data.train_dataloader()], validated

    (one, validated), *two = names(0, 1), names(0, 2), names(1, 2)
    assert len(one) == 5 // (2 * batch_size)
    for step, batch in enumerate(one):
        assert sorted(batch) == sorted(two[0][0][step] + two[1][0][step])
    assert sorted(validated) == sorted(two[0][1] + two[1][1])


def test_joined_scans_keep_their_order_and_need_equal_classes(tmp_path):
    write_two_grounds(tmp_path / "scans", {"00": 2, "01": 1})
    one, two = (SemanticKITTI(tmp_path / "scans", sequences=[s]) for s in ("00", "01"))
    joined = JoinedScans([two, one, two])
    assert joined.names == ["01/000000", "00/000000", "00/000001", "01/000000"]
    assert [scan.name for scan in joined] == joined.names
    assert joined[-1].name == "01/000000"
    assert "4 scans of 3 data sets" in repr(joined)
    with pytest.raises(IndexError):
        joined[4]
    with pytest.raises(ValueError, match="JoinedScans: parts must be at least one data set"):
        JoinedScans([])
    other = SemanticKITTI(tmp_path / "scans", sequences=["01"], card="ika_11")
    with pytest.raises(ValueError, match="JoinedScans: parts must be of the classes of the first"):
        JoinedScans([one, other])


def test_stages_add_up():
    network = models.spvcnn(width=0.125, voxel_size=0.2).eval()
    points = TwoSheets(4, 300)[0]["points"]
    with torch.no_grad():
        scores, times = time_stages(lambda: network(points), load=3.0)
        torch.testing.assert_close(scores, network(points))
    assert times.load == 3.0
    assert min(times.voxelize, times.map, times.network, times.devoxelize) > 0
    table = latency_table([times, times])
    total = times.load + times.voxelize + times.map + times.network + times.devoxelize
    assert f"{total:.1f}" in table.splitlines()[-1]


def test_a_stage_inside_another_belongs_to_that():
    """And after an error nothing is timed any more."""

    def call():
        with scope("voxelize"):
            time.sleep(0.002)
            with scope("map"):
                time.sleep(0.002)
        with pytest.raises(KeyError), scope("devoxelize"):
            raise KeyError
        return "done"

    result, times = time_stages(call)
    assert result == "done"
    assert times.voxelize >= 4.0
    assert times.map == 0.0
    assert times.devoxelize > 0.0
    assert scope("map") is scope("voxelize")

    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        time_stages(fail)
    assert scope("map") is scope("voxelize")


def test_traces_name_what_is_no_layer():
    network = models.spvcnn(width=0.125, voxel_size=0.2).eval()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
        network(TwoSheets(4, 300)[0]["points"])
    assert {"tsl.voxelize", "tsl.map", "tsl.devoxelize"} <= {e.key for e in trace.key_averages()}


def test_a_network_of_another_number_of_classes_is_refused():
    module = Segmentation(models.spvcnn(width=0.125, voxel_size=0.2, num_classes=3), ["a", "b"])
    with pytest.raises(ValueError, match="one that gives 2 scores, one per class, got one that"):
        module(TwoSheets(4, 300)[0]["points"])


def test_checkpoints_appear_whole_or_not_at_all(tmp_path):
    io = WholeFileCheckpointIO()
    path = tmp_path / "folder" / "x.ckpt"
    io.save_checkpoint({"state_dict": {}}, path)
    before = path.read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"save_checkpoint: .* must be writable, got File exists"):
        io.save_checkpoint({"state_dict": {}}, tmp_path / "file" / "x.ckpt")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["x.ckpt"]
