/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The decision core outside of any hook, for BPF_PROG_TEST_RUN: tests and benchmark. */
#include "abi.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";
