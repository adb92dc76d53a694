"""A real SSH server on 127.0.0.1, with its own port, keys and configuration: the other computer of `--remote`."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

MODULE = Path(__file__).resolve().parents[2] / "SAM3DSegment"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
ALIAS = "gpu"  # what --remote gets
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd here; Testing/Host/libraries.sh installs it")


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    far = FarComputer(tmp_path_factory.mktemp("far"))
    far.start()
    yield far
    far.stop()


@pytest.fixture
def far(running, monkeypatch):
    """The other computer as it is at first; nothing runs or lies there at the end, but what may be kept."""
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    running.configure()
    yield running
    wait_until(running.is_clean)


@pytest.fixture
def there(run_cli, far):
    """there("segment", ...) -> CompletedProcess of the command with --remote."""

    def run(*arguments):
        done = run_cli(*arguments, "--remote", ALIAS)
        wait_until(far.is_clean)
        return done

    return run


class FarComputer:
    """Its folders, and the environment of a command of ours that is to find it.

    home: where the far side keeps what it may keep; temporary: where it works. near: of the ssh that is run here.
    """

    def __init__(self, folder):
        self.home, self.temporary, self.near = (folder / name for name in ("home", "tmp", "near"))
        self.server = folder / "server"
        for made in (self.home, self.temporary, self.near, self.server):
            made.mkdir(mode=0o700)
        self.key, self.host_key = self.near / "key", self.server / "host_key"
        make_key(self.key)
        make_key(self.host_key)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.authorized = self.server / "authorized_keys"
        self.known = self.near / "known_hosts"
        self.config = self.near / "config"
        self.configure()
        program = self.near / "bin" / "ssh"  # the real one, with our configuration in place of the user's
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.config} "$@"\n')
        program.chmod(0o700)
        self.program = program
        self._sshd = None

    def configure(self):
        """Both sides know each other."""
        self.authorized.write_bytes(self.key.with_suffix(".pub").read_bytes())
        self.know(self.host_key)
        self.config.write_text(
            f"Host {ALIAS}\n  HostName 127.0.0.1\n  Port {self.port}\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known}\n  GlobalKnownHostsFile /dev/null\n  IdentityAgent none\n"
        )

    def know(self, key):
        """Let this be the key by which it is known here."""
        kind, public, *_ = key.with_suffix(".pub").read_text().split()
        self.known.write_text(f"[127.0.0.1]:{self.port} {kind} {public}\n")

    @property
    def command(self):
        """What its shell starts."""
        variables = {
            "PYTHONPATH": MODULE,
            "OMP_NUM_THREADS": 1,
            "TMPDIR": self.temporary,
            **{f"SAM3DSEGMENT_{name}": self.home / name.lower() for name in ("MODELS", "WEIGHTS", "CACHE")},
        }
        given = " ".join(f"{key}={value}" for key, value in variables.items())
        return f"env {given} {sys.executable} -m SAM3DSegmentLib"

    @property
    def environment(self):
        return {
            "PATH": f"{self.program.parent}:{os.environ['PATH']}",
            "SAM3DSEGMENT_REMOTE_COMMAND": self.command,
        }

    def start(self):
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # which sshd wants, and the package's own service makes
        config = self.server / "config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\n"
            f"AuthorizedKeysFile {self.authorized}\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\nMaxStartups 100\n"
        )
        self.log = open(self.server / "log", "wb")  # noqa: SIM115
        self._sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=self.log)
        wait_until(self._listens)

    def stop(self):
        self._sshd.terminate()
        self._sshd.wait()
        self.log.close()

    def processes(self):
        """Those of ours that run there now, known by their cache."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("SAM3DSEGMENT_CACHE") == str(self.home / "cache")
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def is_clean(self):
        """Whether nothing runs there, and nothing is left but what may be kept."""
        return not self.processes() and not list(self.temporary.iterdir())

    def _listens(self):
        assert self._sshd.poll() is None, (self.server / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


def make_key(path):
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def wait_until(condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 120
        time.sleep(0.02)
