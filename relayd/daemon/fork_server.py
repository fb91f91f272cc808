"""Fork server: a small process that forks workers whenever its supervisor asks for one.

Rule: no thread, no event loop, no config and no secret in it: what it forks is nothing but the loaded program. It lives
as long as its supervisor, and no signal of a terminal or a service manager ends it.

Theory: a process with threads cannot be forked safely, and a supervisor has threads. A program that is started anew for
each worker would take a second each time, share no memory with the others, and be of whatever version lies on disk by
then. So this one is started once, with the supervisor, and loads all that a worker needs. It is their parent: that one
of them has ended is told by the kernel to it alone (wait(2)), and it passes that on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import sys
from typing import NoReturn

from relayd.config.source.own_commit import version_text
from relayd.daemon.capacity import keep_one_heap
from relayd.daemon.worker import run_worker
from relayd.daemon.workers.forking import LARGEST_START, MOST_FDS, Exited, Forked, ForkServerUp
from relayd.daemon.workers.roster import WorkerStart

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(fd: int) -> None:
    """Serve the supervisor at the other end of `fd`, until it is gone."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _call_us("relayd-fork")
    keep_one_heap()  # for all that are forked, too
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # what is loaded is never looked through again, so its pages stay shared
    supervisor = socket.socket(fileno=fd)
    supervisor.send(pickle.dumps(ForkServerUp(pid=os.getpid(), version=version_text())))
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if woken in ready:
            os.read(woken, 4096)
            _tell_ended(supervisor)
        if supervisor.fileno() in ready:
            data, fds, _, _ = socket.recv_fds(supervisor, LARGEST_START, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            if not data:
                return
            try:
                pid = os.fork()
            except OSError as error:  # too many processes, too little memory
                supervisor.send(pickle.dumps(Forked(why=f"no process can be made: {error.strerror or error}")))
            else:
                if not pid:
                    signal.set_wakeup_fd(-1)
                    for old in (supervisor.detach(), woken, wake):
                        os.close(old)
                    _become_worker(pickle.loads(data), fds)
                supervisor.send(pickle.dumps(Forked(pid=pid)))
            for handed in fds:
                os.close(handed)


def _call_us(name: str) -> None:
    """What ps and top call this process; the command line is that of the fork server in all of them."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as comm:  # there may be no /proc
        comm.write(name)


def _tell_ended(supervisor: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError, BrokenPipeError):  # nobody is left; the supervisor is gone
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            supervisor.send(pickle.dumps(Exited(pid=ended[0], code=os.waitstatus_to_exitcode(ended[1]))))


def _become_worker(start: WorkerStart, fds: list[int]) -> NoReturn:
    """Never returns into the fork server's own life."""
    code = 70  # EX_SOFTWARE of sysexits.h
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _call_us("relayd-worker")
        code = run_worker(start, *fds)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
