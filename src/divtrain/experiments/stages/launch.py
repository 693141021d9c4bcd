"""Runs a piece of work in one process a device; here is waited, shown, and passed on what stops it.

A run's other stages stay in the process that the user started: only training is spread.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from divtrain.errors import DivtrainError
from divtrain.experiments.stages.stage import OnProgress, Work, open_fabric
from divtrain.experiments.stages.torchrun import lead
from divtrain.training import leave_group, torchrun_processes
from divtrain.training.interrupt import StopRequest


def launch(
    work: Work, devices: int, accelerator: str, precision: str, on_progress: OnProgress
) -> None:
    """Do the work in this process, in all that torchrun started, or in `devices` new ones here.

    Ctrl-C or SIGTERM here reaches all of them, and they end as the work sees fit. When one fails
    the others are killed: they would wait for it for ever.

    Raises:
        DivtrainError: when this machine has fewer devices; what a process raised; or when one was
            killed.
        KeyboardInterrupt: when the work was stopped.
    """
    if devices == 1:
        work(open_fabric(accelerator, precision), on_progress)
        return
    if devices == torchrun_processes():
        lead(work, accelerator, precision, on_progress)
        return
    open_fabric(accelerator, precision, devices)  # to refuse what is not there
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    context = multiprocessing.get_context("spawn")
    messages = context.SimpleQueue()
    # Pickled here, by value: torch would share the memory of tensors, and with it weights.
    content = pickle.dumps(work)
    common = (content, devices, accelerator, precision, find_free_network_port(), messages)
    processes = [
        context.Process(target=_run, args=(rank, *common), name=f"rank {rank}", daemon=True)
        for rank in range(devices)
    ]
    told, raised = False, []
    failed: tuple[str, int] | None = None
    with StopRequest() as stop:
        try:
            for process in processes:
                process.start()
            while any(process.is_alive() for process in processes):
                if stop.requested and not told:
                    told = True
                    for process in processes:
                        process.terminate()
                failed = next(((p.name, p.exitcode) for p in processes if p.exitcode), None)
                if failed is not None:
                    break
                raised += _show(messages, on_progress)
                time.sleep(0.05)
        finally:
            for process in processes:
                if process.pid is not None:  # it was started
                    process.kill()
                    process.join()
    shown = [*raised, *_show(messages, on_progress)]
    if shown:
        raise shown[0]
    if stop.requested:
        raise KeyboardInterrupt
    failed = failed or next(((p.name, p.exitcode) for p in processes if p.exitcode), None)
    if failed is not None:
        raise DivtrainError(
            f"the training process of {failed[0]} ended with {_ending(failed[1])}; out of memory is"
            " the usual reason for a kill, for anything else it said why above. The same command"
            " goes on from the last saved state"
        )


def _show(messages: "SimpleQueue[Any]", on_progress: OnProgress) -> list[BaseException]:
    """Show what the processes told since, and return what they raised."""
    raised: list[BaseException] = []
    while not messages.empty():
        message = messages.get()
        if isinstance(message, BaseException):
            raised.append(message)
        else:
            on_progress(*message)
    return raised


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def _run(
    rank: int,
    content: bytes,
    devices: int,
    accelerator: str,
    precision: str,
    port: int,
    messages: "SimpleQueue[Any]",
) -> None:
    """Do the work as one of several processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    last = 0.0

    def show(done: int, total: int, detail: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 0.1:
            last = time.monotonic()
            messages.put((done, total, detail))

    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # so that Ctrl-C reaches the process that was started, which passes it on
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    try:
        fabric = open_fabric(accelerator, precision, devices)
        fabric.launch()
        pickle.loads(content)(fabric, show)
        leave_group()
    except KeyboardInterrupt as error:
        leave_group()
        messages.put(KeyboardInterrupt())
        raise SystemExit(0) from error  # all processes agreed to stop
    except DivtrainError as error:
        messages.put(error)
        raise SystemExit(1) from error  # the others may not know
    except Exception:
        time.sleep(1)  # where another failed first, this one is killed before it complains of that
        raise


def _stop_with_parent() -> None:
    """Stop as on SIGTERM when the process that was started is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
