"""What is said of measured lesions, whichever way they come out."""

import pytest

from fastheads.pipelines.lesion_findings import damage, findings, rank_correlation


def analysis(**changes):
    """Three blocks, the second downsampling; whole 0.1, chance 0.9."""
    measured = {
        "chance": 0.9,
        "networks": {"resnet": {"blocks": [{"downsampling": n == 1} for n in range(3)]}},
        "single": {
            "resnet": {"error": [[0.1, 0.5, 0.14]], "whole": [0.1]},
            "vgg": {"error": [[0.9, 0.86]], "whole": [0.1]},
        },
        "many": {"resnet": {"deleted": [1, 2, 4], "error": [[[0.2, 0.2], [0.3, 0.3], [0.5, 0.7]]]}},
        "reorder": {"resnet": {"swaps": [1, 1], "tau": [0.9, 0.5], "error": [0.2, 0.4]}},
        "paths": {"resnet": {"n": 9, "counts": []}},
        "effective": {
            "resnet": {"low": 1, "high": 3, "share_of_gradient": 0.96, "share_of_paths": 0.0045}
        },
    }
    return measured | changes


def found(**changes):
    return {each["key"]: each for each in findings(analysis(**changes), "resnet")}


def test_damage_is_the_part_of_the_way_to_chance():
    assert damage([0.1, 0.5, 0.9], 0.1, 0.9) == pytest.approx([0, 0.5, 1])


def test_findings_that_hold():
    said = found()
    assert list(said) == ["single_mild", "smooth_decay", "short_paths"]
    assert all(each["holds"] is True for each in said.values())
    single = said["single_mild"]["sentence"]
    assert single == (
        "Without one of its 2 blocks that do not downsample the residual network goes 2.5 % of the "
        "way to chance in the median and at most 5 %; all stay below 10 % in 1 of 1 seed; "
        "blocks that downsample take it 50 %; without one of its layers the VGG network goes at "
        "least 95 %."
    )
    decay = said["smooth_decay"]["sentence"]
    assert "from 10 % to 60 % with 4 blocks deleted (rank correlation 1.00)" in decay
    assert (
        "one block more takes it at most 19 % of the way to chance" in decay
    )  # 0.15 of 0.8 a block
    assert decay.endswith("reordered its rank correlation to Kendall's tau is -1.00.")
    assert said["short_paths"]["sentence"] == (
        "Paths of 1 to 3 of 9 blocks carry 96 % of the gradient and are 0.45 % of all paths, whose "
        "mean length is 4.5."
    )


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("single_mild", {"single": {"resnet": {"error": [[0.1, 0.1, 0.3]], "whole": [0.1]}}}),
        ("single_mild", {"single": {"resnet": {"error": [[0.1] * 3], "whole": [0.1]},
                                    "vgg": {"error": [[0.9, 0.7]], "whole": [0.1]}}}),
        ("smooth_decay", {"many": {"resnet": {"deleted": [1, 2], "error": [[[0.1], [0.8]]]}}}),
        ("smooth_decay", {"many": {"resnet": {"deleted": [1, 2], "error": [[[0.2], [0.1]]]}}}),
        ("smooth_decay", {"reorder": {"resnet": {"tau": [0.5, 0.9], "error": [0.2, 0.4]}}}),
        ("short_paths", {"effective": {"resnet": {"low": 3, "high": 5, "share_of_gradient": 0.95,
                                                  "share_of_paths": 0.6}}}),
    ],
)  # fmt: skip
def test_findings_that_do_not_hold(key, changes):
    assert found(**changes)[key]["holds"] is False


def mild(*errors, vgg=None):
    """The finding for one list of errors a seed, of whole networks that err on 0.1."""
    single = {"resnet": {"error": errors, "whole": [0.1] * len(errors)}}
    return found(single=single | ({"vgg": vgg} if vgg else {}))["single_mild"]


def test_every_seed_must_say_so():
    """Section 4.3.1: no removal but of downsampling blocks leads to a noticeable change."""
    small, large = [0.1, 0.9, 0.17], [0.1, 0.1, 0.19]  # 0.08 is a tenth of the way
    assert mild(small, small)["holds"] is True
    assert mild(large, large)["holds"] is False
    undecided = mild(small, large, small)
    assert undecided["holds"] is None and "10 % in 2 of 3 seeds" in undecided["sentence"]
    collapsed, one_spared = [0.83, 0.9], [0.9, 0.8]
    for errors, expected in (
        ([collapsed, collapsed], True),
        ([one_spared, one_spared], False),
        ([collapsed, one_spared], None),
    ):
        assert mild(small, vgg={"error": errors, "whole": [0.1, 0.1]})["holds"] is expected
    assert mild(large, vgg={"error": [collapsed], "whole": [0.1]})["holds"] is False


def test_all_blocks_downsample():
    networks = {"resnet": {"blocks": [{"downsampling": True}] * 3}}
    assert found(networks=networks)["single_mild"]["holds"] is None


@pytest.mark.parametrize("whole", [0.82, 0.92])
def test_network_that_has_learned_next_to_nothing(whole):
    nothing = {"error": [[0.9, 0.9, 0.9]], "whole": [whole]}
    said = found(single={"resnet": nothing})
    for key in ("single_mild", "smooth_decay"):
        assert said[key]["holds"] is None
        assert said[key]["sentence"] == "The whole network is hardly better than chance."
    assert said["short_paths"]["holds"] is True
    said = mild([0.1, 0.9, 0.1], vgg=nothing)
    assert said["holds"] is None and said["sentence"].endswith("VGG network is near chance.")


def test_what_is_not_measured_is_not_said():
    assert list(found(many={}, effective={})) == ["single_mild"]
    single = {"resnet": {"error": [[0.1, 0.5, 0.14]], "whole": [0.1]}}
    assert "VGG" not in found(single=single)["single_mild"]["sentence"]
    assert "Kendall" not in found(reorder={})["smooth_decay"]["sentence"]


def test_rank_correlation_of_a_constant():
    assert rank_correlation([1, 2, 3], [5, 5, 5]) == 0
    assert rank_correlation([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
