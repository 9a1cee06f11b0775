"""Memory of large results on a CPU is used again, once nothing holds it."""

import subprocess
import sys
import threading

import pytest
import torch

import fastheads
from fastheads.memory import new_empty
from fastheads.ops import sc_linear, sc_sigmoid_loss, sc_sigmoid_loss_reference
from fastheads.ops.sc_linear import sc_linear_reference
from fastheads.targets import SparseTargets

LIMIT = 32 << 20  # bytes; what has more is large
BYTE = torch.empty(0, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def _nothing_idle():
    fastheads.empty_cache()
    yield
    fastheads.empty_cache()


def block(size: int) -> torch.Tensor:
    return new_empty(BYTE, [size])


def changes(call) -> list[int]:
    """The bytes that PyTorch's allocator hands out and, negative, gets back during a call."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]


def test_a_freed_block_is_used_again():
    first = block(LIMIT + 1)
    address = first.data_ptr()
    view = first[100:].view(-1)
    del first
    other = block(LIMIT + 1)  # a view holds the memory of the first
    assert other.data_ptr() != address
    del view
    assert block(LIMIT + 1).data_ptr() == address


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT - 1])
def test_a_block_serves_what_needs_half_of_it(size):
    def call():
        block(2 * LIMIT)
        block(size)

    assert changes(call) == [2 * LIMIT]


@pytest.mark.parametrize("size", [2 * LIMIT - 1, 4 * LIMIT + 1])
def test_what_fits_nothing_gives_all_back_first(size):
    def call():
        freed = block(4 * LIMIT), block(4 * LIMIT)
        del freed
        block(size)

    assert changes(call) == [4 * LIMIT, 4 * LIMIT, -4 * LIMIT, -4 * LIMIT, size]


def test_small_blocks_are_not_kept():
    assert changes(lambda: block(LIMIT)) == [LIMIT, -LIMIT]
    assert changes(lambda: block(LIMIT + 1)) == [LIMIT + 1]


def test_the_smallest_that_suffices_is_taken():
    blocks = {size: block(size * LIMIT) for size in (4, 2, 3)}
    addresses = {size: tensor.data_ptr() for size, tensor in blocks.items()}
    blocks.clear()
    taken = block(2 * LIMIT - 5), block(2 * LIMIT + 5)
    assert [t.data_ptr() for t in taken] == [addresses[2], addresses[3]]


def test_idle_memory_is_given_back_on_demand():
    kept = []

    def call():
        freed = block(2 * LIMIT)
        kept.append(block(3 * LIMIT).fill_(7))
        del freed
        fastheads.empty_cache()

    assert changes(call) == [2 * LIMIT, 3 * LIMIT, -2 * LIMIT]
    assert int(kept[0][-1]) == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_results_have_the_shape_and_dtype_asked_for(dtype):
    like = torch.empty(0, dtype=dtype)
    for size in ([3, 5, 1 << 21], [7], [0, 4], []):
        made, plain = new_empty(like, size), like.new_empty(size)
        assert (made.shape, made.stride(), made.dtype) == (plain.shape, plain.stride(), dtype)
    with torch.inference_mode():
        assert new_empty(like, [1 << 24]).is_inference()


def test_threads_share_the_blocks():
    wrong = []

    def work(mark: int) -> None:
        for _ in range(30):
            mine = block(LIMIT + mark)
            mine[:: 1 << 16] = mark
            wrong.extend([mark] * int((mine[:: 1 << 16] != mark).any()))
            del mine

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_gradients_of_a_training_step_take_the_memory_of_the_last():
    """Also where that is dirty, and where the gradients of two steps add up."""
    torch.manual_seed(0)
    width, rows, labels = 512, 8, (9000, 20_000)  # a gradient of 41 MB
    layer = [0, width, 2 * width], [0, *labels]
    x = torch.randn(rows, 2 * width)
    weight = torch.randn(labels[-1] * width, requires_grad=True)
    targets = SparseTargets.from_lists([[row, labels[0] + row] for row in range(rows)])

    sc_sigmoid_loss_reference(x, weight, None, targets, *layer).backward()
    expected, weight.grad = weight.grad, None
    sc_sigmoid_loss(x, weight, None, targets, *layer).backward()
    torch.testing.assert_close(weight.grad, expected)
    address = weight.grad.data_ptr()
    weight.grad.fill_(torch.nan)
    weight.grad = None
    sc_sigmoid_loss(x, weight, None, targets, *layer).backward()
    assert weight.grad.data_ptr() == address
    torch.testing.assert_close(weight.grad, expected)
    sc_sigmoid_loss(x, weight, None, targets, *layer).backward()
    torch.testing.assert_close(weight.grad, 2 * expected)


def test_operators_write_all_of_a_dirty_block():
    torch.manual_seed(0)
    dirty = block(LIMIT + (1 << 20))
    dirty.view(torch.float32).fill_(torch.nan)
    address = dirty.data_ptr()
    del dirty
    x, weight = torch.randn(70, 8), torch.randn(120_000 * 4)  # 70 x 120,000 logits: 33.6 MB
    y = sc_linear(x, weight, None, [0, 4, 8], [0, 50_000, 120_000])
    assert y.data_ptr() == address
    expected = sc_linear_reference(x, weight, None, [0, 4, 8], [0, 50_000, 120_000])
    torch.testing.assert_close(y, expected)


def test_blocks_may_be_held_at_exit():
    program = """
import torch, fastheads, threading
from fastheads.memory import new_empty
held = new_empty(torch.empty(0), [1 << 24]).fill_(1)
torch.held = held[1:]  # by a module that outlives this one
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
