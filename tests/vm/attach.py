#!/usr/bin/env python3
"""Attaches the programs of a BPF object while a command runs.

    tests/vm/attach.py OBJECT COMMAND...

With libbpf, which Debian's iproute2 brings along; bpftool of Debian 12 loads LSM programs but cannot attach
them. The links end with this process. Exit status: the command's, or 125 when the kernel does not take the
object; libbpf then prints what the verifier said.
"""

import ctypes
import subprocess
import sys


def main(path, command):
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    for function in ("open_file", "next_program"):
        getattr(libbpf, f"bpf_object__{function}").restype = ctypes.c_void_p
    libbpf.bpf_program__attach.restype = ctypes.c_void_p

    def need(pointer, what):
        if not pointer:
            sys.exit(failed(f"{what}: errno {ctypes.get_errno()}"))
        return ctypes.c_void_p(pointer)

    opened = need(libbpf.bpf_object__open_file(path.encode(), None), f"{path} cannot be opened")
    if libbpf.bpf_object__load(opened) != 0:
        return failed(f"{path} cannot be loaded: errno {ctypes.get_errno()}")
    program, attached = None, 0
    while program := libbpf.bpf_object__next_program(opened, ctypes.c_void_p(program)):
        need(libbpf.bpf_program__attach(ctypes.c_void_p(program)), f"{path} cannot be attached")
        attached += 1
    if not attached:
        return failed(f"{path} has no program")
    return subprocess.run(command).returncode


def failed(why):
    print(f"attach: {why}", file=sys.stderr)
    return 125


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
