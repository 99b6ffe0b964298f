"""Huge pages for large tensors on CPUs."""

import os

SWITCH = "THP_MEM_ALLOC_ENABLE"  # PyTorch reads this variable before its first allocation


def use_huge_pages() -> None:
    """Let PyTorch ask for huge pages for tensors of 2 MiB and more, unless the user has set the environment variable.

    Otherwise each training step spends a tenth of its time in page faults, as torch returns large tensors to the system
    (docs/speed.md). Only Linux has them, and needs /sys/kernel/mm/transparent_hugepage/enabled to be `madvise` or `always`.
    """
    os.environ.setdefault(SWITCH, "1")
