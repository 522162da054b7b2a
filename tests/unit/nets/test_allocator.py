"""The C library's memory: freed pages stay with the process."""

from __future__ import annotations

import subprocess
import sys

COUNT_FAULTS = """
import ctypes, resource, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of one size everywhere
import torch
from kdpipe.nets.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(32 * 2**20 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

mapped = faults()
if not keep_freed_memory():
    sys.exit("not glibc")
for _ in range(8):  # the heap grows to what is needed
    kept = faults()
print(mapped, kept)
"""


def test_a_tensor_of_the_same_size_again_faults_in_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True)
    if "not glibc" in done.stderr:
        return  # nothing is promised there

    mapped, kept = map(int, done.stdout.split())

    assert mapped > 1000  # 5 x 32 MiB, in pages of 4 to 64 KiB
    assert kept < mapped / 20
