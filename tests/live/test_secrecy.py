"""What a process has opened stays in it: no core after a crash, and no look into its memory by the same user."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from daemon import control_answer, start, write_tree

# Root may look into everything. So this is a root without any capability, of which the same rules hold as of a user.
PLAIN = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
CORES = (
    "sh",
    "-c",
    'ulimit -S -c "$(ulimit -H -c)" && cd "$0" && exec "$@"',
)  # into the directory that is the next word


def seen(pid: int) -> bool:
    """Whether another process of the same user sees its memory."""
    looked = subprocess.run([*PLAIN, "cat", f"/proc/{pid}/maps"], capture_output=True, check=False)
    return looked.returncode == 0 and bool(looked.stdout)


def dumped(pid: int) -> bool:
    """End a child as a crash does; whether the kernel wrote a core."""
    os.kill(pid, signal.SIGSEGV)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
    return ended.si_code == os.CLD_DUMPED


def test_neither_a_core_nor_another_process_of_the_user_shows_what_is_in_memory(tmp_path: Path) -> None:
    enter = (*PLAIN, *CORES, str(tmp_path))
    other = subprocess.Popen([*enter, "sleep", "600"])
    control = tmp_path / "control.sock"
    daemon = start(write_tree(tmp_path, relay="[server]\nworkers = 2\n"), "--control", str(control), enter=enter)
    try:
        assert seen(other.pid), "this test sees nothing at all"
        workers = [one["pid"] for one in control_answer(control, "status")["status"]["workers"]]
        assert len(workers) == 2
        assert [pid for pid in (daemon.process.pid, *workers) if seen(pid)] == []

        assert not dumped(daemon.process.pid)
        dumped(other.pid)  # whether it does is for the system to say: cores may be off everywhere
        assert list(tmp_path.glob("core*")) in ([], [tmp_path / "core"], [tmp_path / f"core.{other.pid}"])
    finally:
        other.kill()
        other.wait()
        daemon.kill()
