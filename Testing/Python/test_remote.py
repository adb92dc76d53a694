"""`--remote`: how the two ends find each other, and what is told if they do not. The other computer is a real sshd."""

import contextlib
import io
import os
import re
import sys
import threading
import time

import pytest

from conftest import MODULE, MRI
from far_computer import ALIAS, make_key, needs_sshd
from SAM3DSegmentLib import cli
from SAM3DSegmentLib.base.errors import Cancelled, InputError
from SAM3DSegmentLib.base.watch import Watch
from SAM3DSegmentLib.commands.elsewhere import carry_in, command_line
from SAM3DSegmentLib.remote import protocol, ssh
from SAM3DSegmentLib.remote.client import Connection
from SAM3DSegmentLib.remote.parcel import Parcel
from SAM3DSegmentLib.remote.store import Store

# ---- frames


def test_frames_arrive_as_they_were_sent():
    sent = [{"a": 1, "b": "\udce9"}, b"", os.urandom(1000), bytes(protocol.PIECE)]
    stream = io.BytesIO(b"".join(protocol.encode(frame, deflate=True) for frame in sent))
    assert [protocol.read_frame(stream) for _ in sent] == sent
    assert protocol.read_frame(stream) is None


@pytest.mark.parametrize(
    "damaged",
    [
        b"HTTP/1.1 400 Bad Request",
        protocol.encode({"a": 1})[:-1],
        protocol.encode({"a": 1})[:3],
        protocol.encode({"a": 1}).replace(b"}", b"]"),
        protocol.encode({"a": 1}).replace(b'{"a": 1}', b"12345678"),
        b"J\xff\xff\xff\xff",
        protocol.encode(bytes(protocol.PIECE + 1), deflate=True),  # more than a piece may have, once it is unpacked
        b"Z\x00\x00\x00\x04abcd",
    ],
)
def test_anything_else_is_refused(damaged):
    with pytest.raises(protocol.Lost):
        protocol.read_frame(io.BytesIO(damaged))


def test_a_file_that_changed_on_its_way_is_not_taken(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    sent = io.BytesIO()
    outbox = protocol.Outbox(sent, lambda: None)
    protocol.send_file(outbox, tmp_path / "a", "@0/a")
    outbox.close(60)
    sent.seek(0)
    frames = iter(lambda: protocol.read_frame(sent), None)
    assert next(frames) == {"file": "@0/a"}
    received = list(frames)
    assert len(sent.getvalue()) < 10**5
    protocol.receive_file(iter(received).__next__, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    with pytest.raises(protocol.Lost, match="'c' did not arrive as it was sent"):
        protocol.receive_file(iter([b"x", *received]).__next__, tmp_path / "c")


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "@0/../../a", "", ".", "@0/..", "a\0b", None, 3])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="cannot be used on both computers"):
        protocol.place_in(tmp_path, name)


def test_who_sends_can_be_asked_to_stop_while_nobody_reads():
    reader, writer = os.pipe()
    stop = threading.Event()
    outbox = protocol.Outbox(os.fdopen(writer, "wb", buffering=0), Watch(cancelled=stop.is_set).check)

    def send_for_ever():
        with contextlib.suppress(Cancelled):
            while True:
                outbox.send(bytes(protocol.PIECE))

    thread = threading.Thread(target=send_for_ever)
    thread.start()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    os.close(reader)


# ---- what is kept


def test_the_store_gives_back_what_it_got_and_forgets_what_was_used_longest_ago(tmp_path):
    store = Store(tmp_path / "store", limit_bytes=25)
    hashes = [character * 64 for character in "abc"]
    for age, sha256 in enumerate(hashes):
        (tmp_path / sha256).write_bytes(b"0123456789")
        store.keep(sha256, tmp_path / sha256)
        os.utime(store.folder / sha256, (time.time() - 1000 - age,) * 2)
    assert store.take(hashes[2], tmp_path / "again")  # and so it was used last
    store.tidy()
    assert [store.take(sha256, tmp_path / f"taken-{sha256[0]}") for sha256 in hashes] == [True, False, True]
    assert (tmp_path / "again").read_bytes() == b"0123456789"
    assert not store.take("../../etc/passwd", tmp_path / "p")
    assert store.folder.stat().st_mode & 0o777 == 0o700


# ---- the words of a command


def words_of(*arguments, **changes):
    options = cli._parser().parse_args(list(map(str, arguments)))
    parcel = Parcel()
    return command_line(options, changes, carry_in(parcel)), parcel


