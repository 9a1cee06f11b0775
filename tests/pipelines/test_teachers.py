"""What teachers say: eq. 2 of paper 002 by hand and against dense tensors, and who may be one."""

import numpy as np
import pytest
import torch
from torch import nn

from fastheads.data import Normalize
from fastheads.hierarchy import Hierarchy
from fastheads.labels import Grouping
from fastheads.pipelines.teachers import Prepare, Teacher, Teachers
from fastheads.targets import SparseTargets

GROUPING = Grouping(np.array([0, 1, 0, 1, -1, 0, 1, 0]), ("cats", "dogs"))
MEMBERS = [[0, 2, 5, 7], [1, 3, 6]]


def logit(p):
    return torch.tensor(p, dtype=torch.float32).logit()


class Says(nn.Module):
    """The same logits for every picture, plus what the picture's first pixel is."""

    def __init__(self, probabilities):
        super().__init__()
        self.register_buffer("logits", logit(probabilities))

    def forward(self, images):
        assert not self.training
        return self.logits + images[:, 0, 0, :1]


def teacher(name, probabilities, labels, **options):
    return Teacher(name, Says(probabilities), torch.tensor(labels), **options)


CATS = teacher("cats", [0.1, 0.8, 0.3, 0.2], MEMBERS[0])
DOGS = teacher("dogs", [0.6, 0.5, 0.9], MEMBERS[1])
IMAGES = torch.zeros(5, 1, 2, 2)
ASKED = SparseTargets.from_lists([[5], [1], [0, 3, 6], [4], []])


def make(teachers=(CATS, DOGS), grouping=GROUPING, top_k=2, **options):
    return Teachers(teachers, grouping, top_k, device="cpu", **options)


def test_equation_2_by_hand():
    """The vertical of each label asks its teacher; its top 2 stay, everything else is 0."""
    soft = make()(IMAGES, ASKED)
    cats, dogs = {2: 0.8, 5: 0.3}, {1: 0.6, 6: 0.9}
    expected = [cats, dogs, dict(sorted({**cats, **dogs}.items())), {}, {}]
    assert soft.tolist() == [list(row) for row in expected]
    values = [p for row in expected for p in row.values()]
    torch.testing.assert_close(soft.values, torch.tensor(values))


@pytest.mark.parametrize("top_k", [1, 3, 5])
def test_equation_2_against_dense(device, top_k):
    """z*_ij of eq. 2 from whole probability matrices, for verticals smaller than K too."""
    torch.manual_seed(top_k)
    group_of = torch.arange(12) % 3
    group_of[11] = 0  # five labels, four and three
    grouping = Grouping(group_of.numpy(), ("a", "b", "c"))
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(4, int(size))) for size in grouping.sizes]
    given = [
        Teacher(name, network, torch.from_numpy(grouping.members(group)))
        for group, (name, network) in enumerate(zip(grouping.names, networks, strict=True))
    ]
    images = torch.randn(300, 1, 2, 2)  # more than a teacher sees at a time
    rng = np.random.default_rng(0)
    targets = SparseTargets.from_lists(
        [rng.choice(12, rng.integers(0, 4), replace=False).tolist() for _ in range(300)]
    )
    soft = Teachers(given, grouping, top_k, device=device)(images.to(device), targets.to(device))

    expected = torch.zeros(300, 12)
    for row, labels in enumerate(targets.tolist()):
        for group in {int(group_of[label]) for label in labels}:
            with torch.no_grad():
                p = networks[group].cpu()(images[row : row + 1])[0].sigmoid()
            for output in p.argsort(descending=True)[:top_k].tolist():
                expected[row, grouping.members(group)[output]] = p[output]
    got = torch.zeros(300, 12)
    got[soft.row_indices(), soft.indices] = soft.values
    torch.testing.assert_close(got, expected)
    assert all(row == sorted(row) for row in soft.tolist())
    assert not soft.values.requires_grad


def test_outputs_that_the_student_does_not_know():
    cats = teacher("cats", [0.99, 0.1, 0.8, 0.98, 0.3, 0.2], [-1, 7, 0, -1, 5, 2])
    soft = make([cats, DOGS])(IMAGES, SparseTargets.from_lists([[7]]))
    assert soft.tolist() == [[0, 5]]
    torch.testing.assert_close(soft.values, torch.tensor([0.8, 0.3]))


def test_equal_probabilities_rank_by_output():
    dogs = teacher("dogs", [0.5, 0.5, 0.5], MEMBERS[1])
    assert make([CATS, dogs])(IMAGES, SparseTargets.from_lists([[3]])).tolist() == [[1, 3]]


def test_no_row_asks():
    soft = make()(IMAGES[:2], SparseTargets.from_lists([[], [4]]))
    assert soft.tolist() == [[], []]
    assert soft.values.numel() == 0


