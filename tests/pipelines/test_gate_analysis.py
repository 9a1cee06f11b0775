"""What is recorded of gates, and the analysis that joins all of it."""

import dataclasses

import numpy as np
import pytest
import skipping
import torch
from torch import nn

from fastheads.data import eval_transform
from fastheads.labels import LabelSpace
from fastheads.nn import gated_blocks, record_gates
from fastheads.pipelines.attack import fgsm, robustness
from fastheads.pipelines.gate_analysis import GateAnalysisConfig, analyse_gates, groups_of
from fastheads.pipelines.gate_tables import execution_by_label, group_rows, layer_histogram
from fastheads.pipelines.open_gates import decide, decide_on
from fastheads.pipelines.run_folder import write_arrays, write_json

TEST = skipping.dataset([[i % 5, (i + 1) % 5] if i % 3 else [i % 5] for i in range(30)])
CONFIG = GateAnalysisConfig(
    min_size=1, shown=2, examples=3, attacked=20, epsilons=(0.0, 0.05), attacked_group="Greek"
)


def recorded(network, images):
    with torch.no_grad(), record_gates(network) as record:
        network(eval_transform(images))
    return torch.stack(record.z, 1).numpy() > 0


def test_decisions_are_those_of_the_network():
    network = skipping.network()
    found = decide_on(network, TEST, eval_transform)
    assert found.names == tuple(gated_blocks(network))
    assert np.array_equal(found.open, recorded(network, torch.from_numpy(TEST.images)))
    assert 0 < found.open.mean() < 1 and found.open.dtype == bool
    batches = torch.from_numpy(TEST.images).split(7)
    again = decide(network, map(eval_transform, batches))
    assert np.array_equal(again.open, found.open)


def test_a_training_run_may_be_watched():
    """Figure 5.5: nothing changes for the run but that blocks measure anew what gathering costs."""
    network = skipping.network(always_on=["stages.2"]).train()
    network.stem.eval()  # frozen
    modes = {name: module.training for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = decide_on(network, TEST, eval_transform)
    assert torch.equal(state, torch.get_rng_state())
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(block.calibration() for block in gated_blocks(network).values())
    assert np.array_equal(found.open, decide_on(network.eval(), TEST, eval_transform).open)


def test_drawn_decisions_are_drawn_alike():
    network = skipping.network(sample=True)
    first, second = (decide_on(network, TEST, eval_transform).open for _ in range(2))
    assert np.array_equal(first, second)
    plain = decide_on(skipping.network(), TEST, eval_transform).open
    assert not np.array_equal(first, plain)


def test_decide_rejects():
    with pytest.raises(ValueError, match="must have gates"):
        decide_on(skipping.network(gated=False), TEST, eval_transform)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        decide(skipping.network(), [])
    network = skipping.network()
    gated_blocks(network)["stages.1.1"].gate.fc2.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"got nan for sample 0 of stages\.1\.1"):
        decide_on(network, TEST, eval_transform)


@pytest.fixture(scope="module")
def networks():
    return skipping.network(), skipping.network(gated=False)


@pytest.fixture(scope="module")
def analysed(networks):
    gated, plain = networks
    data = skipping.data(TEST)
    return analyse_gates(gated, data, eval_transform, CONFIG, row="kept", others={"plain": plain})


def test_analysis_holds_what_the_parts_give(networks, analysed):
    network, (content, arrays) = networks[0], analysed
    grouping = skipping.LABELS.grouping("script")
    decisions = decide_on(network, TEST, eval_transform)
    execution, rates = execution_by_label(decisions, TEST.targets, skipping.LABELS, grouping)
    assert content["execution"] == {"row": "kept", **execution}
    assert np.array_equal(arrays["execution"], rates)
    members = group_rows(TEST.targets, grouping)
    histogram = layer_histogram(decisions, grouping.names, members)
    assert content["histogram"] == {"row": "kept", **histogram}
    assert [each["group"] for each in content["extremes"]] == ["Latin", "Greek"]
    for each in content["extremes"]:
        for end in ("fewest", "most"):
            assert len(arrays[each[end]["pictures"]]) == len(each[end]["labels"]) == 3
        assert max(each["fewest"]["layers"]) <= min(each["most"]["layers"])
    assert set(arrays) == {"execution", "fewest_0", "most_0", "fewest_1", "most_1"}


def test_attack_of_all_networks(networks, analysed):
    """Figure 5.8: the same pictures for each network, the strengths as asked for."""
    attack = analysed[0]["attack"]
    assert attack["epsilons"] == [0.0, 0.05] and attack["quality"] == 75
    assert list(attack["rows"]) == ["plain", "kept"]
    whole = dataclasses.replace(CONFIG, attacked=30)
    content, _ = analyse_gates(networks[0], skipping.data(TEST), eval_transform, whole, row="kept")
    assert content["attack"]["rows"] == {
        "kept": robustness(networks[0], TEST, eval_transform, CONFIG.epsilons)
    }


