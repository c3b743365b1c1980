"""The pod of one node: `python -m mmenc.train.node STORE DIGEST`, what the TrainJob of a launcher starts on each.

Decision: this process is what `torchrun` would be. It reads the same variables (PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR,
PET_MASTER_PORT, which Kubeflow Trainer sets), but brings the inputs and the newest state from the store first, and node 0 gives
the checkpoint back after. Exit codes as everywhere: 75 after SIGTERM with the state saved. Other codes than 0 make the launcher
start all nodes anew from the last state, unless a sentence in the store says that this cannot help.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

# Nothing heavy here: the first process of a container ignores SIGTERM until it says otherwise.
from mmenc import stop
from mmenc.cluster import STATE
from mmenc.errors import Refused, Stopped
from mmenc.job import disk_errors

if TYPE_CHECKING:
    from mmenc.train.exchange import Exchange
    from mmenc.train.launch import Meeting

NAMES = ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


def meeting(digest: str) -> Meeting:
    """Where the nodes meet, as Trainer's torch plugin or the user says."""
    from mmenc.train.launch import Meeting

    try:
        nodes, node, address, port = (os.environ[name] for name in NAMES)
        return Meeting(int(nodes), int(node), f"{address}:{int(port)}", digest)
    except (KeyError, ValueError) as error:
        raise Refused(f"{error}: expected {', '.join(NAMES)}, as Kubeflow Trainer sets them for a runtime of torch") from None


def work(exchange: Exchange, folder: Path) -> None:
    """Bring the job, train with the other nodes, deliver."""
    from mmenc.train.group import processes
    from mmenc.train.launch import launch_here
    from mmenc.train.task import Task

    state, at = os.environ.get(STATE), meeting(exchange.digest)
    job = exchange.bring(folder, Path(state) / ".cache" if state else folder / ".cache")
    facts, measured = launch_here(job, Task.of(job), processes(job.recipe.compute), at)
    if at.node == 0:
        measured["processes"]["nodes"] = at.nodes
        exchange.deliver(job, facts, measured)


def main(store: str, digest: str) -> int:
    """Work, and say in one sentence why not."""
    folder = Path(tempfile.mkdtemp(prefix="mmenc.node."))
    try:
        with stop.signals(), disk_errors(folder):
            from mmenc.store import Store, Unreachable
            from mmenc.train.exchange import Exchange
            from mmenc.train.launch import Broken

            exchange = Exchange(Store(store), digest)
            try:
                work(exchange, folder)
            except (Stopped, Broken, Unreachable):
                raise
            except Refused as error:
                exchange.refuse(str(error))
                raise
    except Refused as error:
        print(f"mmenc: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
