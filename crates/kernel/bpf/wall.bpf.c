/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The wall in the kernel: one program for each LSM hook. A task without a policy leaves each of them after
 * one look at its own storage.
 *
 *   adopt.h      putting running processes under a policy
 *   files.h      opening, names, content, metadata; the decision cache
 *   programs.h   starting programs, mapping code
 *   meant.h      starts that the configuration means
 *   sockets.h    addresses, Unix sockets
 *   processes.h  inheritance, signals, tracing
 *   host.h       what no policy permits
 *   judge.h      from a hook to an answer
 *   path.h       canonical names
 *   table.h      the policy table (docs/policy-table.md)
 */
#include "adopt.h"
#include "files.h"
#include "host.h"
#include "processes.h"
#include "programs.h"
#include "sockets.h"

char LICENSE[] SEC("license") = "GPL";
