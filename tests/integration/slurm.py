"""A Slurm of one node, started for tests from the packages slurmctld and slurmd; its daemons run as root."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.free_ports import free_ports
from tests.integration.commands import until

CPUS = 4
"""That Slurm is to give away, whatever the machine has."""
DAEMONS = ("slurmctld", "slurmd")
START_SECONDS = 60.0


def missing() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    absent = [name for name in (*DAEMONS, "sbatch", "srun") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm)"
    return None if os.geteuid() == 0 else "Slurm's daemons need root"


@dataclass(frozen=True)
class Slurm:
    """Where its configuration lies."""

    configuration: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of a user's commands."""
        return os.environ | {"SLURM_CONF": str(self.configuration)}

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints, with what it complains of."""
        done = subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        return done.stdout


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Slurm, ready for jobs, for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    found = Slurm(folder / "slurm.conf")
    found.configuration.write_text(_configuration(folder))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    started = []
    try:
        for name in DAEMONS:
            with open(folder / f"{name}.out", "w") as log:
                command = [str(shutil.which(name)), "-D", "-f", str(found.configuration)]
                started.append(subprocess.Popen(command, stdout=log, stderr=log, env=found.environment))
        until(lambda: re.search(r"\bidle\b", found.ask("sinfo", "--noheader")), _logs(folder), START_SECONDS)
        yield found
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _configuration(folder: Path) -> str:
    host = socket.gethostname().partition(".")[0]
    ports = free_ports(2)
    return f"""\
ClusterName=auricle
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory=1024 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _logs(folder: Path) -> str:
    return f"Slurm's node to be idle; its logs are in {folder}"
