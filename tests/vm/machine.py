"""The virtual machine: kernel, initramfs, disk, qemu, and the two streams that come out of it.

The guest's root is the host's root folder, read-only over virtio-9p, with an overlay on a disk of its
own: every program of the host is there, the initramfs has busybox and a few modules. Emulation only
(tcg) with two processors: the result does not depend on what the host's processor or hypervisor offers, and what two
programs do at once is done at once.
Nothing of the host can be written but the shared folder, and there is no network card.
"""

import os
import queue
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
QEMU = "qemu-system-x86_64"

# Loaded by the first stage, in this order, each after what it needs. Everything else is loaded on demand.
BOOT_MODULES = ["virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "crc32c_generic",
                "ext4", "virtio_blk"]
# Tests tell by this word of the kernel's command line that they are in the machine.
MARK = "agentwall.vm"
PACKAGES = {QEMU: "qemu-system-x86", "busybox": "busybox-static", "mkfs.ext4": "e2fsprogs",
            "clang": "clang"}


class Broken(Exception):
    """The machine cannot be started; the text says the next step."""


def require(commands):
    """Refuses where a program is missing, with the line that installs all that are."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [c for c in commands if not shutil.which(c, path=path)]
    if missing:
        packages = " ".join(PACKAGES[c] for c in missing)
        raise Broken(f"missing {', '.join(missing)}. Next step, as root: apt-get install -y "
                     f"--no-install-recommends {packages}")


def kernel():
    """The folder of the stock kernel (scripts/vm-kernel says what it does)."""
    found = subprocess.run([os.path.join(ROOT, "scripts", "vm-kernel")], stdout=subprocess.PIPE,
                           text=True)
    if found.returncode != 0:
        raise Broken("there is no kernel to boot; the lines above say the next step")
    return found.stdout.strip().splitlines()[-1]


def read_line(path):
    with open(path, encoding="utf-8") as file:
        return file.readline().strip()


def boot_modules(folder):
    """Paths of the modules of the first stage, in the order of their needs (modules.dep)."""
    base = os.path.join(folder, "lib", "modules", read_line(os.path.join(folder, "release")))
    needs = {}
    with open(os.path.join(base, "modules.dep"), encoding="utf-8") as file:
        for line in file:
            module, _, others = line.partition(":")
            needs[module] = others.split()
    by_name = {os.path.basename(m).split(".")[0].replace("-", "_"): m for m in needs}
    order = []

    def add(module):
        for other in needs[module]:
            add(other)
        if module not in order:
            order.append(module)

    for name in BOOT_MODULES:
        if name in by_name:  # otherwise this kernel has it built in
            add(by_name[name])
    return [os.path.join(base, module) for module in order]


def cpio(entries):
    """An archive of (name, mode, bytes) in the format `newc` (kernel: Documentation/driver-api/
    early-userspace/buffer-format.rst), uncompressed: unpacking costs more than reading."""
    out = bytearray()

    def put(name, mode, data):
        raw = name.encode() + b"\0"
        fields = [put.number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
        put.number += 1
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + raw)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    put.number = 1
    for name, mode, data in entries:
        put(name, mode, data)
    put("TRAILER!!!", 0, b"")
    return bytes(out)


def bytes_of(path):
    with open(path, "rb") as file:
        return file.read()


def static_busybox():
    """The bytes of busybox. An ELF with a program header of type 3 (PT_INTERP, elf(5)) needs libraries."""
    elf = bytes_of(shutil.which("busybox"))
    start, = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    if any(struct.unpack_from("<I", elf, start + size * n)[0] == 3 for n in range(count)):
        raise Broken("busybox is not static. Next step, as root: apt-get install -y busybox-static")
    return elf


def initramfs(folder):
    """busybox, the modules of the first stage, and the first stage."""
    entries = [("bin", stat.S_IFDIR | 0o755, b""), ("modules", stat.S_IFDIR | 0o755, b""),
               ("dev", stat.S_IFDIR | 0o755, b""),
               ("bin/busybox", stat.S_IFREG | 0o755, static_busybox()),
               ("init", stat.S_IFREG | 0o755, bytes_of(os.path.join(HERE, "init")))]
    for number, path in enumerate(boot_modules(folder)):
        entries.append((f"modules/{number:02}-{os.path.basename(path)}", stat.S_IFREG | 0o644,
                        bytes_of(path)))
    return cpio(entries)


class Machine:
    """One start of the machine. `share` is the folder that both sides write: `in`, `out`, the job."""

    def __init__(self, memory, keep=False):
        require([QEMU, "busybox", "mkfs.ext4"])
        self.kernel, self.memory, self.keep = kernel(), memory, keep
        self.release = read_line(os.path.join(self.kernel, "release"))
        self.folder = tempfile.mkdtemp(prefix="run.", dir=os.path.join(ROOT, ".cache", "vm"))
        self.share = os.path.join(self.folder, "share")
        for name in ("in", "out"):
            os.makedirs(os.path.join(self.share, name))
        shutil.copy(os.path.join(HERE, "guest"), os.path.join(self.share, "guest"))
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        if self.keep:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self):
        """Ends qemu; it has nothing to save."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def command(self, serial, more):
        """The command line of qemu, with initramfs and disk made for it."""
        initrd, disk = (os.path.join(self.folder, n) for n in ("initramfs", "disk"))
        with open(initrd, "wb") as file:
            file.write(initramfs(self.kernel))
        with open(disk, "wb") as file:
            file.truncate(8 << 30)  # sparse
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        subprocess.run([shutil.which("mkfs.ext4", path=path), "-q", "-F", "-E",
                        "lazy_itable_init=1,lazy_journal_init=1,nodiscard", disk], check=True)
        escaped = self.share.replace(",", ",,")
        return [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
                "-m", str(self.memory), "-bios", "qboot.rom", "-nic", "none",
                "-kernel", os.path.join(self.kernel, "vmlinuz"), "-initrd", initrd,
                # An oops ends the machine at once; its text is on the console. On a busy host the kernel takes
                # the emulated timer for broken unless it is told not to check. Nobody speculates here, and what kernels
                # do against it takes a fifth of the time.
                "-append", f"console=ttyS0 quiet panic=-1 oops=panic no_timer_check mitigations=off {MARK}",
                "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,"
                "multidevs=remap",
                "-virtfs", f"local,path={escaped},mount_tag=share,security_model=none",
                "-drive", f"file={disk.replace(',', ',,')},format=raw,if=virtio,cache=unsafe",
                "-serial", serial, *more]

    def job(self, text, keep):
        """What the guest does once it is up (tests/vm/guest says in which form); `keep` are folders of the
        host that must stay where they are."""
        modules = os.path.join(self.kernel, "lib", "modules")
        for name, content in (("job", text), ("modules", modules),
                              ("keep", "".join(f"{k}\n" for k in keep))):
            with open(os.path.join(self.share, name), "w", encoding="utf-8") as file:
                file.write(content)

    def shell(self):
        """The caller's terminal becomes the guest's console. Ctrl-A X ends it by force."""
        return subprocess.run(self.command("mon:stdio", [])).returncode

    def lines(self, limit):
        """Starts it and yields (source, line), source `out` or `kernel`, until it is off. Raises
        TimeoutError after `limit` seconds."""
        ours, theirs = socket.socketpair()
        command = self.command("stdio", [
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=out,fd={theirs.fileno()}",
            "-device", "virtserialport,chardev=out,name=agentwall"])
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()],
                                        preexec_fn=not_by_the_terminal)
        theirs.close()
        lines = queue.Queue()

        def read(source, stream):
            with stream:
                for raw in stream:
                    text = raw.decode(errors="replace").rstrip("\r\n")
                    lines.put((source, "".join(c if c.isprintable() or c == "\t" else "?" for c in text)))
            lines.put((source, None))

        readers = [threading.Thread(target=read, args=a, daemon=True)
                   for a in (("out", ours.makefile("rb")), ("kernel", self.process.stdout))]
        for reader in readers:
            reader.start()
        end, open_streams = time.monotonic() + limit, len(readers)
        while open_streams:
            try:
                source, line = lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.stop()
                raise TimeoutError(f"the machine was not off after {limit} s and was stopped") from None
            if line is None:
                open_streams -= 1
            else:
                yield source, line
        self.process.wait()
        ours.close()


def not_by_the_terminal():
    """Ctrl-C is for the runner, which then ends the machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit("this is a part of tests/vm/run")