def test_gates_under_attack(networks, analysed):
    """Figure 5.9: pictures of one group, before and after."""
    network, found = networks[0], analysed[0]["attack"]["gates"]
    greek = TEST.subset(np.array([i for i, r in enumerate(TEST.targets.tolist()) if 2 in r]))
    images, targets = greek.__getitems__(list(range(len(greek))))
    attacked = fgsm(network, images, targets, 0.047, eval_transform)
    assert found["epsilon"] == 0.047 and found["group"] == "Greek"
    assert found["before"] == recorded(network, images).mean(0).tolist()
    assert found["after"] == recorded(network, 255 * attacked).mean(0).tolist()
    everyone = dataclasses.replace(CONFIG, attacked_group=None, attacked=30, epsilons=(0.0,))
    content, _ = analyse_gates(network, skipping.data(TEST), eval_transform, everyone)
    gates = content["attack"]["gates"]
    assert gates["group"] is None
    assert gates["before"] == recorded(network, torch.from_numpy(TEST.images)).mean(0).tolist()


def test_analysis_repeats_and_can_be_written(networks, analysed, tmp_path):
    gated, plain = networks
    content, arrays = analysed
    again, same = analyse_gates(
        gated, skipping.data(TEST), eval_transform, CONFIG, row="kept", others={"plain": plain}
    )
    assert again == content
    assert all(np.array_equal(same[name], array) for name, array in arrays.items())
    write_json(tmp_path / "analysis.json", content)
    write_arrays(tmp_path / "analysis.npz", arrays)
    assert "NaN" not in (tmp_path / "analysis.json").read_text()


def test_any_device(device):
    data = skipping.data(TEST)
    content, _ = analyse_gates(skipping.network().to(device), data, eval_transform, CONFIG)
    expected, _ = analyse_gates(skipping.network(), data, eval_transform, CONFIG)
    found, wanted = (each["histogram"]["all"]["mean"] for each in (content, expected))
    assert found == pytest.approx(wanted, abs=0.1)
    found, wanted = (each["attack"]["gates"]["after"] for each in (content, expected))
    assert found == pytest.approx(wanted, abs=0.1)


def test_groups():
    space = skipping.LABELS
    assert groups_of(space, None, 1).names == ("Greek", "Latin", "marks")
    assert groups_of(space, None, 2).names == ("Latin", "other")
    assert groups_of(space, "category", 2).names == ("Latin Ll", "Latin Lu", "other")
    without = groups_of(LabelSpace(("a", "b")), None, 1)
    assert without.names == () and without.group_of.tolist() == [-1, -1]


def test_labels_without_a_level():
    test = skipping.dataset([[0], [1]] * 6, space=LabelSpace(tuple("abcdef")))
    config = dataclasses.replace(CONFIG, attacked_group=None)
    content, arrays = analyse_gates(skipping.network(), skipping.data(test), eval_transform, config)
    assert content["execution"]["labels"] == ["a", "b"] and not content["execution"]["groups"]
    assert content["extremes"] == [] and set(arrays) == {"execution"}


def test_many_labels():
    """No gradient or score is kept of more than one batch."""
    labels = 20_000
    space = LabelSpace(
        tuple(map(str, range(labels))), {"k": tuple(str(i % 9) for i in range(labels))}
    )
    test = skipping.dataset([[i * 800] for i in range(25)], space=space)
    network = skipping.network(labels, always_on=["stages.0"])
    content, arrays = analyse_gates(
        network, skipping.data(test), eval_transform, GateAnalysisConfig()
    )
    assert arrays["execution"].shape == (25, 4)
    assert len(content["histogram"]["groups"]) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "block"}, r"level must be one of \['category', 'script'\], got 'block'"),
        ({"attacked_group": "Thai"}, "attacked_group must be one of Greek, .*, got 'Thai'"),
        ({"epsilons": (-0.1,)}, "epsilon must be at least 0"),
        ({"quality": 0}, "quality must be from 1 to 100"),
    ],
)
def test_rejects(networks, changes, message):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ValueError, match=message):
        analyse_gates(networks[0], skipping.data(TEST), eval_transform, config)


def test_rejects_training_mode(networks):
    plain = skipping.network(gated=False).train()
    with pytest.raises(ValueError, match="network must be in evaluation mode"):
        analyse_gates(
            networks[0], skipping.data(TEST), eval_transform, CONFIG, others={"plain": plain}
        )


def test_empty_attacked_group(networks):
    config = dataclasses.replace(CONFIG, attacked_group="marks")
    with pytest.raises(ValueError, match="attacked_group must have test pictures, got 'marks'"):
        analyse_gates(networks[0], skipping.data(TEST), eval_transform, config)


def test_network_without_blocks():
    network = nn.Sequential(nn.Flatten(), nn.Linear(144, 6)).eval()
    with pytest.raises(ValueError, match="must have gates"):
        analyse_gates(network, skipping.data(TEST), eval_transform, CONFIG)