def test_mass_kept():
    targets = SparseTargets.from_lists([[5], [1], [1]])
    kept = (0.8 + 0.3 + 2 * (0.9 + 0.6)) / (0.1 + 0.8 + 0.3 + 0.2 + 2 * (0.6 + 0.5 + 0.9))
    assert make().mass_kept(IMAGES, targets) == pytest.approx(kept)
    cats = teacher("cats", [0.1, 0.8, 0.3, 0.2, 0.7], [*MEMBERS[0], -1])  # the last does not count
    assert make([cats, DOGS]).mass_kept(IMAGES, targets) == pytest.approx(kept)


def test_fingerprint():
    """Differs with whatever the soft targets depend on."""
    prepare = Prepare(None, 1, Normalize(), Normalize((0.4,)))
    others = [
        make(),
        make(top_k=3),
        make([teacher("cats", [0.1, 0.8, 0.3, 0.20001], MEMBERS[0]), DOGS]),
        make([teacher("cats", [0.1, 0.8, 0.3, 0.2], MEMBERS[0][::-1]), DOGS]),
        make([teacher("cats", [0.1, 0.8, 0.3, 0.2], MEMBERS[0], prepare=prepare), DOGS]),
    ]
    assert len({each.fingerprint for each in others}) == len(others)
    assert make().fingerprint == make().fingerprint
    assert len(make().fingerprint) == 64


NORMALIZE = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_prepare():
    """From gray pictures at 0.5, 0.5 to RGB pictures of another size and normalisation."""
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    prepare = Prepare(8, 3, NORMALIZE, Normalize())
    expected = NORMALIZE(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(prepare(Normalize()(images)), expected)
    assert prepare(Normalize()(images)).dtype == torch.float32
    larger = Prepare(20, 3, NORMALIZE, Normalize())
    flat = torch.full((1, 1, 8, 8), 51, dtype=torch.uint8)
    expected = NORMALIZE(torch.full((1, 3, 20, 20), 51, dtype=torch.uint8))
    torch.testing.assert_close(larger(Normalize()(flat)), expected)


def test_prepare_gray_from_colour():
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]])
    images = colours.to(torch.uint8).view(4, 3, 1, 1)
    gray = Prepare(None, 1, Normalize((0,), (1,)), NORMALIZE)(NORMALIZE(images)).flatten()
    expected = torch.tensor([0.2989, 0.587, 0.114, 90 / 255])
    torch.testing.assert_close(gray, expected, atol=1e-4, rtol=0)


def test_teachers_prepare_their_pictures():
    prepare = Prepare(None, 1, Normalize((0.5,), (0.25,)), Normalize())  # 1 becomes 2
    cats = teacher("cats", [0.1, 0.8, 0.3, 0.2], MEMBERS[0], prepare=prepare)
    soft = make([cats, DOGS], top_k=1)(IMAGES + 1, SparseTargets.from_lists([[0], [1]]))
    torch.testing.assert_close(soft.values, (logit([0.8, 0.9]) + torch.tensor([2.0, 1])).sigmoid())


def test_teachers_need_not_know_what_stands_above_their_labels():
    node = Hierarchy.from_parents([[7], [], [7], [], [], [7], [], []])  # 7 above the other cats
    cats = teacher("cats", [0.1, 0.8, 0.3], MEMBERS[0][:3])
    assert make([cats, DOGS], hierarchy=node)(IMAGES[:1], ASKED.select(torch.tensor([0]))).tolist()
    with pytest.raises(ValueError, match="must have all 4 labels of its vertical, got no output"):
        make([cats, DOGS])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": [DOGS, CATS]}, "in the order of the verticals, got 'dogs' for 'cats'"),
        ({"teachers": [CATS]}, "teachers must be one for each of the 2 verticals, got 1"),
        ({"top_k": 5}, "top_k must be 1 to the 4 labels of the largest vertical, got 5"),
        ({"top_k": 0}, "top_k must be 1 to the 4 labels of the largest vertical, got 0"),
        (
            {"teachers": [CATS, teacher("dogs", [0.5] * 3, [1, 3, 4])]},
            "teacher 'dogs' must have labels of its vertical only, got label 4 from elsewhere",
        ),
        (
            {"teachers": [CATS, teacher("dogs", [0.5] * 4, [1, 3, 6, 3])]},
            "teacher 'dogs' must have one output for a label, got several",
        ),
        (
            {"teachers": [CATS, teacher("dogs", [0.5] * 3, [1, -1, -1])]},
            "'dogs' must have all 3 labels of its vertical, got no output for 3, 6",
        ),
        ({"grouping": Grouping(np.full(3, -1))}, "one for each of the 0 verticals, got 2"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


def test_network_of_other_width():
    cats = Teacher("cats", Says([0.1, 0.2]), torch.tensor(MEMBERS[0]))
    message = r"teacher 'cats' must give 4 logits, one for each of its labels, got \[2\]"
    with pytest.raises(ValueError, match=message):
        make([cats, DOGS])(IMAGES, ASKED)


def test_prepare_error():
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        Prepare(None, 4, Normalize(), Normalize())
