"""Freed memory is kept for the next block, in a process of its own: it cannot be undone."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, fastheads_bench.allocator
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 100 << 20

def touched(address):  # megabytes of it that the process holds
    inside, held = False, 0
    for line in open("/proc/self/smaps"):
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            begin, end = (int(part, 16) for part in head.split("-"))
            inside = begin <= address < end
        elif inside and head == "Rss:":
            held = int(line.split()[1]) >> 10
    return held

if sys.argv[1] == "keep":
    assert fastheads_bench.allocator.keep_freed_memory()
block = libc.malloc(size)
ctypes.memset(block, 1, size)
assert touched(block + size // 2) >= 100
libc.free(block)
print(touched(block + size // 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_blocks_stay_with_the_process():
    def held(how):
        run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert held("keep") >= 100
    assert held("plain") < 100


def test_other_allocators_are_left_alone(monkeypatch):
    import ctypes

    from fastheads_bench.allocator import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
