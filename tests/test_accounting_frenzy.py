"""The published figures of Frenzy, from the graph on disk."""

import pytest
import tensorflow as tf
from conftest import judge_folder

from frenzy import models
from frenzy.accounting import CONVENTIONS, TASKS, AccountingError, account, read
from frenzy.accounting.conventions import Convention
from frenzy.accounting.rules import KINDS, RULES

CIFAR100 = TASKS["cifar100"]


class Plain(tf.Module):
    """The network as a tf.Module of today or yesterday would be saved: 32-bit weights, a fixed batch, no signature."""

    def __init__(self):
        super().__init__()
        self.model = models.build("frenzy", 100)
        self.weights = self.model.variables

    @tf.function(input_signature=[tf.TensorSpec((32, 32, 32, 3), tf.float32)])
    def __call__(self, x):
        return self.model(x, training=False)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "frenzy"
    tf.saved_model.save(Plain(), str(folder), signatures={})
    for path in (folder / "variables").glob("variables.data*"):
        path.unlink()
    return folder


@pytest.fixture(params=["frenzy_folder", "plain_folder"])
def reports(request):
    return judge_folder(request.getfixturevalue(request.param))[1]


def test_published_totals(reports):
    report = reports["frenzy"]
    rows = report.rows
    convs = [row for row in rows if row.op == "Conv2D"]
    adds = [row for row in rows if row.op == "AddV2"]
    pools = [row for row in rows if row.op == "AvgPool"]
    assert len(convs) == 29
    assert sum(row.storage_bytes for row in convs) == 8_839_600
    assert sum(row.operations for row in convs) == 810_624_000
    assert [row.operations for row in adds] == [102_400] * 3 + [25_600] * 2 + [51_200] + [25_600] * 3
    assert [row.operations for row in pools] == [11_059_200, 5_529_600, 1_228_800]
    assert report.totals.operations == 828_928_000 == 810_624_000 + 486_400 + 17_817_600
    assert report.totals.storage_bytes == 8_839_600
    assert round(8_839_600 / 2**20, 3) == 8.430
    assert report.unknown == ()


def test_published_score(reports):
    report = reports["frenzy"]
    assert float(report.score.total) == pytest.approx(4_419_800 / 36.5e6 + 828.928e6 / 10.49e9, abs=1e-12)
    assert round(float(report.score.total), 4) == 0.2001


def test_every_conv_as_in_the_table(reports):
    """(places, k_h, k_w, live in, live out) of every conv, block by block."""
    table = [(32, 1, 1, 3, 100)]
    live, side = 100, 32
    streams = {4: (100, 100), 5: (100, 100), 6: (100, 200), 7: (200, 400)}  # live channels before and after a block
    for number, row in enumerate(models.frenzy.FINAL.blocks, 1):
        live, after = streams.get(number, (100, 100) if number < 4 else (400, 400))
        table.append((side, 1, 1, live, row.prune))
        side //= row.stride
        table.append((side, *row.conv1, row.prune, row.a))
        table.append((side, *row.conv2, row.a, row.b))
        live = after
    table.append((8, 1, 1, 400, 100))
    convs = [row for row in reports["frenzy"].rows if row.op == "Conv2D"]
    for row, (side, height, width, live_in, live_out) in zip(convs, table, strict=True):
        assert row.multiplies == (side * side) * (height * width * live_in * live_out), row.name
        assert row.parameters == height * width * live_in * live_out
        assert (row.kernel, row.live_in, row.live_out) == ((height, width), live_in, live_out)
        assert row.output_shape == (1, side, side, live_out)


def test_the_naive_count_is_off_by_the_dead_channels():
    """Blocks 5 and 6 would read 200 channels: 2 bytes x 100 x (20 + 50) and 1.5 x 16 x 16 x 100 x (20 + 50) too many."""
    assert 8_853_600 - 8_839_600 == 2 * 100 * (20 + 50)
    assert 813_312_000 - 810_624_000 == 1.5 * (16 * 16) * 100 * (20 + 50)