def test_paths_get_names_there_and_their_own_again_in_what_is_said(d):
    for name in ("v.nrrd", "m.sam3d"):
        (d / name).write_bytes(b"x")
    words, parcel = words_of(
        *("segment", "v.nrrd", "-o", d / "o.nrrd", "--remote", "x", "--strict", "--device", "cpu"),
        model=d / "m.sam3d",
        progress="json",
    )
    assert words[0] == "segment"
    assert {"--strict", "--device=cpu", "--quality=best", "--precision=auto", "--progress=json"} < set(words)
    assert not any("remote" in word for word in words)
    [output] = [word.removeprefix("--output=") for word in words if word.startswith("--output=")]
    assert words[-2:] == ["--", next(name for name, path in parcel.sent.items() if path.name == "v.nrrd")]
    assert parcel.as_here(f"'{words[-1]}' -> '{output}', @77/x") == f"'v.nrrd' -> '{d / 'o.nrrd'}', @77/x"
    assert cli._parser().parse_args(words).model == next(iter(parcel.kept))
    [sent] = [file for file in parcel.description()["files"] if "sha256" in file]
    assert sent["size"] == 1


def test_every_path_of_a_command_is_either_read_or_written():
    """So that a new option is not forgotten: one that is written has to be known as such."""
    from SAM3DSegmentLib.commands import elsewhere

    parser = cli._parser()
    [commands] = [action for action in parser._actions if action.choices]
    found = {}
    for name in ("segment", "complete", "train", "doctor"):
        for action in commands.choices[name]._actions:
            if getattr(action.type, "__name__", "") in ("Path", "PosixPath"):
                found.setdefault(action.dest, []).append(name)
    written = {dest for dest in found if dest in elsewhere._WRITTEN}
    read = {"input", "image", "segmentation", "sam_checkpoint", "config", "data"}
    assert set(found) == written | read | {"table", "page"}  # these are written here


# ---- ssh's own words


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (255, "ssh: Could not resolve hostname gpu: Name or service not known\n", "'gpu' is unknown"),
        (255, "ssh: connect to host gpu port 22: Connection refused\n", "cannot be reached .*Connection refused"),
        (255, "ssh: connect to host gpu port 22: Connection timed out\n", "cannot be reached .*timed out"),
        (255, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n", "not the one"),
        (
            255,
            "No ED25519 host key is known for gpu and you have requested\nHost key verification failed.\n",
            "compare",
        ),
        (255, "me@gpu: Permission denied (publickey).\n", "refused the key"),
        (127, "bash: line 1: sam3dsegment: command not found\n", "no 'sam3dsegment' on 'gpu'.*pip install"),
        (127, "zsh:1: command not found: sam3dsegment\n", "no 'sam3dsegment' on 'gpu'"),
        (2, "sam3dsegment: error: argument COMMAND: invalid choice: 'serve-stdio' (choose from\n", "too old"),
        (1, "Traceback\nModuleNotFoundError: No module named 'numpy'\n", "did not answer .*No module named 'numpy'"),
        (0, "", "did not answer"),
    ],
)
def test_what_ssh_says_is_told_in_one_line_with_the_remedy(code, said, told, monkeypatch):
    monkeypatch.delenv(ssh.COMMAND_VARIABLE, raising=False)
    error = str(ssh.why_not_begun("gpu", code, said))
    assert "\n" not in error
    assert re.search(told, error), error


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "", "a b", "--", " gpu"])
def test_what_could_be_an_option_is_no_host(host):
    with pytest.raises(InputError, match="cannot be the name of a computer"):
        ssh.start(host)


def test_without_ssh_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no `ssh` here"):
        Connection("gpu")


# ---- a real server


def fake_program(path, *lines):
    """A command that writes something else than ours would."""
    path.write_text("import sys\n" + "\n".join(lines))
    return f"{sys.executable} {path}"


OTHER_PROTOCOL = (
    f"sys.path.insert(0, {str(MODULE)!r})",
    "from SAM3DSegmentLib.remote import protocol",
    "sys.stdout.buffer.write(protocol.GREETING + protocol.encode({'protocol': 99, 'program': '9.9'}))",
    "sys.stdout.flush(); sys.stdin.read()",
)


