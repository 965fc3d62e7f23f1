"""The world of the end-to-end tests: a machine of its own, made from namespaces.

The runner starts itself again in new network, mount, pid and ipc namespaces; an ordinary user also in
a user namespace of their own, where they are root and no second user exists. There the "internet" is the loopback device: the metadata address, an internal server, an unlisted host and an
allowed one are real addresses with real listeners that count every hit, and a name server answers
and records every question. So "nothing was sent" is observed at the destination, not believed from
an exit status; nothing leaves the machine, and an attack that did succeed could not hurt it.

Invariants: the machine's own files stay as they are. An ordinary user exists only in a copy of
passwd and group that is mounted over the real ones inside the namespace.
"""

import http.server
import os
import shutil
import socket
import socketserver
import struct
import subprocess
import threading

METADATA, INTERNAL = "169.254.169.254", "10.0.0.1"
UNLISTED, ALLOWED, RESOLVER = "93.184.216.34", "93.184.216.35", "93.184.216.53"
NAMES = {"evil.test": UNLISTED, "allowed.test": ALLOWED, "internal.test": INTERNAL}
USER_ID = 47110
MARK = "AGENTWALL_E2E_INSIDE"


def enter(script, arguments):
    """Starts the runner again inside its own world, unless this already is the inside; there it is
    the first process and has to bury orphans, so the tests run in a child of it."""
    if os.environ.get(MARK):
        return _as_init() if os.getpid() == 1 else None
    # Inside, process numbers start again from 1; the outer one names the base folder.
    os.environ[MARK] = f"{os.getpid()}{'' if os.getuid() == 0 else '-mapped'}"
    mapped = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    os.execvp("unshare", ["unshare", *mapped, "--net", "--mount", "--pid", "--ipc", "--fork",
                          "--mount-proc", "--kill-child", script, *arguments])


def _as_init():
    """Forks: the child returns, the parent reaps until the child ends and passes its status on."""
    child = os.fork()
    while child:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xff)


def mapped():
    """Whether this world was made by an ordinary user, so that root is only root inside it."""
    return os.environ.get(MARK, "").endswith("-mapped")


class World:
    """Addresses, listeners, users and the staged programs. Use as a context manager."""

    def __init__(self, root, binary):
        self.root, self.binary = root, binary
        homes = "/home" if not mapped() else os.path.expanduser("~")
        self.base = f"{homes}/agentwall-e2e-{os.environ[MARK]}"
        self.stage = f"{self.base}/stage"
        self.hits, self.questions, self.datagrams = [], [], []
        self._servers = []

    def __enter__(self):
        shutil.rmtree(self.base, ignore_errors=True)
        os.makedirs(f"{self.stage}/bin")
        os.chmod(self.base, 0o755)
        self._network()
        self._accounts()
        self._programs()
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
        if not os.environ.get("AGENTWALL_E2E_KEEP"):
            shutil.rmtree(self.base, ignore_errors=True)

    def hit(self, address):
        """How many connections reached this address so far."""
        return sum(1 for where, _ in self.hits if where == address)

    def asked(self, text):
        """How many questions for a name with this text reached the name server so far."""
        return sum(1 for name in self.questions if text in name)

    # ------------------------------------------------------------ building

    def _network(self):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (METADATA, INTERNAL, UNLISTED, ALLOWED, RESOLVER):
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        for address in (METADATA, INTERNAL, UNLISTED, ALLOWED):
            self._serve(_Canary((address, 80), self))
        self._serve(_Datagrams((UNLISTED, 9999), self))
        self._serve(_Names((RESOLVER, 53), self))
        self._mount_over("/etc/resolv.conf", f"nameserver {RESOLVER}\n")

    def _accounts(self):
        for path, line in (
                ("/etc/passwd", f"walled:x:{USER_ID}:{USER_ID}::{self.base}/walled:/bin/bash\n"),
                ("/etc/group", f"walled:x:{USER_ID}:\n")):
            with open(path, encoding="utf-8") as file:
                self._mount_over(path, file.read() + line)

    def _mount_over(self, path, content):
        copy = f"{self.base}/{os.path.basename(path)}"
        with open(copy, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(copy, 0o644)
        subprocess.run(["mount", "--bind", copy, os.path.realpath(path)], check=True)

    def _programs(self):
        """The wall, the agents and a toolchain where every user can run them, whatever folder the
        project was cloned into."""
        shutil.copy(self.binary, f"{self.stage}/bin/agentwall")
        copy_tree(f"{self.root}/.cache/agents/node_modules", f"{self.stage}/agents/node_modules")
        sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, text=True,
                                 capture_output=True, cwd="/").stdout.strip()
        os.makedirs(f"{self.stage}/rust")
        for part in ("bin", "lib", "libexec"):
            if os.path.exists(f"{sysroot}/{part}"):
                copy_tree(f"{sysroot}/{part}", f"{self.stage}/rust/{part}",
                          skip="rustlib/src")
        for name in ("claude", "codex"):
            os.symlink(f"../agents/node_modules/.bin/{name}", f"{self.stage}/bin/{name}")

    def _serve(self, server):
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()


def copy_tree(source, target, skip=None):
    """A copy of hard links where the file system allows it, else of bytes. World-readable."""
    def link(a, b):
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)
    ignore = (lambda folder, names: [n for n in names if f"{folder}/{n}".endswith(skip)]
              ) if skip else None
    shutil.copytree(source, target, symlinks=True, copy_function=link, ignore=ignore)


# ---------------------------------------------------------------- listeners

class _Canary(http.server.ThreadingHTTPServer):
    """Answers HTTP and counts every connection, also one that never says a word."""

    daemon_threads = True

    def __init__(self, address, world):
        self.world = world
        super().__init__(address, _Answer)

    def get_request(self):
        connection, peer = super().get_request()
        self.world.hits.append((self.server_address[0], peer))
        return connection, peer

    def handle_error(self, request, client_address):
        """A client that went away is counted already."""


class _Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        body = f"content of {self.server.server_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET


class _Datagrams(socketserver.UDPServer):
    def __init__(self, address, world):
        self.world = world
        super().__init__(address, None)

    def finish_request(self, request, client_address):
        self.world.datagrams.append(request[0])


class _Names(socketserver.UDPServer):
    """A name server for NAMES and everything below them (RFC 1035, section 4): type A only."""

    def __init__(self, address, world):
        self.world = world
        super().__init__(address, None)

    def finish_request(self, request, client_address):
        query, sock = request
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("ascii", "replace").lower())
            at += 1 + query[at]
        name, (kind,) = ".".join(labels), struct.unpack("!H", query[at + 1:at + 3])
        self.world.questions.append(name)
        address = next((ip for known, ip in NAMES.items()
                        if name == known or name.endswith("." + known)), None)
        answer = b""
        if address and kind == 1:
            answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)
        flags = 0x8180 if address else 0x8183
        head = query[:2] + struct.pack("!HHHHH", flags, 1, 1 if answer else 0, 0, 0)
        sock.sendto(head + query[12:at + 5] + answer, client_address)