def test_micronet(reports):
    """Folded BNs cost a bias, the 11 others a scale and a shift; every add of a dot product but the first is counted."""
    report = reports["micronet"]
    rows = report.rows
    norms = [row for row in rows if row.op == "FusedBatchNormV3"]
    folded = [row for row in norms if row.status == "folded"]
    assert (len(norms), len(folded)) == (29, 19)  # 9 x 2 behind prune and conv1, and the last
    unfolded = [row.live_out for row in norms if row.status == "counted"]
    assert unfolded == [100] * 4 + [100, 100] + [200] + [400] * 3
    for row in folded:
        assert (row.multiplies, row.parameters) == (0, row.live_out)
    assert report.totals.storage_bits == 16 * report.totals.parameters
    assert report.totals.parameters == 4_419_800 + 2 * sum(unfolded) + sum(row.live_out for row in folded)
    adds = [row for row in rows if row.op == "AddV2"]
    live_pairs = [100, 25, 25, 20, 20, 100, 200, 100, 400]
    sides = [32] * 3 + [16] * 3 + [8] * 3
    assert [row.adds for row in adds] == [n * side * side for n, side in zip(live_pairs, sides, strict=True)]
    pools = [row for row in rows if row.op == "AvgPool"]
    assert [row.adds for row in pools] == [(9 - 1) * 100 * 16 * 16, (9 - 1) * 200 * 8 * 8, (64 - 1) * 100]
    assert [row.multiplies for row in pools] == [100 * 16 * 16, 200 * 8 * 8, 100]
    expected = report.totals.storage_bits / 32 / CIFAR100.storage + float(report.totals.operations) / CIFAR100.operations
    assert float(report.score.total) == pytest.approx(expected, abs=1e-12)


def test_both_files_give_the_same_counts(frenzy_folder, plain_folder):
    for name in ("frenzy", "micronet"):  # others count weights at the width that they are stored at
        first, second = (account(read(folder), name) for folder in (frenzy_folder, plain_folder))
        assert first.totals == second.totals
        assert first.score == second.score


def test_16_bit_storage_is_seen_through_the_cast(frenzy_folder, plain_folder):
    for folder, bits in ((frenzy_folder, 16), (plain_folder, 32)):
        report = account(read(folder))
        assert {row.weight_bits for row in report.rows if row.op == "Conv2D"} == {bits}


def test_classify_costs_what_the_logits_cost_and_a_little(frenzy_folder):
    logits, classify = (account(read(frenzy_folder, entry), "micronet") for entry in ("serving_default", "classify"))
    assert classify.unknown == ()
    # the normalisation, a scale and a shift, folds into the 1x1 stem as a bias; the softmax has an exponential and a division a class
    assert classify.totals.multiplies == logits.totals.multiplies + 2 * 100
    assert classify.totals.adds == logits.totals.adds + (32 * 32) * 100 + (100 - 1)
    assert classify.totals.parameters == logits.totals.parameters + 100


def test_unknown_names(frenzy_folder):
    graph = read(frenzy_folder)
    with pytest.raises(
        AccountingError,
        match="no convention 'flops'; --convention takes one of: energy-45nm, energy-45nm-memory, frenzy, fvcore,",
    ):
        account(graph, "flops")
    with pytest.raises(AccountingError, match="no task 'mnist'; --task takes one of: cifar100, imagenet, wikitext103"):
        account(graph, "frenzy", "mnist")


def test_the_rule_table_is_sorted_and_conventions_are_total():
    assert list(RULES) == sorted(RULES)
    for convention in CONVENTIONS.values():
        assert set(convention.prices) == KINDS
        assert convention.source
    with pytest.raises(ValueError, match="convention x has no price for add"):
        Convention("x", "", {k: v for k, v in CONVENTIONS["frenzy"].prices.items() if k != "add"})
