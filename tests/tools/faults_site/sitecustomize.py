"""Faults injected from inside a process. Python imports this module at start-up if its folder is on PYTHONPATH.

Nothing happens until the file in the variable exists.
    INCEPTION_ZOO_FAULT=raise:FILE   the process with LOCAL_RANK=1 raises an `InjectedFault` at any point
    INCEPTION_ZOO_FAULT=clock:FILE   the clock jumps by the number of seconds in the file

Without such a file:
    INCEPTION_ZOO_FAULT=kill:FOLDER:N   the first process is killed before it changes a file in the folder for the Nth time
"""

import ctypes
import os
import threading
import time
from pathlib import Path

kind, _, path = os.environ.get("INCEPTION_ZOO_FAULT", "").partition(":")
file = Path(path)


class InjectedFault(RuntimeError):  # noqa: N818
    def __init__(self):
        super().__init__("the fault suite asked for this")


def raise_in_the_main_thread():
    while not file.exists():
        time.sleep(0.005)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.main_thread().ident), ctypes.py_object(InjectedFault))


if kind == "raise" and os.environ.get("LOCAL_RANK") == "1":
    threading.Thread(target=raise_in_the_main_thread, daemon=True).start()

if kind == "clock":
    true_time, true_time_ns = time.time, time.time_ns

    def jump():
        return float(file.read_text()) if file.exists() else 0.0

    time.time = lambda: true_time() + jump()
    time.time_ns = lambda: true_time_ns() + int(jump() * 1e9)

if kind == "kill" and os.environ.get("LOCAL_RANK", "0") == "0":
    import kill_hook

    folder, _, number = path.rpartition(":")
    kill_hook.install(folder, int(number))
