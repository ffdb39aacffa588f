"""Environment of every test process, and what the quick tests leave out.

``pytest -m "not peer"`` is what a contributor runs before each commit. Tests that are marked
``slow`` or ``network`` are left out of it, too, unless the expression names the marker, and modules
whose tests are all marked ``peer`` are not even imported, since importing the frameworks takes
longer than most packages' tests.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("CONVERTER_MAPPINGS", None)  # mapping tables of the person who runs the tests
os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir(), "no-settings-in-tests"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # tests run side by side
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each of hundreds of processes compiles
sys.dont_write_bytecode = False
if hasattr(signal, "SIGHUP"):  # ignored under nohup, also in the commands that tests start
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")  # a slow machine is no failure

_ALL_PEER = re.compile(r"^pytestmark = \[?pytest\.mark\.peer\b", re.MULTILINE)
_NOT_QUICK = ("slow", "network")
_POSIX = frozenset(
    "O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK SIGHUP SIGKILL fork geteuid getuid "
    "mkfifo openpty pread preadv pwrite pwritev sched_getaffinity".split()
)
"""What tests use of `os` and `signal` that Windows lacks."""


def _expression(config: pytest.Config) -> str:
    return str(config.getoption("markexpr"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of modules that the quick tests would deselect completely."""
    if collection_path.suffix == ".py" and "not peer" in _expression(config):
        return bool(_ALL_PEER.search(collection_path.read_text("utf-8"))) or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect slow and network tests from the quick ones, unless the expression names them."""
    expression = _expression(config)
    if "not peer" not in expression:
        return
    left_out = {marker for marker in _NOT_QUICK if marker not in expression}
    others = [item for item in items if left_out & {mark.name for mark in item.iter_markers()}]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def pytest_collection_finish() -> None:
    """Collect less garbage, which takes a tenth of the time otherwise."""
    gc.set_threshold(20_000, 20, 20)


_frozen = 0
_FRAMEWORK = 300
"""Fewer modules than any framework has."""


def pytest_runtest_setup() -> None:
    """Leave the tests and the modules of frameworks, once imported, out of collections."""
    global _frozen
    if len(sys.modules) >= _frozen + _FRAMEWORK:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Skip a test that itself, not the code that it tests, uses what this system lacks."""
    try:
        return (yield)
    except AttributeError as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        is_own = last and "tests" in Path(last.tb_frame.f_code.co_filename).parts
        if is_own and error.name in _POSIX:
            pytest.skip(f"the system has no {error.name}")
        raise
