"""A Slurm cluster of two nodes on this host, in a folder and on ports of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from conftest import environment, wait_for

INSTALL = "apt-get install slurm-wlm munge"

# Nodes of one CPU, so that two jobs never share one. A requeued job waits for cred_expire before it starts again. What
# is submitted to "urgent" takes the place of a job of "work", which is requeued.
_CONFIGURATION = """\
ClusterName=kd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_min_interval=100000,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=10
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 State=UNKNOWN
PartitionName=work Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def missing() -> list[str]:
    """The programs of a cluster that this machine lacks."""
    return [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    """Its daemons are children of this process, and end with the context.

    Args:
        folder: Gets its configuration, state and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**environment(), "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel_all()
        self._stop()

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands; what it printed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, *states: str) -> dict[str, str]:
        """Nodes of the jobs in these states (all that are there, if none is named), by ``<array>_<task>``."""
        rows = self.run("squeue", "-h", "-r", "-o", "%i %N", *([f"-t{','.join(states)}"] if states else []))
        return {words[0]: "".join(words[1:]) for words in map(str.split, rows.splitlines())}

    def cancel_all(self) -> None:
        """Cancel every job, wait until none is left, and mend the nodes."""
        self.run("scancel", "--user", getpass.getuser())
        wait_for(lambda: not self.jobs())
        self.resume()

    def resume(self) -> None:
        """Take back the nodes that are lost, as one does that registers anew."""
        wait_for(self._are_all_idle)

    def _are_all_idle(self) -> bool:
        states = dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "work", "-o", "%N %T").splitlines())
        for node, state in states.items():
            if state.startswith(("down", "drain")):  # refused if it has come back by itself since
                command = ["scontrol", "update", f"nodename={node}", "state=resume"]
                subprocess.run(command, env=self.environment, capture_output=True, timeout=60)
        return states == {"n1": "idle", "n2": "idle"}

    def _start(self) -> None:
        for name in ("munge", "state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(parents=True)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        munge.chmod(0o711)
        ports = dict(zip(("controller", "first", "second"), _free_ports(3), strict=True))
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        text = _CONFIGURATION.format(folder=self.folder, host=host, user=user, **ports)
        (self.folder / "slurm.conf").write_text(text)
        # Pytest's folders belong to one user alone, which munged by itself would not have.
        files = {name: f"--{name}-file={munge}/{name}" for name in ("key", "log", "pid", "seed")}
        self._daemon("munged", "--foreground", "--force", f"--socket={munge}/socket", *files.values())
        wait_for((munge / "socket").exists)
        self._daemon("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node)
        wait_for(self._answers)
        self.resume()

    def _answers(self) -> bool:
        return subprocess.run(["sinfo"], env=self.environment, capture_output=True).returncode == 0

    def _daemon(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        with open(self.folder / "daemons.log", "ab") as log:
            process = subprocess.Popen([program, *arguments], env=self.environment, stdout=log, stderr=log)
        self._daemons.append(process)

    def _stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
