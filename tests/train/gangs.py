"""Several processes that are started and ended together, each of them with devices of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

A_MINUTE = 60


class Gang:
    """A process for each command, of `tritter` or, where it begins with `-m`, of Python."""

    def __init__(self, *commands: Sequence[str], devices: int = 1):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.members = []
        for number, command in enumerate(commands):
            environment = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(len(commands)),
                "JAX_PROCESS_ID": str(number),
            }
            program = [] if command[0] == "-m" else ["-c", "from tritter_jax.cli.main import main; main()"]
            self.members.append(
                subprocess.Popen(
                    [sys.executable, *program, *command],
                    env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.kill()
            member.communicate()

    def finish(self, timeout: float = 240) -> list[tuple[int, str]]:
        """Exit code and standard error of each."""
        ended = [member.communicate(timeout=timeout) for member in self.members]
        return [(member.returncode, error) for member, (_, error) in zip(self.members, ended, strict=True)]
