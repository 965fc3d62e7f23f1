/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the hooks and user space tell each other: governed tasks, events, objects, grants, counters. The
 * other side is src/wire.rs.
 */
#ifndef AGENTWALL_WIRE_H
#define AGENTWALL_WIRE_H

#include "abi.h"

#define VIEWS 256 /* tables at a time; view 0 is "no policy" */
#define COUNTED_VERBS 32 /* counted per view; the table has fewer */

/* Flags of a task. */
#define TASK_WALL 1u /* belongs to the wall: governed ones may not signal or trace it */
#define TASK_RELEASED 2u /* a person took its policy away: the configuration does not give it one */

/* Why an answer is what it is, beside the rule. */
enum why {
	WHY_RULE = 0,
	WHY_TOO_LONG = 1, /* the name has more than 4095 bytes */
	WHY_TOO_DEEP = 2, /* more components or mounts than are followed */
	WHY_FULL = 3, /* the table's answer did not fit */
	WHY_NO_TABLE = 4, /* the view has no table */
	WHY_RACE = 5, /* names changed all the time while they were read */
	WHY_NAMELESS = 6, /* code that has no name anywhere (memfd) */
	WHY_NEVER = 7, /* no policy permits it: see enum never */
	WHY_WALL = 8, /* the wall's own file or process */
	WHY_GRANT = 9, /* a person said yes */
	WHY_OWN = 10, /* the session's own socket or process */
	WHY_PINNED = 11, /* a folder above something refused: it cannot be moved */
	WHY_FOREIGN = 12, /* a process of another session, or of none */
	WHY_MEANT = 13, /* the configuration means it: a session begins */
	WHY_UNPREPARED = 14, /* the configuration means it, and no policy stands ready */
	WHY_NAMES = 15, /* a name that cannot be decided here: another network namespace, another protocol */
	/* Of the monitor alone: */
	WHY_CALL = 16, /* not decided here: what a call named, for user space to decide on */
	WHY_UNREAD = 17, /* what a call named cannot be read any more */
	WHY_UNSEEN = 18, /* what comes by this way is not seen: see enum unseen */
};

/* Ways to act that the monitor does not see (docs/kernel.md, "The monitor"). */
enum unseen {
	UNSEEN_URING = 1,
	UNSEEN_CALLS = 2, /* system calls of another kind than the kernel's own: 32-bit, x32 */
	UNSEEN_MANY = 3, /* more messages or descriptors in one call than are looked at */
};

/* What no policy permits to a governed task (docs/kernel.md, "Never"). */
enum never {
	NEVER_MOUNT = 1,
	NEVER_NAMESPACE = 2,
	NEVER_BPF = 3,
	NEVER_PERF = 4,
	NEVER_MODULE = 5,
	NEVER_LOCKDOWN = 6,
	NEVER_URING = 7,
	NEVER_KEY = 8,
	NEVER_TERMINAL = 9,
	NEVER_SET_ID = 10,
	NEVER_FAMILY = 11,
	NEVER_FAST_OPEN = 12,
	NEVER_SYSTEM = 13,
	NEVER_CAPABILITY = 14,
};

enum counter {
	COUNT_DECISIONS = 0,
	COUNT_CACHED = 1,
	COUNT_REFUSED = 2,
	COUNT_DROPPED = 3, /* events that found no room */
	COUNT_UNDECIDED = 4, /* refused since it could not be decided */
	COUNT_NO_MEMORY = 5, /* forks refused for want of memory */
	COUNT_GRANTED = 6,
	COUNTERS = 16,
};

/* What an answer is about, so that a person's yes can be bound to it. */
struct identity {
	__u64 ino; /* of an object that is not there yet: its folder's */
	__u64 name; /* of an object that is not there yet: the kernel's hash and length of its name, else 0 */
	__u32 dev; /* as the kernel holds it: major << 20 | minor */
	__u32 protocol;
	__u32 port;
	__u32 pad;
	__u8 address[16];
};

/* What one operation came to: the strictest of its answers, and what that one was about. */
struct answer {
	__u32 effect;
	__u32 verb;
	__u32 layer;
	__u32 rank;
	__u32 why;
	__u32 never;
	__u32 directory;
	__u32 cacheable;
	__u32 marks;
	__u32 granted; /* a grant was used: grant */
	__u64 mount; /* of the object; its name is made again when it is told */
	__u64 dentry; /* 0: it was none of the file system */
	struct identity identity;
};

/* The beginning of an event; the text follows it at once. */
struct event {
	__u64 number; /* ascending without gaps over all CPUs: a hole is a loss */
	__u64 time; /* CLOCK_BOOTTIME, nanoseconds */
	__u64 session;
	__u64 generation;
	struct identity identity;
	__u32 view;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 verb;
	__u32 kind;
	__u32 directory;
	__u32 effect;
	__u32 layer;
	__u32 rank;
	__u32 why;
	__u32 never;
	__u32 audit; /* 1: nothing was refused */
	__u32 marks;
	__u32 address_len;
	__u32 base; /* WHY_CALL: bytes of the text that name a folder; the rest is as the call has it */
	char comm[16];
	__u32 len; /* of the text; 0: there is none */
	__u32 end;
};

/* What a person permitted: this verb, by this session, on this object or endpoint. */
struct grant_key {
	__u64 session;
	struct identity identity;
	__u32 verb;
	__u32 pad;
};

struct grant {
	__u64 until; /* CLOCK_BOOTTIME, nanoseconds; 0: until it is taken back */
	__u64 uses; /* how often yet; 0: any number */
};

/* How far a name is made: path.h. */
struct name_walk {
	__u64 mount;
	__u64 here;
	__u64 root; /* of the mount */
};

/* An open file, as far as opening it is asked about. */
struct opened {
	__u64 mount;
	__u64 dentry;
	__u32 mode;
	__u32 flags;
	__u32 kind; /* its inode's mode */
	__u32 rdev;
};

/* Where the control messages of a received message are. */
struct received {
	__u64 at;
	__u64 len; /* of the first */
	__u64 room; /* of all */
};

/* A governed task. The scratch memory is why it is large. */
struct task {
	__u32 view;
	__u32 flags;
	__u64 session;
	__u64 pointer; /* see as_number() */
	__u64 mount; /* of the object that is asked about */
	__u64 dentry;
	__u64 alias; /* where the note of the object lies that is looked at; read under RCU */
	__u32 noted; /* its flags */
	__u32 unseen; /* a bit for each of enum unseen that was told */
	__u32 held_back; /* what a default said of one of several names */
	__u32 place; /* of the table that this operation is asked of */
	struct opened opened;
	struct received received;
	struct answer answer;
	struct identity identity;
	struct grant_key grant;
	struct event event;
	struct name_walk walk;
	struct work work;
};

/* An object by identity. */
struct object_key {
	__u64 ino;
	__u32 dev; /* as the kernel holds it: major << 20 | minor */
	__u32 zero;
};

#define OBJECT_WALL 1u /* the wall's own: refused to every governed task */
#define OBJECT_PINNED 2u /* a folder above something refused */
#define OBJECT_ALIAS 4u /* has another name that must be asked as well */
#define ALIAS_ROOM 1024

struct object {
	__u32 flags;
	__u32 len;
	__u8 name[ALIAS_ROOM];
};

/* A plain allow of an open, remembered with all that it depends on. */
struct seen {
	__u64 generation;
	__u64 dentry;
	__u64 parent;
	__u64 mount;
	__u64 name; /* hash and length of the last component */
	__u32 view;
	__u32 verbs; /* a bit for each verb */
	__u32 renames;
	__u32 mounts;
};

#endif