@needs_sshd
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("host", "the computer 'no-such-host.invalid' is unknown"),
        ("port", "cannot be reached .*refused"),
        ("key", "refused the key of this user"),
        ("host key", "is not the one that is known here"),
        ("unknown host key", "is not known here; run `ssh gpu` once"),
        ("program", "there is no '/nowhere/sam3dsegment' on 'gpu'; install it there"),
        ("version", "is too old for --remote; update it there"),
        ("protocol", "SAM3DSegment 9.9 on 'gpu' speaks version 99 of the protocol, and this program version 1"),
        ("crash", "did not answer .*ValueError: broken"),
    ],
)
def test_a_handshake_that_fails_is_one_line(far, tmp_path, monkeypatch, wrong, told):
    host = ALIAS
    if wrong == "host":
        host = "no-such-host.invalid"
    elif wrong == "port":
        far.config.write_text(far.config.read_text().replace(f"Port {far.port}", "Port 1"))
    elif wrong == "key":
        far.authorized.write_text("")
    elif wrong == "host key":
        make_key(tmp_path / "other")
        far.know(tmp_path / "other")
    elif wrong == "unknown host key":
        far.known.write_text("")
    else:
        command = {
            "program": "/nowhere/sam3dsegment",
            "version": "sh -c 'echo \"error: invalid choice: $0\" >&2; exit 2'",
            "protocol": fake_program(tmp_path / "other.py", *OTHER_PROTOCOL),
            "crash": fake_program(tmp_path / "broken.py", "raise ValueError('broken')"),
        }[wrong]
        monkeypatch.setenv(ssh.COMMAND_VARIABLE, command)
    with pytest.raises(InputError, match=told) as caught:
        Connection(host)
    assert "\n" not in str(caught.value)


@needs_sshd
def test_a_handshake_says_what_is_there_whatever_the_shell_says_before(far, monkeypatch):
    monkeypatch.setenv(ssh.COMMAND_VARIABLE, f"echo Welcome; echo to this computer; {far.command}")
    with Connection(ALIAS) as connection:
        hello = connection.hello
    assert (hello["protocol"], hello["program"]) == (protocol.VERSION, cli.__version__)
    assert hello["device"]
    assert min(hello["free_memory"], hello["free_disk"]) > 0


@needs_sshd
def test_the_far_side_takes_no_other_command_and_no_name_outside_of_its_folder(far):
    def ask(words, **more):
        with Connection(ALIAS) as connection:
            connection._outbox.send({"words": words, "detach": False, "files": [], "folders": [], **more})
            return connection._receive_object()

    with pytest.raises(InputError, match="asks for a command that is not known here"):
        ask(["weights", "clear"])
    with pytest.raises(InputError, match="cannot be used on both computers"):
        ask(["segment"], files=[{"name": "../x", "size": 1}])
    with pytest.raises(InputError, match="its disk is full"):
        ask(["segment"], files=[{"name": "@0/x", "size": 10**18}])


@needs_sshd
def test_a_connection_that_is_closed_reads_nothing_more(far):
    """A thread of it would read from the descriptors of the next, which would wait for a greeting for ever."""
    for _ in range(3):
        connection = Connection(ALIAS)
        connection.close()
        assert not any(thread.is_alive() for thread in (*connection._threads, connection._outbox._thread))


@needs_sshd
def test_a_cut_connection_is_one_line_and_nothing_stays_there(far, tmp_path):
    """While files are being sent, of which this end would send more."""
    (tmp_path / "a").write_bytes(os.urandom(10**6))
    parcel = Parcel()
    parcel.send(tmp_path / "a")
    with Connection(ALIAS) as connection:
        connection._outbox.send({"words": ["doctor"], "detach": False, **parcel.description()})
        assert connection._receive_object() == {"need": ["@0/a"]}
        assert list(far.temporary.iterdir())
        connection._process.kill()
        with pytest.raises(InputError, match="the connection to 'gpu' was lost; nothing is left there"):
            connection._receive_object()


@needs_sshd
def test_what_is_wrong_here_is_told_before_anything_is_sent(far, run_cli, d, monkeypatch):
    monkeypatch.setattr(ssh, "start", None)
    (d / "there.nrrd").write_bytes(b"")
    for arguments, told in (
        (("segment", MRI, "-o", "there.nrrd"), "exists already"),
        (("segment", "none.nii", "-o", "o.nrrd"), "does not exist"),
        (("segment", MRI, "-o", "o.nrrd", "--model", "none"), "model 'none' is unknown"),
        (("complete", MRI, MRI, "-o", "there.nrrd"), "exists already"),
        (("train", "--data", d, "-o", "m.sam3d"), "has 0 labelled cases"),
        (("train", "--data", d, "-o", "m.sam3d", "--resume"), "was begun on 'gpu' with --detach"),
    ):
        done = run_cli(*arguments, "--remote", ALIAS)
        assert done.returncode == 1
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
    done = run_cli("train", "--data", d, "-o", "m.sam3d", "--detach")
    assert "--detach is for a training on another computer" in done.stderr
    assert [path.name for path in d.iterdir()] == ["there.nrrd"]
