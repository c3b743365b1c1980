"""Who runs the parts of a step: processes of this machine, or tasks of a Ray cluster, with equal results.

Decision: Ray (Apache-2.0) is the one adapter, because it runs plain functions with plain arguments on many machines and
nothing of ours has to know. Parts are written to the step's resume folder and the step puts them together, so with several
machines that folder must be a shared file system; on one machine processes are quicker to start (Ray takes seconds and a
gigabyte of memory).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from mmenc.errors import Refused

Calls = Mapping[str, tuple[Any, ...]]
"""Arguments of every call, by the part's key."""
Work = Callable[..., None]
ADVICE = "finished parts are kept: run again, with a lower compute.threads if it happens again"


def here(work: Work, calls: Calls) -> Generator[str]:
    """One after the other in this process; yields the keys as they are done, as all executors do."""
    for key, arguments in calls.items():
        work(*arguments)
        yield key


def processes(step: str, work: Work, calls: Calls, count: int) -> Generator[str]:
    """In `count` processes, which end with this one."""
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))
    try:
        made: dict[Future[None], str] = {pool.submit(work, *a): k for k, a in calls.items()}
        for future in as_completed(made):
            future.result()
            yield made[future]
    except BrokenProcessPool:
        raise Refused(f"{step}: one of its {count} processes was killed (often because memory ran out); {ADVICE}") from None
    finally:
        workers = list((pool._processes or {}).values())  # noqa: SLF001 (a pool has no way to end what is running)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in workers:
            process.kill()
            process.join()


def _begin(parent: int) -> None:
    """A worker leaves signals to the main process, and ends when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ray_tasks(step: str, work: Work, calls: Calls, count: int, address: str) -> Generator[str]:
    """As tasks of a Ray cluster at an address, or of one that lives on this machine as long as the step, with `count` workers."""
    try:
        import ray
    except ModuleNotFoundError:
        raise Refused("compute.executor: ray is not installed; `pip install 'mmenc[ray]'` brings it") from None
    where: dict[str, Any] = (
        {"address": address} if address else {"address": "local", "num_cpus": count, "include_dashboard": False}
    )
    _reach(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(**where, ignore_reinit_error=True, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Refused(f"compute.ray_address: no Ray cluster answers at {address or 'this machine'} ({reason})") from None
    for number, handler in handlers.items():  # Ray puts its own in their place, and the step would not say how it ended
        signal.signal(number, handler)
    try:
        remote = ray.remote(num_cpus=1, max_retries=2)(work)
        waiting = {remote.remote(*arguments): key for key, arguments in calls.items()}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            ray.get(done)
            yield waiting.pop(done)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, Exception) else error from None
    except ray.exceptions.RayError as error:  # a worker crashed, its memory ran out, its node died, the cluster went away
        raise Refused(
            f"{step}: a worker of Ray was killed (often because memory ran out; {type(error).__name__}); {ADVICE}"
        ) from None
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would wait for minutes."""
    host, colon, port = address.rpartition("://")[2].partition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise Refused(f"compute.ray_address: no Ray cluster answers at {address} ({error.strerror or error})") from None
