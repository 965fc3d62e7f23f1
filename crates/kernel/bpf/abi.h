/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs and user space share: sizes, numbers and layouts. The other side is src/abi.rs; a test
 * there compares every size and offset with the types in the object's BTF.
 */
#ifndef AGENTWALL_ABI_H
#define AGENTWALL_ABI_H

#include "types.h"

/*
 * A policy table (docs/policy-table.md) as the only value of an inner map. Reads are masked, so no
 * check stands between a word and its use; the loader refuses what is longer. The last words are
 * not the table's: they belong to the value, so that table, generation and flags change as one.
 */
#define TABLE_WORDS (1u << 20)
#define TABLE_MASK (TABLE_WORDS - 1)
#define TABLE_GENERATION (TABLE_WORDS - 16) /* low word, high word */
#define TABLE_FLAGS (TABLE_WORDS - 14)
#define TABLE_ROOM (TABLE_WORDS - 16) /* the longest table */

/* Flags of a table. */
#define TABLE_AUDIT 1u /* nothing is refused: what would be is reported */
#define TABLE_INSIDE 2u /* names are those the process sees: the host's names are not asked as well */
#define TABLE_NAMES 4u /* host names are decided: at the session's door */

struct table {
	__u32 words[TABLE_WORDS];
};

/* Kinds of objects, as in the table. */
#define KIND_PATH 0
#define KIND_ENDPOINT 1
#define KIND_HOST 2
#define KIND_SOCKET 3
#define KIND_ABSTRACT 4
#define KIND_NAME 5

/* Verbs, as in the table. */
#define VERB_READ 0
#define VERB_WRITE 1
#define VERB_CREATE 2
#define VERB_DELETE 3
#define VERB_RENAME 4
#define VERB_CHMOD 5
#define VERB_MAP_EXEC 6
#define VERB_EXEC 8
#define VERB_SIGNAL 9
#define VERB_TRACE 10
#define VERB_CONNECT 11
#define VERB_LISTEN 12
#define VERB_SEND 13
#define VERB_IPC 19
#define VERB_DEVICE 20

/* Effects, as in the table. NONE: not decided. */
#define EFFECT_ALLOW 0
#define EFFECT_ISOLATE 1
#define EFFECT_ASK 2
#define EFFECT_RATE_LIMIT 3
#define EFFECT_DENY 4
#define NONE 0xffffffffu

/* A path is written from the end of the buffer to its front; one component may reach beyond it. */
#define TEXT_ROOM 4096
#define TEXT_MASK (TEXT_ROOM - 1)
#define COMPONENT 256
#define SPARE TEXT_ROOM /* where something short may lie meanwhile: a name ends before */

/* One question to a table. The text is work.text[start .. start + len). */
struct question {
	__u32 verb;
	__u32 kind;
	__u32 directory;
	__u32 has_text;
	__u32 start;
	__u32 len;
	__u32 protocol; /* 6 or 17 */
	__u32 port; /* in host order */
	__u32 address_len; /* 0, 4 or 16 */
	__u8 address[16];
};

#define MAX_MARKS 4

/* The answer. layer and rank name the rule; rank NONE: the default. */
struct verdict {
	__u32 effect; /* NONE: not decided */
	__u32 layer;
	__u32 rank;
	__u32 full; /* not decided because something did not fit */
	__u32 marks; /* how many `monitor` rules match; 0 if not decided */
	__u32 mark[MAX_MARKS]; /* the ranks of the first of them, ascending */
};

#define MAX_SETS 24
#define MAX_LISTS 24
#define LINE_WORDS 66 /* words of 64 states, of the longest line */

/*
 * Memory of one task for one decision. It is part of the task's storage and not of a per-CPU map, since
 * a program may be preempted by another task's hook on the same CPU; a task is in one hook at a time.
 */
struct work {
	struct question question;
	struct verdict verdict;
	/* What follows, up to the text, is table.h's own. */
	__u32 has_text, start, len; /* the text that is walked */
	__u64 zero; /* always 0, which the verifier does not know */
	__u32 walk, value, at, left; /* a walk: its number, where it stands, in the table and in the text */
	__u32 slashes; /* in the text; NONE: not counted yet */
	__u32 set_count;
	__u32 sets[MAX_SETS];
	__u32 list_count; /* lists of candidates, being merged */
	__u32 cursor[MAX_LISTS];
	__u32 last[MAX_LISTS];
	__u32 rules, marking; /* of the layer that is asked; whether it is that of the marks */
	__u32 done, decided, floor; /* its rank asked last, and first words of candidates, or NONE */
	__u32 head, refusal, refusals; /* a candidate that negative checks may still refuse */
	__u32 line, steps; /* a line behind its leading bytes */
	__u32 word, side, alive, matched; /* where its walk is, which half of states is now */
	__u32 budget; /* words of states that may still be looked at */
	__u64 states[2][LINE_WORDS];
	__u8 text[TEXT_ROOM + COMPONENT];
};

/* The rest is for the decision core alone (core.bpf.c): many questions in one run. */
#define ASKED 512

/* The program's argument: ask the first `questions` in turn, `times` in all. */
struct ask_args {
	__u32 view;
	__u32 questions;
	__u32 times;
};

/* A question, and what came of it. */
struct asked {
	struct question question;
	struct verdict verdict;
	__u64 generation; /* of the table that answered */
	__u64 count; /* how often it was asked */
	__u8 text[TEXT_ROOM];
};

/* How many decisions, and readings of the clock just before, took so many nanoseconds; the last: or more. */
#define MOST_NS 4096
struct times {
	__u32 decisions[MOST_NS]; /* with one reading of the clock */
	__u32 clock[MOST_NS];
};

#endif
